"""The Conformer block and its two halves, self-attention and convolution."""

import keras
import keras_hub
from keras import ops

from keras_speechssm.layers.dense import PointwiseDense, depthwise_conv
from keras_speechssm.layers.padding import gather_time, left_align_order
from keras_speechssm.layers.softmax import exponentials


@keras.saving.register_keras_serializable(package="keras_speechssm")
class ConvolutionModule(keras.layers.Layer):
    """The convolution module of a `ConformerBlock`.

    A gated pointwise layer, a depthwise convolution, a norm, swish, and a pointwise layer. The
    norm is a layer normalization instead of the paper's batch normalization, so that padding and
    the other sequences of a batch have no influence.

    Args:
        hidden_dim: Width of inputs and outputs.
        kernel_size: Number of taps of the depthwise convolution, centered. Defaults to `5`.
        dropout: Dropout rate of the output. Defaults to `0.0`.

    Raises:
        ValueError: If `kernel_size` is below 1.

    Call arguments:
        x: float (batch, time, hidden_dim); finite, also at padding.
        padding_mask: bool (batch, time), `True` at real positions, or `None`.
        training: bool.

    Returns:
        float (batch, time, hidden_dim).

    Example:

    ```python
    import keras
    from keras_speechssm.layers import ConvolutionModule

    y = ConvolutionModule(hidden_dim=16)(keras.random.normal((2, 10, 16)))  # (2, 10, 16)
    ```

    Reference:
        Gulati et al. 2020, "Conformer" (arXiv 2005.08100), section 2.2.
    """

    def __init__(self, hidden_dim: int, kernel_size: int = 5, dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        if kernel_size < 1:
            raise ValueError(f"kernel_size is {kernel_size}; expected at least 1.")
        self.hidden_dim = hidden_dim
        self.kernel_size = kernel_size
        self.dropout = dropout
        policy = self.dtype_policy
        self.gate_dense = PointwiseDense(2 * hidden_dim, dtype=policy, name="gate_dense")
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name="norm")
        self.output_dense = PointwiseDense(hidden_dim, dtype=policy, name="output_dense")
        self.drop = keras.layers.Dropout(dropout, dtype=policy, name="drop")

    def build(self, input_shape):
        self.gate_dense.build(input_shape)
        self.norm.build(input_shape)
        self.output_dense.build(input_shape)
        self.depthwise = self.add_weight(
            name="depthwise",
            shape=(self.kernel_size, self.hidden_dim),
            initializer=keras.initializers.RandomNormal(stddev=self.kernel_size**-0.5),
        )
        self.built = True

    def call(self, x, padding_mask=None, training=None):
        value, gate = ops.split(self.gate_dense(x), 2, axis=-1)
        gate = ops.sigmoid(ops.cast(gate, "float32"))
        x = value * ops.cast(gate, self.compute_dtype)
        if padding_mask is not None:
            # The biases above have filled the padding: clear it before the convolution.
            x = ops.where(padding_mask[..., None], x, 0.0)
        x = ops.silu(self.norm(self._convolve(x)))
        return self.drop(self.output_dense(x), training=training)

    def _convolve(self, x):
        before = (self.kernel_size - 1) // 2
        after = self.kernel_size - 1 - before
        padded = ops.pad(x, ((0, 0), (before, after), (0, 0)))
        taps = ops.cast(self.depthwise, self.compute_dtype)
        return depthwise_conv(padded, ops.unstack(taps, num=self.kernel_size, axis=0))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            hidden_dim=self.hidden_dim, kernel_size=self.kernel_size, dropout=self.dropout
        )
        return config


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention over the whole sequence: the attention of a `ConformerBlock`.

    Positions are relative (rotary), so left padding changes nothing. The softmax is float32.

    Args:
        hidden_dim: Width of inputs and outputs.
        num_heads: Number of heads; `hidden_dim` must be a multiple of `2 * num_heads`.
        context: Number of positions on each side that a position attends to. Defaults to `None`:
            all.
        dropout: Dropout rate of the output. Defaults to `0.0`.

    Raises:
        ValueError: If `hidden_dim` is not a multiple of `2 * num_heads`.

    Call arguments:
        x: float (batch, time, hidden_dim); finite, also at padding.
        padding_mask: bool (batch, time), `True` at real positions, or `None`.
        training: bool.

    Returns:
        float (batch, time, hidden_dim).

    Example:

    ```python
    import keras
    from keras_speechssm.layers import SelfAttention

    y = SelfAttention(hidden_dim=16, num_heads=2)(keras.random.normal((2, 10, 16)))  # (2, 10, 16)
    ```

    Reference:
        Gulati et al. 2020, "Conformer" (arXiv 2005.08100), section 2.1, with the rotary positions
        of Su et al. 2021 (arXiv 2104.09864).
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        context: int | None = None,
        dropout: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_heads < 1 or hidden_dim % (2 * num_heads):
            raise ValueError(
                f"hidden_dim is {hidden_dim} and num_heads {num_heads}; expected hidden_dim to be "
                "a multiple of 2 * num_heads, since rotary positions rotate pairs."
            )
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.context = context
        self.dropout = dropout
        head_dim = hidden_dim // num_heads

        def project(name):
            return keras.layers.EinsumDense(
                "btd,dhk->bthk",
                output_shape=(None, num_heads, head_dim),
                bias_axes="hk",
                dtype=self.dtype_policy,
                name=name,
            )

        self.query_dense = project("query_dense")
        self.key_dense = project("key_dense")
        self.value_dense = project("value_dense")
        self.output_dense = keras.layers.EinsumDense(
            "bthk,hkd->btd",
            output_shape=(None, hidden_dim),
            bias_axes="d",
            dtype=self.dtype_policy,
            name="output_dense",
        )
        self.rotary = keras_hub.layers.RotaryEmbedding(dtype=self.dtype_policy, name="rotary")
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="drop")

    def build(self, input_shape):
        head_dim = self.hidden_dim // self.num_heads
        split = (*input_shape[:-1], self.num_heads, head_dim)
        self.query_dense.build(input_shape)
        self.key_dense.build(input_shape)
        self.value_dense.build(input_shape)
        self.output_dense.build(split)
        self.rotary.build(split)
        self.built = True

    def call(self, x, padding_mask=None, training=None):
        query, key = self.rotary(self.query_dense(x)), self.rotary(self.key_dense(x))
        query = query / (self.hidden_dim // self.num_heads) ** 0.5
        scores = ops.cast(ops.einsum("bthk,bshk->bhts", query, key), "float32")
        # Finite, so that a row of padding alone does not become NaN.
        if padding_mask is not None:
            scores = ops.where(padding_mask[:, None, None, :], scores, -1e9)
        if self.context is not None:
            position = ops.arange(ops.shape(x)[1])
            distance = ops.abs(position[:, None] - position[None, :])
            scores = ops.where(distance <= self.context, scores, -1e9)
        (weights,), total = exponentials([scores])
        total = ops.transpose(total, (0, 2, 1, 3))
        weights = ops.cast(weights, self.compute_dtype)
        attended = ops.einsum("bhts,bshk->bthk", weights, self.value_dense(x))
        attended = ops.cast(ops.cast(attended, "float32") / total, self.compute_dtype)
        return self.drop(self.output_dense(attended), training=training)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            hidden_dim=self.hidden_dim,
            num_heads=self.num_heads,
            context=self.context,
            dropout=self.dropout,
        )
        return config


