"""Benchmarks to run on your own hardware: `speechssm bench`."""
