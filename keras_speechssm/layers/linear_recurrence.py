"""The linear recurrence h_t = a_t * h_{t-1} + b_t, with a gradient written by hand.

Every recurrent layer of Griffin runs it once (arXiv 2402.19427, section 2.4, equation 4).
Differentiating the loop of a framework stores and replays every step. The gradient is itself a
linear recurrence that runs backward in time, so this module states it:

    db_t = dh_t + a_{t+1} * db_{t+1}        da_t = db_t * h_{t-1}        dh_0 = a_1 * db_1

On CPU the sequential scan is faster than the associative form, which does not compile under XLA
on TensorFlow either. On JAX there are other forms for accelerators; see
`keras_speechssm.config.set_recurrence_implementation`.
"""

import functools

import keras
from keras import ops

from keras_speechssm.config import recurrence_implementation


def linear_recurrence(a, b, initial_state=None):
    """Computes `h_t = a_t * h_{t-1} + b_t` along time, accumulated in float32.

    It is differentiable in `a`, `b` and `initial_state` on JAX, TensorFlow and PyTorch.

    Args:
        a: (batch, time, dim), the decay of the state at each step. `time` is at least 1.
        b: (batch, time, dim), the input to the state at each step.
        initial_state: (batch, dim), the state before the first step. Defaults to `None`: zeros.

    Returns:
        The states after each step, float32 (batch, time, dim).

    Raises:
        ValueError: If `a` and `b` do not have the same shape with three axes.

    Example:

    ```python
    import keras
    from keras_speechssm.layers import linear_recurrence

    a = keras.ops.full((1, 4, 2), 0.5)
    h = linear_recurrence(a, keras.ops.ones((1, 4, 2)))  # 1, 1.5, 1.75, 1.875
    last = h[:, -1]
    ```

    Reference:
        De et al. 2024, "Griffin" (arXiv 2402.19427), section 2.4, equation 4.
    """
    if len(a.shape) != 3 or tuple(a.shape) != tuple(b.shape):
        raise ValueError(
            f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}; expected (batch, time, dim) for "
            "both: reshape them."
        )
    a, b = ops.cast(a, "float32"), ops.cast(b, "float32")
    if initial_state is None:
        initial_state = ops.zeros_like(b[:, 0])
    initial_state = ops.cast(initial_state, "float32")
    if a.shape[1] == 1:  # decoding: no loop, and the gradient is automatic
        return a * initial_state[:, None] + b
    backend = keras.backend.backend()
    if backend == "jax":
        return _make_jax_recurrence(recurrence_implementation())(a, b, initial_state)
    # Time is the first axis, so that each step of the scan reads contiguous memory.
    a, b = ops.swapaxes(a, 0, 1), ops.swapaxes(b, 0, 1)
    states = _time_major_recurrence(backend)(a, b, initial_state)
    return ops.swapaxes(states, 0, 1)


@functools.cache
def _time_major_recurrence(backend):
    """Returns the recurrence over arrays (time, batch, dim)."""
    if backend == "torch":
        return _make_torch_recurrence()
    if backend == "tensorflow":
        return _make_tensorflow_recurrence()
    raise ValueError(
        f"linear_recurrence does not support the Keras backend {backend!r}; set KERAS_BACKEND to "
        "jax, tensorflow or torch."
    )


def _jax_scan(a, b, initial_state, reverse):
    """Scans without unrolling: on CPU, 4 steps per iteration take 2 times as long, 16 take 7."""
    import jax

    def step(h, inputs):
        a_t, b_t = inputs
        h = a_t * h + b_t
        return h, h

    # Time is the first axis, so that each step reads contiguous memory.
    inputs = a.swapaxes(0, 1), b.swapaxes(0, 1)
    return jax.lax.scan(step, initial_state, inputs, reverse=reverse)[1].swapaxes(0, 1)


def _jax_associative(a, b, initial_state, reverse):
    import jax

    def join(first, then):
        return first[0] * then[0], then[0] * first[1] + then[1]

    decay, states = jax.lax.associative_scan(join, (a, b), reverse=reverse, axis=1)
    return states + decay * initial_state[:, None]


