"""One residual block of Griffin, and its two parts: recurrent mixing and gated MLP."""

import keras
from keras import ops

from keras_speechssm.layers.dense import make_dense
from keras_speechssm.layers.local_attention import LocalMultiQueryAttention
from keras_speechssm.layers.padding import mask_padding
from keras_speechssm.layers.rematerialization import rematerialize
from keras_speechssm.layers.rg_lru import RGLRU
from keras_speechssm.layers.rms_normalization import RMSNormalization
from keras_speechssm.layers.temporal_conv import TemporalConv1D

BLOCK_TYPES = ("recurrent", "attention")
"""Kinds of temporal mixing of a `GriffinBlock`."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class RecurrentBlock(keras.layers.Layer):
    """Griffin's recurrent mixing: a GELU branch times (convolution, then RG-LRU), projected back.

    It is a `StreamingLayer` with the state `{"convolution": ..., "rg_lru": ...}`.

    Args:
        hidden_dim: Dimension of the input and of the output.
        lru_width: Width of both branches.
        num_heads: Number of blocks of the RG-LRU's gates.
        conv_width: Number of inputs that an output of the convolution depends on. Defaults to `4`.
        output_variance: Variance scale of the initial `linear_out`. Defaults to `1.0`.

    Call arguments:
        x: (batch, time, hidden_dim).
        padding_mask: bool (batch, time), `True` at real positions; `None` if all are real.
        reset_mask: bool (batch, time), `True` at the first token of each packed document.

    Returns:
        (batch, time, hidden_dim) in the compute dtype.

    Example:

    ```python
    import keras
    from keras_speechssm.layers import RecurrentBlock

    block = RecurrentBlock(hidden_dim=8, lru_width=12, num_heads=2)
    y = block(keras.random.normal((2, 10, 8)))  # (2, 10, 8)
    ```

    Reference:
        De et al. 2024, "Griffin" (arXiv 2402.19427), section 2.3.
    """

    def __init__(
        self,
        hidden_dim: int,
        lru_width: int,
        num_heads: int,
        conv_width: int = 4,
        output_variance: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.lru_width = lru_width
        self.num_heads = num_heads
        self.conv_width = conv_width
        self.output_variance = output_variance
        policy = self.dtype_policy
        self.linear_x = make_dense(lru_width, "linear_x", policy)
        self.linear_y = make_dense(lru_width, "linear_y", policy)
        self.conv_1d = TemporalConv1D(conv_width, dtype=policy, name="conv_1d")
        self.rg_lru = RGLRU(lru_width, num_heads, dtype=policy, name="rg_lru")
        self.linear_out = make_dense(hidden_dim, "linear_out", policy, output_variance)

    def build(self, input_shape):
        self.linear_x.build((None, None, self.hidden_dim))
        self.linear_y.build((None, None, self.hidden_dim))
        for layer in (self.conv_1d, self.rg_lru, self.linear_out):
            layer.build((None, None, self.lru_width))

    def initial_state(self, batch_size: int) -> dict:
        """Returns the state before any token; see the class for its structure."""
        if not self.built:
            self.build((None, None, self.hidden_dim))
        return {
            "convolution": self.conv_1d.initial_state(batch_size),
            "rg_lru": self.rg_lru.initial_state(batch_size),
        }

    def call(self, x, padding_mask=None, reset_mask=None):
        x = mask_padding(x, padding_mask)
        gate = self.linear_y(x)
        masks = {"padding_mask": padding_mask, "reset_mask": reset_mask}
        x = self.rg_lru(self.conv_1d(self.linear_x(x), **masks), **masks)
        return self.linear_out(rematerialize(gate_by_gelu, gate, x))

    def advance(self, x, state, padding_mask=None, reset_mask=None):
        """Processes the next chunk, of any length; returns its outputs and the new state."""
        if not self.built:
            self.build(x.shape)
        x = mask_padding(x, padding_mask)
        gate = self.linear_y(x)
        masks = {"padding_mask": padding_mask, "reset_mask": reset_mask}
        x, convolution = self.conv_1d.advance(self.linear_x(x), state["convolution"], **masks)
        x, rg_lru = self.rg_lru.advance(x, state["rg_lru"], **masks)
        return self.linear_out(rematerialize(gate_by_gelu, gate, x)), {
            "convolution": convolution,
            "rg_lru": rg_lru,
        }

    def compute_output_spec(self, x, padding_mask=None, reset_mask=None):
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "lru_width": self.lru_width,
            "num_heads": self.num_heads,
            "conv_width": self.conv_width,
            "output_variance": self.output_variance,
        }


@keras.saving.register_keras_serializable(package="keras_speechssm")
class GatedMLP(keras.layers.Layer):
    """`down(gelu(gate(x)) * up(x))`; each projection has a bias, and GELU is the tanh form.

    Args:
        intermediate_dim: Width of one branch.
        output_variance: Variance scale of the initial `down_dense`. Defaults to `1.0`.

    Call arguments:
        x: (batch, time, dim).

    Returns:
        (batch, time, dim) in the compute dtype.

    Example:

    ```python
    import keras
    from keras_speechssm.layers import GatedMLP

    y = GatedMLP(intermediate_dim=24)(keras.random.normal((2, 10, 8)))  # (2, 10, 8)
    ```

    Reference:
        De et al. 2024, "Griffin" (arXiv 2402.19427), section 2.2.
    """

    def __init__(self, intermediate_dim: int, output_variance: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.intermediate_dim = intermediate_dim
        self.output_variance = output_variance

    def build(self, input_shape):
        dim, policy = input_shape[-1], self.dtype_policy
        self.gate_dense = make_dense(self.intermediate_dim, "gate_dense", policy)
        self.up_dense = make_dense(self.intermediate_dim, "up_dense", policy)
        self.down_dense = make_dense(dim, "down_dense", policy, self.output_variance)
        self.gate_dense.build((None, None, dim))
        self.up_dense.build((None, None, dim))
        self.down_dense.build((None, None, self.intermediate_dim))

    def call(self, x):
        return self.down_dense(rematerialize(gate_by_gelu, self.gate_dense(x), self.up_dense(x)))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "output_variance": self.output_variance,
        }


def gate_by_gelu(gate, x):
    """Returns `gelu(gate) * x`, with the tanh form of GELU."""
    return keras.activations.gelu(gate, approximate=True) * x


@keras.saving.register_keras_serializable(package="keras_speechssm")
class GriffinBlock(keras.layers.Layer):
    """Pre-norm residual block: temporal mixing, then a gated MLP.

    It is a `StreamingLayer`. Its state is that of the temporal block: `{"convolution": ...,
    "rg_lru": ...}`, or the ring buffer of the attention.

    The sublayers are named as in the Flax reference: `temporal_pre_norm`, `temporal_block` (a
    `RecurrentBlock` or a `LocalMultiQueryAttention`), `channel_pre_norm`, `mlp_block`.

    Args:
        block_type: `"recurrent"` (convolution and RG-LRU) or `"attention"` (local multi-query).
        hidden_dim: Dimension of the input and of the output.
        intermediate_dim: Width of one branch of the gated MLP.
        num_heads: Query heads of the attention, or blocks of the RG-LRU's gates.
        num_layers: Number of layers of the whole model: projections that end a residual branch
            are initialized with variance `2 / num_layers` over their fan-in. Defaults to `2`.
        lru_width: Width of the recurrence. Defaults to `hidden_dim`.
        head_dim: Dimension of an attention head. Defaults to `hidden_dim // num_heads`.
        attention_window: Tokens before itself that a query attends to. Defaults to `2048`.
        use_rotary: Whether the attention has rotary positions. Defaults to `True`.
        conv_width: Number of inputs that an output of the temporal convolution depends on.
            Defaults to `4`.

    Raises:
        ValueError: If `block_type` is unknown, or the sizes do not fit each other.

    Call arguments:
        x: (batch, time, hidden_dim).
        padding_mask: bool (batch, time), `True` at real positions; `None` if all are real.
        reset_mask: bool (batch, time), `True` at the first token of each packed document.

    Returns:
        (batch, time, hidden_dim) in the compute dtype; finite and meaningless at padding.

    Example:

    ```python
    import keras
    from keras_speechssm.layers import GriffinBlock

    block = GriffinBlock("recurrent", hidden_dim=8, intermediate_dim=24, num_heads=2)
    y = block(keras.random.normal((2, 10, 8)))
    y, state = block.advance(keras.random.normal((2, 3, 8)), block.initial_state(2))
    ```

    Reference:
        De et al. 2024, "Griffin" (arXiv 2402.19427), section 2 and figure 2.
    """

    def __init__(
        self,
        block_type: str,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        num_layers: int = 2,
        lru_width: int | None = None,
        head_dim: int | None = None,
        attention_window: int = 2048,
        use_rotary: bool = True,
        conv_width: int = 4,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if block_type not in BLOCK_TYPES:
            raise ValueError(f"block_type is {block_type!r}; expected one of {BLOCK_TYPES}.")
        self.block_type = block_type
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.num_heads = num_heads
        self.num_layers = num_layers
        self.lru_width = lru_width or hidden_dim
        self.head_dim = head_dim
        self.attention_window = attention_window
        self.use_rotary = use_rotary
        self.conv_width = conv_width
        policy = self.dtype_policy
        self.temporal_pre_norm = RMSNormalization(dtype=policy, name="temporal_pre_norm")
        self.temporal_block = self._make_temporal_block()
        self.channel_pre_norm = RMSNormalization(dtype=policy, name="channel_pre_norm")
        self.mlp_block = GatedMLP(
            intermediate_dim, 2.0 / num_layers, dtype=policy, name="mlp_block"
        )

    def _make_temporal_block(self):
        shared = {
            "output_variance": 2.0 / self.num_layers,
            "dtype": self.dtype_policy,
            "name": "temporal_block",
        }
        if self.block_type == "recurrent":
            return RecurrentBlock(
                self.hidden_dim, self.lru_width, self.num_heads, self.conv_width, **shared
            )
        return LocalMultiQueryAttention(
            self.hidden_dim,
            self.num_heads,
            head_dim=self.head_dim,
            attention_window=self.attention_window,
            use_rotary=self.use_rotary,
            **shared,
        )

    def build(self, input_shape):
        shape = (None, None, self.hidden_dim)
        self.temporal_pre_norm.build(shape)
        self.temporal_block.build(shape)
        self.channel_pre_norm.build(shape)
        self.mlp_block.build(shape)

    def initial_state(self, batch_size: int):
        """Returns the state before any token; see the class for its structure."""
        if not self.built:
            self.build((None, None, self.hidden_dim))
        return self.temporal_block.initial_state(batch_size)

    def call(self, x, padding_mask=None, reset_mask=None):
        x = mask_padding(x, padding_mask)
        mixed = self.temporal_block(
            self.temporal_pre_norm(x), padding_mask=padding_mask, reset_mask=reset_mask
        )
        x = x + mixed
        return x + self.mlp_block(self.channel_pre_norm(x))

    def rematerialized_call(self, layer_call, x, **masks):
        # TensorFlow can recompute functions of tensors only, without keywords or `None`.
        recomputed = super().rematerialized_call(lambda x: layer_call(x, **masks), x)
        return lambda x, **masks: recomputed(x)

    def advance(self, x, state, padding_mask=None, reset_mask=None):
        """Processes the next chunk, of any length; returns its outputs and the new state."""
        if not self.built:
            self.build(x.shape)
        x = mask_padding(ops.cast(x, self.compute_dtype), padding_mask)
        mixed, state = self.temporal_block.advance(
            self.temporal_pre_norm(x), state, padding_mask=padding_mask, reset_mask=reset_mask
        )
        x = x + mixed
        return x + self.mlp_block(self.channel_pre_norm(x)), state

    def compute_output_spec(self, x, padding_mask=None, reset_mask=None):
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "block_type": self.block_type,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "num_heads": self.num_heads,
            "num_layers": self.num_layers,
            "lru_width": self.lru_width,
            "head_dim": self.head_dim,
            "attention_window": self.attention_window,
            "use_rotary": self.use_rotary,
            "conv_width": self.conv_width,
        }
