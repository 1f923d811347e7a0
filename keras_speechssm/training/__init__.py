"""Training each model: one file a model, holding its losses, its batches and `train_*`."""