def _jax_states(implementation, a, b, initial_state, reverse=False):
    import jax

    from keras_speechssm.layers.kernels.linear_recurrence_kernel import recurrence_kernel

    def run(function, **options):
        return functools.partial(function, reverse=reverse, **options)

    on_tpu = run(recurrence_kernel, platform="tpu")
    # XLA cannot partition a kernel over TPUs (jax-ml/jax#38196); over GPUs it is untested.
    distributed = keras.distribution.distribution() is not None
    forms = {
        "auto": dict(
            tpu=run(_jax_associative) if distributed else on_tpu,
            cuda=run(_jax_associative),
            default=run(_jax_scan),
        ),
        "scan": dict(default=run(_jax_scan)),
        "associative": dict(default=run(_jax_associative)),
        "pallas": dict(
            tpu=on_tpu,
            cuda=run(recurrence_kernel, platform="gpu"),
            default=run(recurrence_kernel, interpret=True),
        ),
    }
    return jax.lax.platform_dependent(a, b, initial_state, **forms[implementation])


@functools.cache
def _make_jax_recurrence(implementation):
    import jax
    import jax.numpy as jnp

    states_of = functools.partial(_jax_states, implementation)

    @jax.custom_vjp
    def recurrence(a, b, initial_state):
        return states_of(a, b, initial_state)

    def forward(a, b, initial_state):
        states = states_of(a, b, initial_state)
        return states, (a, states, initial_state)

    def backward(residuals, upstream):
        a, states, initial_state = residuals
        next_a = jnp.concatenate([a[:, 1:], jnp.zeros_like(a[:, :1])], axis=1)
        grad_b = states_of(next_a, upstream, jnp.zeros_like(initial_state), reverse=True)
        previous = jnp.concatenate([initial_state[:, None], states[:, :-1]], axis=1)
        return grad_b * previous, grad_b, a[:, 0] * grad_b[:, 0]

    recurrence.defvjp(forward, backward)
    return recurrence


def _make_torch_recurrence():
    import torch

    def scan(a, b, state, reverse=False):
        states = torch.empty_like(b)
        steps = range(b.shape[0] - 1, -1, -1) if reverse else range(b.shape[0])
        for t in steps:
            state = torch.addcmul(b[t], a[t], state, out=states[t])
        return states

    class Recurrence(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, b, initial_state):
            with torch.no_grad():
                states = scan(a, b, initial_state)
            ctx.save_for_backward(a, states, initial_state)
            return states

        @staticmethod
        def backward(ctx, upstream):
            a, states, initial_state = ctx.saved_tensors
            next_a = torch.cat([a[1:], torch.zeros_like(a[:1])])
            grad_b = scan(next_a, upstream, torch.zeros_like(initial_state), reverse=True)
            previous = torch.cat([initial_state[None], states[:-1]])
            return grad_b * previous, grad_b, a[0] * grad_b[0]

    def recurrence(a, b, initial_state):
        return Recurrence.apply(a.contiguous(), b.contiguous(), initial_state)

    return recurrence


def _make_tensorflow_recurrence():
    """Returns a recurrence that works eagerly, in a graph of unknown length, and in jit_compile.

    It uses `tf.scan` because `ops.scan` needs the length when it builds the graph.
    """
    import tensorflow as tf

    def scan(a, b, initial_state, reverse=False):
        def step(h, inputs):
            a_t, b_t = inputs
            return a_t * h + b_t

        return tf.scan(step, (a, b), initializer=initial_state, reverse=reverse)

    @tf.custom_gradient
    def recurrence(a, b, initial_state):
        states = scan(a, b, initial_state)

        def gradient(upstream):
            next_a = tf.concat([a[1:], tf.zeros_like(a[:1])], axis=0)
            grad_b = scan(next_a, upstream, tf.zeros_like(initial_state), reverse=True)
            previous = tf.concat([initial_state[None], states[:-1]], axis=0)
            return grad_b * previous, grad_b, a[0] * grad_b[0]

        return states, gradient

    return recurrence
