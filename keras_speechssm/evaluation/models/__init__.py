"""Models that metrics use: transcribers, text models, judges, embedders, opinion scores."""
