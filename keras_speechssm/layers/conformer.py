"""The Conformer block: feed-forward, attention, convolution, feed-forward, in both directions."""

import keras
from keras import ops

from keras_speechssm.layers.convolution_module import ConvolutionModule
from keras_speechssm.layers.padding import compaction, gather_time
from keras_speechssm.layers.pointwise_dense import PointwiseDense
from keras_speechssm.layers.self_attention import SelfAttention


@keras.saving.register_keras_serializable(package="keras_speechssm")
class ConformerBlock(keras.layers.Layer):
    """One Conformer layer: half feed-forward, attention, convolution, half feed-forward, norm.

    What is it for: the encoder of the semantic tokenizer and the body of SoundStorm.
    It looks in both directions, so it does not stream; windows bound its input
    (Gulati et al. 2020, section 2; SoundStorm, section 3.1).

    Padding may lie anywhere, between real positions too, and hold anything, NaN
    included: it changes no real output, and the output is zero there.

    Args:
        hidden_dim: int. Width of inputs and outputs.
        num_heads: int. Attention heads; `hidden_dim` must be a multiple of
            `2 * num_heads`.
        intermediate_dim: int. Width inside the two feed-forwards.
        kernel_size: int. Taps of the depthwise convolution. Defaults to `5`.
        attention_context: int or None. Positions that attention sees on each side: a
            model trained on short crops then runs unchanged on long windows.
            Defaults to `None`: the whole sequence.
        dropout: float. Dropout on the output of each module. Defaults to `0.0`.

    Call arguments:
        x: float (batch, time, hidden_dim).
        padding_mask: bool (batch, time), `True` at real positions. Defaults to
            `None`: everything is real.
        training: bool.

    Returns:
        float (batch, time, hidden_dim).

    Example:

    ```python
    block = ConformerBlock(hidden_dim=64, num_heads=4, intermediate_dim=256)
    y = block(keras.random.normal((2, 50, 64)))  # (2, 50, 64)
    ```
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        kernel_size: int = 5,
        attention_context: int | None = None,
        dropout: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.kernel_size = kernel_size
        self.attention_context = attention_context
        self.dropout = dropout
        policy = self.dtype_policy

        def norm(name):
            return keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name=name)

        def dense(width, name, activation=None):
            return PointwiseDense(width, activation=activation, dtype=policy, name=name)

        self.first_norm = norm("first_norm")
        self.first_intermediate = dense(intermediate_dim, "first_intermediate", "silu")
        self.first_output = dense(hidden_dim, "first_output")
        self.attention_norm = norm("attention_norm")
        self.attention = SelfAttention(
            hidden_dim,
            num_heads,
            context=attention_context,
            dropout=dropout,
            dtype=policy,
            name="attention",
        )
        self.convolution_norm = norm("convolution_norm")
        self.convolution = ConvolutionModule(
            hidden_dim, kernel_size, dropout=dropout, dtype=policy, name="convolution"
        )
        self.second_norm = norm("second_norm")
        self.second_intermediate = dense(intermediate_dim, "second_intermediate", "silu")
        self.second_output = dense(hidden_dim, "second_output")
        self.final_norm = norm("final_norm")
        self.drop = keras.layers.Dropout(dropout, dtype=policy, name="drop")

    def build(self, input_shape):
        if input_shape[-1] != self.hidden_dim:
            raise ValueError(
                f"ConformerBlock(hidden_dim={self.hidden_dim}) got input of width "
                f"{input_shape[-1]}; project it to hidden_dim first."
            )
        inner = (*input_shape[:-1], self.intermediate_dim)
        for layer in (
            self.first_norm,
            self.first_intermediate,
            self.attention_norm,
            self.attention,
            self.convolution_norm,
            self.convolution,
            self.second_norm,
            self.second_intermediate,
            self.final_norm,
        ):
            layer.build(input_shape)
        self.first_output.build(inner)
        self.second_output.build(inner)
        self.built = True

    def call(self, x, padding_mask=None, training=None):
        real = padding_mask
        if padding_mask is not None:
            # Before any arithmetic: 0 * NaN is NaN.
            x = ops.where(padding_mask[..., None], x, 0.0)
            # Distances count real positions, so holes in a row must close first.
            order, rank = compaction(padding_mask)
            x, real = gather_time(x, order), gather_time(padding_mask, order)
        y = self.first_output(self.first_intermediate(self.first_norm(x)))
        x = x + 0.5 * self.drop(y, training=training)
        x = x + self.attention(self.attention_norm(x), real, training=training)
        x = x + self.convolution(self.convolution_norm(x), real, training=training)
        y = self.second_output(self.second_intermediate(self.second_norm(x)))
        x = x + 0.5 * self.drop(y, training=training)
        x = self.final_norm(x)
        if padding_mask is not None:
            x = ops.where(padding_mask[..., None], gather_time(x, rank), 0.0)
        return x

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            hidden_dim=self.hidden_dim,
            num_heads=self.num_heads,
            intermediate_dim=self.intermediate_dim,
            kernel_size=self.kernel_size,
            attention_context=self.attention_context,
            dropout=self.dropout,
        )
        return config
