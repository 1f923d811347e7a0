import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from gradient import gradients
from keras import ops

from keras_speechssm.layers import linear_recurrence, set_recurrence_implementation

BATCH, TIME, DIM = 2, 11, 3


def make_problem(time=TIME):
    rng = np.random.default_rng(0)
    a = rng.uniform(0.3, 1.0, (BATCH, time, DIM)).astype("float32")
    b = rng.normal(size=(BATCH, time, DIM)).astype("float32")
    state = rng.normal(size=(BATCH, DIM)).astype("float32")
    upstream = rng.normal(size=(BATCH, time, DIM)).astype("float32")
    return a, b, state, upstream


def weigh(states, upstream):
    return ops.sum(ops.multiply(states, upstream))


def forward_by_hand(a, b, state):
    a, b, h = (np.asarray(value, "float64") for value in (a, b, state))
    states = []
    for t in range(a.shape[1]):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return np.stack(states, axis=1)


def gradients_by_hand(a, b, state, upstream):
    a, b, state, upstream = (np.asarray(v, "float64") for v in (a, b, state, upstream))
    states = forward_by_hand(a, b, state)
    grad_a, grad_b, carried = np.zeros_like(a), np.zeros_like(b), np.zeros_like(state)
    for t in reversed(range(a.shape[1])):
        carried = carried + upstream[:, t]
        grad_b[:, t] = carried
        grad_a[:, t] = carried * (states[:, t - 1] if t else state)
        carried = carried * a[:, t]
    return grad_a, grad_b, carried


@pytest.mark.parametrize("time", [1, 2, TIME])
def test_states(time):
    a, b, state, _ = make_problem(time)
    actual = ops.convert_to_numpy(linear_recurrence(a, b, state))
    np.testing.assert_allclose(actual, forward_by_hand(a, b, state), atol=1e-5)


def test_initial_state_defaults_to_zeros():
    a, b, state, _ = make_problem()
    actual = ops.convert_to_numpy(linear_recurrence(a, b))
    np.testing.assert_allclose(actual, forward_by_hand(a, b, 0 * state), atol=1e-5)


@pytest.mark.parametrize("time", [1, 2, TIME])
def test_gradients_against_a_reverse_scan_by_hand(time):
    a, b, state, upstream = make_problem(time)
    found, _ = gradients(
        lambda a, b, state: weigh(linear_recurrence(a, b, state), upstream), [a, b, state]
    )
    for actual, expected in zip(found, gradients_by_hand(a, b, state, upstream), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_gradients_against_finite_differences():
    problem = make_problem()
    inputs, upstream = problem[:3], problem[3].astype("float64")

    def loss(*values):
        return np.sum(np.sin(forward_by_hand(*values)) * upstream)

    found, _ = gradients(
        lambda *values: weigh(ops.sin(linear_recurrence(*values)), problem[3]), list(inputs)
    )
    rng = np.random.default_rng(1)
    for turn, gradient in enumerate(found):
        direction = rng.normal(size=gradient.shape)
        moved = [list(inputs), list(inputs)]
        for sign, values in zip((1, -1), moved, strict=True):
            values[turn] = inputs[turn].astype("float64") + sign * 1e-6 * direction
        slope = (loss(*moved[0]) - loss(*moved[1])) / 2e-6
        assert np.sum(gradient * direction) == pytest.approx(slope, rel=1e-4, abs=1e-4)


def test_accumulates_in_float32():
    a = np.full((1, 400, 1), 0.99609375)  # exact in bfloat16
    b = np.full((1, 400, 1), 0.0078125)
    states = linear_recurrence(ops.cast(a, "bfloat16"), ops.cast(b, "bfloat16"))
    assert keras.backend.standardize_dtype(states.dtype) == "float32"
    expected = forward_by_hand(a, b, np.zeros((1, 1)))
    np.testing.assert_allclose(ops.convert_to_numpy(states), expected, rtol=1e-5)


def test_gradient_of_an_input_in_bfloat16():
    a, b, state, upstream = make_problem()

    def loss(a):
        low = ops.cast(a, "bfloat16")
        return weigh(linear_recurrence(low, b, state), upstream)

    exact = ops.convert_to_numpy(ops.cast(ops.cast(a, "bfloat16"), "float32"))
    (found,), _ = gradients(loss, [a])
    expected = gradients_by_hand(exact, b, state, upstream)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a mode of TensorFlow")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_by_tensorflow(jit_compile):
    import tensorflow as tf

    a, b, state, upstream = make_problem()

    @tf.function(jit_compile=jit_compile)
    def compute(a, b, state):
        with tf.GradientTape() as tape:
            tape.watch([a, b, state])
            loss = tf.reduce_sum(linear_recurrence(a, b, state) * upstream)
        return tape.gradient(loss, [a, b, state])

    found = compute(*(tf.constant(value) for value in (a, b, state)))
    for actual, expected in zip(found, gradients_by_hand(a, b, state, upstream), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((2, 3, 4), (2, 4, 4))])
