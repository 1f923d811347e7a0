"""The forms that are fast on CPU give what the plain ones give."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_speechssm.layers.dense import PointwiseDense, depthwise_conv, make_dense


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


def test_pointwise_dense_equals_dense():
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32")
    ours, dense = PointwiseDense(4, activation="gelu"), keras.layers.Dense(4, activation="gelu")
    ours.build(x.shape), dense.build(x.shape)
    ours.set_weights(dense.get_weights())
    result = keras.ops.convert_to_numpy(ours(x))
    np.testing.assert_allclose(result, keras.ops.convert_to_numpy(dense(x)), atol=1e-6)


def test_pointwise_dense_has_the_symbolic_shape():
    inputs = keras.Input((None, 5))
    assert PointwiseDense(4)(inputs).shape == (None, None, 4)


@pytest.mark.parametrize("dilation", [1, 3])
def test_depthwise_conv_equals_a_loop_over_outputs(dilation):
    rng = np.random.default_rng(0)
    x, taps = rng.normal(size=(2, 12, 5)), rng.normal(size=(3, 5))
    length = 12 - 2 * dilation
    expected = np.zeros((2, length, 5))
    for time in range(length):
        for tap in range(3):
            expected[:, time] += taps[tap] * x[:, time + tap * dilation]
    tensors = [ops.convert_to_tensor(tap, dtype="float32") for tap in taps]
    found = depthwise_conv(ops.convert_to_tensor(x, dtype="float32"), tensors, dilation)
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-5)
