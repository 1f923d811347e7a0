"""Pallas kernels for accelerators. They are imported where they are used, on JAX only."""
