"""Settings for all tests, and a path on which they share `contract.py` and `tiny_models.py`."""

import os
import sys
from pathlib import Path

# As the package does; Keras' own default is TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import pytest
from hypothesis import settings

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

# The first call of a function compiles it, and a deadline per example would measure that.
settings.register_profile("keras_speechssm", deadline=None)
settings.load_profile("keras_speechssm")

if keras.backend.backend() == "jax":
    import types

    import jax
    import numpy as np
    from keras.src.initializers import random_initializers

    random = random_initializers.random

    def _numpy_draw(name: str, method: str, first: str, second: str):
        def draw(shape, dtype=None, seed=None, **options):
            key = random.draw_seed(seed)
            if isinstance(key, jax.core.Tracer):
                return getattr(random, name)(shape, dtype=dtype, seed=seed, **options)
            range_ = options.get(first, 0.0), options.get(second, 1.0)
            drawn = getattr(np.random.default_rng(np.asarray(key)), method)(*range_, shape)
            return keras.ops.convert_to_tensor(drawn, dtype or keras.config.floatx())

        return name, draw

    # JAX compiles a program for each shape of initial weights, slower than most layers.
    faster = (
        _numpy_draw("normal", "normal", "mean", "stddev"),
        _numpy_draw("truncated_normal", "normal", "mean", "stddev"),
        _numpy_draw("uniform", "uniform", "minval", "maxval"),
    )
    random_initializers.random = types.SimpleNamespace(**vars(random) | dict(faster))

if keras.backend.backend() == "torch":
    import torch

    # Test models are small, and threads that wait for one another slow them down many times.
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        marker = item.get_closest_marker("slow_to_compile")
        if marker and keras.backend.backend() in (marker.args or ("jax", "tensorflow")):
            item.add_marker(pytest.mark.slow)
