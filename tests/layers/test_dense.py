"""A quantized projection of one token gives what it gives among others."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_speechssm.layers.dense import make_dense


@pytest.mark.parametrize("mode", [None, "int8"])
def test_a_single_row_gives_what_it_gives_among_others(mode):
    keras.utils.set_random_seed(0)
    dense = make_dense(24, "dense", "float32")
    x = np.random.default_rng(0).normal(size=(3, 1, 16)).astype("float32")
    dense.build(x.shape)
    exact = ops.convert_to_numpy(dense(x))
    if mode is not None:
        dense.quantize(mode)
    together = ops.convert_to_numpy(dense(x))
    alone = np.concatenate([ops.convert_to_numpy(dense(row[None])) for row in x])
    assert alone.shape == together.shape == (3, 1, 24)
    np.testing.assert_allclose(alone, together, atol=1e-6)
    np.testing.assert_allclose(alone, exact, atol=0.1)
    assert mode is None or not np.array_equal(alone, exact)
