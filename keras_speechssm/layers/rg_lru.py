"""The real-gated linear recurrent unit of Griffin, and the block-diagonal layer of its gates."""

import keras
from keras import ops

from keras_speechssm.layers.linear_recurrence import linear_recurrence
from keras_speechssm.layers.padding import mask_padding
from keras_speechssm.layers.rematerialization import rematerialize

_DECAY_SHARPNESS = 8.0
"""The constant c of the paper."""

_MAX_SQRT_GRADIENT = 1000.0
"""Bound of the gradient of sqrt(1 - a^2), which is infinite at a = 1."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class BlockDiagonalDense(keras.layers.Layer):
    """A dense layer with a block-diagonal kernel: each head mixes its own channels only.

    It is one batched matrix product over heads. The same sum as an `EinsumDense` with the heads
    last takes XLA on CPU five times as long at a batch of 8.

    Its weights are `kernel` (heads, width / heads, width / heads) and `bias` (heads, width /
    heads).

    Args:
        width: Dimension of the input and of the output.
        num_heads: Number of blocks; must divide `width`.

    Call arguments:
        x: (batch, time, width).

    Returns:
        (batch, time, width).

    Example:

    ```python
    import keras
    from keras_speechssm.layers import BlockDiagonalDense

    y = BlockDiagonalDense(width=8, num_heads=2)(keras.random.normal((2, 10, 8)))  # (2, 10, 8)
    ```

    Reference:
        De et al. 2024, "Griffin" (arXiv 2402.19427), section 2.4.
    """

    def __init__(self, width: int, num_heads: int, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.num_heads = num_heads

    def build(self, input_shape):
        block = self.width // self.num_heads
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.num_heads, block, block),
            # As in the reference, the fan-in is `width` and not `width / num_heads`.
            initializer=keras.initializers.RandomNormal(stddev=self.width**-0.5),
        )
        self.bias = self.add_weight(name="bias", shape=(self.num_heads, block), initializer="zeros")

    def call(self, x):
        batch, time, _ = ops.shape(x)
        block = self.width // self.num_heads
        heads = ops.swapaxes(ops.reshape(x, (batch * time, self.num_heads, block)), 0, 1)
        mixed = ops.swapaxes(ops.matmul(heads, self.kernel), 0, 1) + self.bias
        return ops.reshape(mixed, (batch, time, self.width))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "num_heads": self.num_heads}


@keras.saving.register_keras_serializable(package="keras_speechssm")
class RGLRU(keras.layers.Layer):
    """Real-gated linear recurrent unit: a diagonal recurrence with an input-dependent decay.

        r_t = sigmoid(W_a x_t + b_a)          i_t = sigmoid(W_x x_t + b_x)
        log a_t = -8 r_t softplus(Lambda)     h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t x_t)

    W_a and W_x are block-diagonal, with one block per head. Gates, decay and state are float32 in
    any dtype policy: in bfloat16 a decay of 0.999 rounds to 1, and the state would never decay.
    The first real token of a sequence or packed document resets the state: there a = 0, and the
    factor sqrt(1 - a^2) is 1.

    It is a `StreamingLayer` with the state `{"recurrent": float32 (batch, width), "started": bool
    (batch,)}`. `started` is whether there has been a real token.

    Args:
        width: Dimension of the input, of the state and of the output.
        num_heads: Number of blocks of the gates; must divide `width`.
        min_decay: Lower end of the range of the initial |a| = exp(-softplus(Lambda)). Defaults to
            `0.9`.
        max_decay: Upper end of that range. Defaults to `0.999`.

    Raises:
        ValueError: If `num_heads` does not divide `width`.

    Call arguments:
        x: (batch, time, width).
        padding_mask: bool (batch, time), `True` at real positions; `None` if all are real.
        reset_mask: bool (batch, time), `True` at the first token of each packed document.

    Returns:
        (batch, time, width) in the compute dtype; at padding, the state before it.

    Example:

    ```python
    import keras
    from keras_speechssm.layers import RGLRU

    layer = RGLRU(width=8, num_heads=2)
    y = layer(keras.random.normal((2, 10, 8)))
    y, state = layer.advance(keras.random.normal((2, 3, 8)), layer.initial_state(2))
    ```

    Reference:
        De et al. 2024, "Griffin" (arXiv 2402.19427), section 2.4, equations 1 to 4.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        min_decay: float = 0.9,
        max_decay: float = 0.999,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_heads < 1 or width % num_heads:
            raise ValueError(
                f"width is {width} and num_heads {num_heads}; choose num_heads that divides width, "
                "since the gates have one block per head."
            )
        self.width = width
        self.num_heads = num_heads
        self.min_decay = min_decay
        self.max_decay = max_decay
        shape = {"width": width, "num_heads": num_heads, "dtype": "float32"}
        self.input_gate = BlockDiagonalDense(**shape, name="input_gate")
        self.a_gate = BlockDiagonalDense(**shape, name="a_gate")

    def build(self, input_shape):
        self.input_gate.build((None, None, self.width))
        self.a_gate.build((None, None, self.width))
        self.a_param = self.add_weight(
            name="a_param",
            shape=(self.width,),
            initializer=self._initial_a_param,
            dtype="float32",
            autocast=False,  # otherwise `call`, but not `advance`, would round it to bfloat16
        )

    def _initial_a_param(self, shape, dtype=None):
        # Uniform in the area of the ring between the two radii; the inverse of softplus.
        low, high = self.min_decay**2, self.max_decay**2
        area = keras.random.uniform(shape, low, high, dtype="float32")
        return ops.log(ops.expm1(-0.5 * ops.log(area)))

    def initial_state(self, batch_size: int) -> dict:
        """Returns the state before any token; see the class for its structure."""
        return {
            "recurrent": ops.zeros((batch_size, self.width), dtype="float32"),
            "started": ops.zeros((batch_size,), dtype="bool"),
        }

    def call(self, x, padding_mask=None, reset_mask=None):
        return self._run(x, None, padding_mask, reset_mask)[0]

    def advance(self, x, state, padding_mask=None, reset_mask=None):
        """Processes the next chunk, of any length; returns its outputs and the new state."""
        if not self.built:
            self.build(x.shape)
        outputs, states = self._run(x, state, padding_mask, reset_mask)
        started = ops.logical_or(state["started"], _any_real(x, padding_mask))
        return outputs, {"recurrent": states[:, -1], "started": started}

    def _run(self, x, state, padding_mask, reset_mask):
        if padding_mask is not None:
            padding_mask = ops.cast(padding_mask, "bool")
        reset = _resets(x, state, padding_mask, reset_mask)[..., None]
        x = ops.cast(mask_padding(x, padding_mask), "float32")
        a, b = rematerialize(
            _decay_and_input,
            x,
            self.input_gate(x),
            self.a_gate(x),
            reset,
            ops.cast(self.a_param, "float32")[None, None],
        )
        if padding_mask is not None:  # x and b are zero there: the state does not change
            a = ops.where(padding_mask[..., None], a, 1.0)
        states = linear_recurrence(a, b, None if state is None else state["recurrent"])
        return ops.cast(states, self.compute_dtype), states

    def compute_output_spec(self, x, padding_mask=None, reset_mask=None):
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "num_heads": self.num_heads,
            "min_decay": self.min_decay,
            "max_decay": self.max_decay,
        }


