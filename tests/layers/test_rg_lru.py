import keras
import numpy as np
import pytest
from contract import verify_sequence_contract
from gradient import gradients
from keras import ops

from keras_speechssm.layers import RGLRU


def make_layer(**kwargs):
    keras.utils.set_random_seed(0)
    return RGLRU(width=8, num_heads=2, **kwargs)


@pytest.mark.slow_to_compile
def test_contract():
    verify_sequence_contract(make_layer(), 8)


def worked_by_hand(layer, x, starts):
    """Equations 1-4 of the paper, one step at a time in float64."""
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    values = [np.asarray(ops.convert_to_numpy(w), "float64") for w in layer.input_gate.weights]
    decay = [np.asarray(ops.convert_to_numpy(w), "float64") for w in layer.a_gate.weights]
    softplus = np.log1p(np.exp(ops.convert_to_numpy(layer.a_param).astype("float64")))
    h, states = np.zeros((len(x), 8)), []
    for t in range(x.shape[1]):
        heads = x[:, t].reshape(len(x), 2, 4).astype("float64")
        gates = [
            sigmoid(np.einsum("bhi,hij->bhj", heads, kernel) + bias).reshape(len(x), 8)
            for kernel, bias in (values, decay)
        ]
        a = np.exp(-8 * gates[1] * softplus)
        multiplier = np.sqrt(1 - a**2)
        if t in starts:
            a, multiplier = np.zeros_like(a), np.ones_like(a)
        h = a * h + multiplier * gates[0] * x[:, t]
        states.append(h)
    return np.stack(states, axis=1)


def test_equations_of_the_paper():
    layer = make_layer()
    x = np.random.default_rng(0).normal(size=(2, 9, 8)).astype("float32")
    resets = np.zeros((2, 9), bool)
    resets[:, 5] = True
    expected = worked_by_hand_after_build(layer, x)
    actual = ops.convert_to_numpy(layer(x, reset_mask=resets))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def worked_by_hand_after_build(layer, x):
    layer.build(x.shape)
    return worked_by_hand(layer, x, starts={0, 5})


def test_initial_decay_lies_in_its_range():
    layer = RGLRU(width=4096, num_heads=4)
    layer.build((1, 1, 4096))
    decay = np.exp(-np.log1p(np.exp(ops.convert_to_numpy(layer.a_param).astype("float64"))))
    assert 0.8999 < decay.min() < 0.905 and 0.995 < decay.max() < 0.9991


def test_gate_initialization_counts_all_blocks():
    layer = RGLRU(width=256, num_heads=4)
    layer.build((1, 1, 256))
    assert np.std(ops.convert_to_numpy(layer.a_gate.kernel)) == pytest.approx(1 / 16, rel=0.05)


def test_gates_and_state_stay_float32_in_bfloat16():
    layer = make_layer(dtype="bfloat16")
    x = np.random.default_rng(0).normal(size=(1, 6, 8)).astype("float32")
    y, state = layer.advance(ops.cast(x, "bfloat16"), layer.initial_state(1))
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(state["recurrent"].dtype) == "float32"
    assert {keras.backend.standardize_dtype(w.dtype) for w in layer.weights} == {"float32"}
    exact = make_layer()
    exact.build(x.shape)
    exact.set_weights(layer.get_weights())
    rounded = ops.convert_to_numpy(ops.cast(ops.cast(x, "bfloat16"), "float32"))
    _, expected = exact.advance(ops.convert_to_tensor(rounded), exact.initial_state(1))
    np.testing.assert_allclose(
        ops.convert_to_numpy(state["recurrent"]),
        ops.convert_to_numpy(expected["recurrent"]),
        atol=1e-6,
    )


def test_mixed_precision_trains_the_decays_that_it_generates_with():
    layer = RGLRU(64, 1, dtype="mixed_bfloat16")
    x = keras.random.normal((2, 30, 64), seed=1, dtype="bfloat16")
    whole = ops.convert_to_numpy(ops.cast(layer(x), "float32"))
    steps, _ = layer.advance(x, layer.initial_state(2))
    steps = ops.convert_to_numpy(ops.cast(steps, "float32"))
    np.testing.assert_allclose(steps, whole, rtol=1e-2, atol=1e-5)
    # Outputs are rounded to bfloat16, so few may differ at all; with rounded decays most do.
    assert (steps != whole).mean() < 0.02


def test_gradient_stays_finite_when_nothing_is_forgotten():
    layer = make_layer()
    x = np.random.default_rng(0).normal(size=(1, 4, 8)).astype("float32")
    layer.build(x.shape)
    layer.a_param.assign(np.full((8,), -60.0, "float32"))  # a rounds to exactly 1
    found, parameters = gradients(lambda x: ops.sum(layer(x)), [x], layer.trainable_variables)
    assert all(np.isfinite(gradient).all() for gradient in (*found, *parameters))


def test_round_trip_of_the_config():
    layer = RGLRU(width=8, num_heads=2, min_decay=0.5, max_decay=0.9)
    assert RGLRU.from_config(layer.get_config()).get_config() == layer.get_config()


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="num_heads"):
        RGLRU(width=8, num_heads=3)