def test_shapes_must_match(shapes):
    with pytest.raises(ValueError, match="reshape"):
        linear_recurrence(np.ones(shapes[0]), np.ones(shapes[1]))


on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="forms that JAX alone has")


@pytest.fixture
def implementation(request):
    set_recurrence_implementation(request.param)
    yield request.param
    set_recurrence_implementation("auto")


@on_jax
@pytest.mark.parametrize("implementation", ["scan", "associative", "pallas"], indirect=True)
@pytest.mark.parametrize("time", [2, TIME, 300])  # 300 is more than one block of the kernel
def test_every_form_gives_the_same_states_and_gradients(implementation, time):
    problem = make_problem(time)
    states = ops.convert_to_numpy(linear_recurrence(*problem[:3]))
    np.testing.assert_allclose(states, forward_by_hand(*problem[:3]), atol=1e-5)
    found, _ = gradients(
        lambda *values: weigh(linear_recurrence(*values), problem[3]), list(problem[:3])
    )
    for actual, expected in zip(found, gradients_by_hand(*problem), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@on_jax
@pytest.mark.parametrize("platform", ["tpu", "gpu"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(2, 11, 3), (1, 300, 130)])
def test_both_forms_of_the_kernel(platform, reverse, shape):
    from keras_speechssm.layers.kernels.linear_recurrence_kernel import recurrence_kernel

    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.3, 1.0, shape), rng.normal(size=shape)
    state = rng.normal(size=(shape[0], shape[2]))
    turn = slice(None, None, -1 if reverse else 1)
    expected = forward_by_hand(a[:, turn], b[:, turn], state)[:, turn]
    inputs = [value.astype("float32") for value in (a, b, state)]
    found = recurrence_kernel(*inputs, reverse, platform, interpret=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@on_jax
@pytest.mark.parametrize(
    ("platform", "expected"),
    [("tpu", "tpu_custom_call"), ("cuda", "triton"), ("cpu", "stablehlo.while")],
)
def test_kernel_is_lowered_for_its_platform(platform, expected):
    import jax

    form = "pallas" if platform == "cuda" else "auto"
    set_recurrence_implementation(form)
    try:
        shapes = [jax.ShapeDtypeStruct((2, 64, 256), "float32")] * 2
        traced = jax.jit(jax.grad(lambda a, b: linear_recurrence(a, b).sum())).trace(*shapes)
    finally:
        set_recurrence_implementation("auto")
    assert expected in traced.lower(lowering_platforms=(platform,)).as_text()


@on_jax
def test_no_kernel_where_keras_distributes_over_tpus(monkeypatch):
    import jax

    shapes = [jax.ShapeDtypeStruct((2, 64, 256), "float32")] * 2

    def lowered():
        traced = jax.jit(lambda a, b: linear_recurrence(a, b)).trace(*shapes)
        return traced.lower(lowering_platforms=("tpu",)).as_text()

    assert "tpu_custom_call" in lowered()
    monkeypatch.setattr(keras.distribution, "distribution", lambda: "some")
    assert "tpu_custom_call" not in lowered()


@on_jax
def test_kernel_on_many_devices_stays_sharded():
    code = (
        "import jax, numpy as np\n"
        "from jax.sharding import NamedSharding, PartitionSpec as P\n"
        "from keras_speechssm.layers import linear_recurrence, set_recurrence_implementation\n"
        "rng = np.random.default_rng(0)\n"
        "a, b = rng.uniform(0.3, 1, (2, 8, 20, 256)).astype('float32')\n"
        "loss = jax.jit(jax.value_and_grad(lambda a, b: (linear_recurrence(a, b) ** 2).sum()))\n"
        "expected = loss(a, b)\n"
        "set_recurrence_implementation('pallas')\n"
        "from jax.sharding import Mesh\n"
        "mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ('data', 'model'))\n"
        "spread = NamedSharding(mesh, P('data', None, 'model'))\n"
        "inputs = jax.device_put((a, b), spread)\n"
        "loss = jax.jit(jax.value_and_grad(lambda a, b: (linear_recurrence(a, b) ** 2).sum()))\n"
        "found = loss(*inputs)\n"
        "np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)\n"
        "np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-4)\n"
        "assert found[1].sharding.is_equivalent_to(spread, 3), found[1].sharding\n"
        "assert 'all-gather' not in loss.lower(*inputs).compile().as_text()\n"
    )
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "KERAS_BACKEND": "jax",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match="choose one of"):
        set_recurrence_implementation("parallel")
