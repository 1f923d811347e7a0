"""Kernels for accelerators, in Pallas. They are imported where they are used, under JAX only."""
