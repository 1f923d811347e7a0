"""One file a metric, and the report."""