def _decay_and_input(x, input_gate, a_gate, reset, a_param):
    """Computes a_t and the input to h_t from the gates before their sigmoids."""
    log_a = -_DECAY_SHARPNESS * ops.sigmoid(a_gate) * ops.softplus(a_param)
    multiplier = _bounded_sqrt(-ops.expm1(2.0 * log_a))
    b = x * ops.sigmoid(input_gate) * ops.where(reset, 1.0, multiplier)
    return ops.where(reset, 0.0, ops.exp(log_a)), b


def _any_real(x, padding_mask):
    if padding_mask is None:
        return ops.ones((ops.shape(x)[0],), dtype="bool")
    return ops.any(ops.cast(padding_mask, "bool"), axis=1)


def _resets(x, state, padding_mask, reset_mask):
    """Returns bool (batch or 1, time): where a document starts, the first real token included."""
    if padding_mask is None:
        first = (ops.arange(ops.shape(x)[1]) == 0)[None]
    else:
        count = ops.cumsum(ops.cast(padding_mask, "int32"), axis=1)
        first = ops.logical_and(count == 1, padding_mask)
    if state is not None:
        first = ops.logical_and(first, ops.logical_not(state["started"])[:, None])
    if reset_mask is None:
        return first
    reset_mask = ops.cast(reset_mask, "bool")
    if padding_mask is not None:
        reset_mask = ops.logical_and(reset_mask, padding_mask)
    return ops.logical_or(first, reset_mask)


def _bounded_sqrt(x):
    """Returns sqrt(x) with a bounded gradient."""
    root = ops.sqrt(x)
    floor = 1.0 / (4.0 * _MAX_SQRT_GRADIENT**2)
    slope = 0.5 * ops.rsqrt(ops.maximum(x, floor))
    root, slope, point = (ops.stop_gradient(value) for value in (root, slope, x))
    return root + slope * (x - point)
