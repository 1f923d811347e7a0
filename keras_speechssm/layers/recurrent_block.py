"""Griffin's recurrent temporal mixing."""

import keras

from keras_speechssm.layers.gated_mlp import gate_by_gelu
from keras_speechssm.layers.padding import zero_padding
from keras_speechssm.layers.projection import make_dense
from keras_speechssm.layers.recomputation import recompute
from keras_speechssm.layers.rg_lru import RGLRU
from keras_speechssm.layers.temporal_conv import TemporalConv1D


@keras.saving.register_keras_serializable(package="keras_speechssm")
class RecurrentBlock(keras.layers.Layer):
    """Griffin's recurrent mixing: (gelu branch) * (convolution, then RG-LRU), projected back.

    Args:
        hidden_dim: dimension of the input and of the output.
        lru_width: width of both branches.
        num_heads: blocks of the RG-LRU's gates.
        conv_width: inputs that the convolution sees. Defaults to 4.
        output_variance: variance scale of `linear_out` at the start. Defaults to 1.

    Call arguments and returns as `GriffinBlock`.

    Source: Griffin, arXiv 2402.19427, section 2.3.
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
        """Returns the state before any token."""
        if not self.built:
            self.build((None, None, self.hidden_dim))
        return {
            "convolution": self.conv_1d.initial_state(batch_size),
            "rg_lru": self.rg_lru.initial_state(batch_size),
        }

    def call(self, x, padding_mask=None, reset_mask=None):
        x = zero_padding(x, padding_mask)
        gate = self.linear_y(x)
        masks = {"padding_mask": padding_mask, "reset_mask": reset_mask}
        x = self.rg_lru(self.conv_1d(self.linear_x(x), **masks), **masks)
        return self.linear_out(recompute(gate_by_gelu, gate, x))

    def advance(self, x, state, padding_mask=None, reset_mask=None):
        """Continues from `state` over a chunk of any length; returns (output, new state)."""
        if not self.built:
            self.build(x.shape)
        x = zero_padding(x, padding_mask)
        gate = self.linear_y(x)
        masks = {"padding_mask": padding_mask, "reset_mask": reset_mask}
        x, convolution = self.conv_1d.advance(self.linear_x(x), state["convolution"], **masks)
        x, rg_lru = self.rg_lru.advance(x, state["rg_lru"], **masks)
        return self.linear_out(recompute(gate_by_gelu, gate, x)), {
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
