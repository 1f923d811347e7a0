import keras
import numpy as np

from keras_speechssm.layers.dense import PointwiseDense


def test_equals_dense():
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32")
    ours, dense = PointwiseDense(4, activation="gelu"), keras.layers.Dense(4, activation="gelu")
    ours.build(x.shape), dense.build(x.shape)
    ours.set_weights(dense.get_weights())
    result = keras.ops.convert_to_numpy(ours(x))
    np.testing.assert_allclose(result, keras.ops.convert_to_numpy(dense(x)), atol=1e-6)


def test_symbolic_shape_matches():
    inputs = keras.Input((None, 5))
    assert PointwiseDense(4)(inputs).shape == (None, None, 4)
