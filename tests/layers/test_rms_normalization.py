import numpy as np
from keras import ops

from keras_speechssm.layers.rms_normalization import RMSNormalization


def test_worked_by_hand():
    layer = RMSNormalization()
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype("float32")
    layer.build(x.shape)
    layer.scale.assign(np.linspace(-1, 1, 8))
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (1 + np.linspace(-1, 1, 8))
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x)), expected, atol=1e-5)
    assert RMSNormalization.from_config(layer.get_config()).epsilon == layer.epsilon
