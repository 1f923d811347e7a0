import keras
import numpy as np
import pytest
from contract import verify_sequence_contract
from keras import ops

from keras_speechssm.layers import TemporalConv1D


def make_layer(width=4):
    keras.utils.set_random_seed(0)
    layer = TemporalConv1D(width)
    layer.build((None, None, 3))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    return layer


@pytest.mark.parametrize("width", [1, 4])
def test_contract(width):
    verify_sequence_contract(make_layer(width), 3)


def test_worked_by_hand():
    layer = make_layer()
    x = np.random.default_rng(1).normal(size=(2, 7, 3)).astype("float32")
    kernel, bias = (ops.convert_to_numpy(w) for w in layer.weights)
    expected = np.zeros_like(x) + bias
    for t in range(7):
        for back in range(min(4, t + 1)):
            expected[:, t] += kernel[3 - back] * x[:, t - back]
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x)), expected, atol=1e-5)


def test_inputs_before_a_hole_meet_those_after_it():
    layer = make_layer()
    x = np.random.default_rng(1).normal(size=(1, 40, 3)).astype("float32")
    real = np.zeros((1, 40), bool)
    real[0, [2, 3, 20, 39]] = True
    outputs = ops.convert_to_numpy(layer(x, padding_mask=real))
    np.testing.assert_allclose(
        outputs[:, real[0]], ops.convert_to_numpy(layer(x[:, real[0]])), atol=1e-6
    )


def test_state_needs_the_number_of_channels():
    with pytest.raises(ValueError, match="build"):
        TemporalConv1D().initial_state(1)


def test_round_trip_of_the_config():
    layer = TemporalConv1D(width=3, dtype="bfloat16")
    assert TemporalConv1D.from_config(layer.get_config()).get_config() == layer.get_config()


def test_width_must_be_positive():
    with pytest.raises(ValueError, match="width"):
        TemporalConv1D(0)