@keras.saving.register_keras_serializable(package="keras_speechssm")
class ConformerBlock(keras.layers.Layer):
    """One Conformer layer: half feed-forward, attention, convolution, half feed-forward, norm.

    The semantic tokenizer and SoundStorm consist of these. The layer looks in both directions, so
    it does not stream; its inputs are windows of bounded length.

    Padding may be anywhere, also between real positions, and may contain anything, NaN included.
    It changes no real output. The output at padding is zero.

    Args:
        hidden_dim: Width of inputs and outputs.
        num_heads: Number of heads; `hidden_dim` must be a multiple of `2 * num_heads`.
        intermediate_dim: Width inside the two feed-forward modules.
        kernel_size: Number of taps of the depthwise convolution. Defaults to `5`.
        attention_context: Number of positions on each side that a position attends to, so that a
            model trained on short crops also works on long windows. Defaults to `None`: the
            whole sequence.
        dropout: Dropout rate of the output of each module. Defaults to `0.0`.

    Raises:
        ValueError: If the sizes do not fit each other, or the input has another width.

    Call arguments:
        x: float (batch, time, hidden_dim).
        padding_mask: bool (batch, time), `True` at real positions. Defaults to `None`: all are
            real.
        training: bool.

    Returns:
        float (batch, time, hidden_dim).

    Example:

    ```python
    import keras
    from keras_speechssm.layers import ConformerBlock

    block = ConformerBlock(hidden_dim=16, num_heads=2, intermediate_dim=32)
    y = block(keras.random.normal((2, 10, 16)))  # (2, 10, 16)
    ```

    Reference:
        Gulati et al. 2020, "Conformer" (arXiv 2005.08100), section 2; Borsos et al. 2023,
        "SoundStorm" (arXiv 2305.09636), section 3.1.
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
                f"The input of ConformerBlock has width {input_shape[-1]}; expected hidden_dim, "
                f"{self.hidden_dim}. Project it first."
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
            # Distances count real positions only, so move them together first.
            order, rank = left_align_order(padding_mask)
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
