"""Metrics as pure functions: arrays or strings in, numbers out."""
