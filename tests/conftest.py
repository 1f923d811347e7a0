"""Puts this folder on the path, so that tests share `contract.py`; settings of libraries."""

import os
import sys
from pathlib import Path

# As the package does; Keras' own default is TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras  # noqa: E402
from hypothesis import settings  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

# The first call of anything compiles; a deadline for each example would measure that.
settings.register_profile("keras_speechssm", deadline=None)
settings.load_profile("keras_speechssm")

if keras.backend.backend() == "torch":
    import torch

    # Tests are small: threads that wait for one another make them many times slower.
    torch.set_num_threads(1)
