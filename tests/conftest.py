"""Settings for all tests, and a path on which they share `contract.py` and `tiny_models.py`."""

import os
import sys
from pathlib import Path

# As the package does; Keras' own default is TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
from hypothesis import settings

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

# The first call of a function compiles it, and a deadline per example would measure that.
settings.register_profile("keras_speechssm", deadline=None)
settings.load_profile("keras_speechssm")

if keras.backend.backend() == "torch":
    import torch

    # Test models are small, and threads that wait for one another slow them down many times.
    torch.set_num_threads(1)
