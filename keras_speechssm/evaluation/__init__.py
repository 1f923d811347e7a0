"""The evaluation of the paper: metrics, the models they need, and studies."""
