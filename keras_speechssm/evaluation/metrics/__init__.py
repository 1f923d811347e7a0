"""Metrics: pure functions of arrays and strings."""
