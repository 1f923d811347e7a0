"""Models that the metrics need: transcribers, text models, judges, and embedders."""
