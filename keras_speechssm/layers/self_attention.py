"""Self-attention in both directions: the global half of a Conformer block."""

import keras
import keras_hub
from keras import ops


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention over the whole sequence, with rotary positions.

    What is it for: the attention half of `ConformerBlock`. Positions are relative
    (rotary), so left padding changes nothing. The softmax runs in float32.

    Args:
        hidden_dim: int. Width of inputs and outputs.
        num_heads: int. Must divide `hidden_dim` into an even head size.
        context: int or None. Positions seen on each side. Defaults to `None`: all.
        dropout: float. Dropout on the output. Defaults to `0.0`.

    Call arguments:
        x: float (batch, time, hidden_dim); finite, also at padding.
        padding_mask: bool (batch, time), `True` at real positions, or `None`.
        training: bool.

    Returns:
        float (batch, time, hidden_dim).
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
                f"hidden_dim must be a multiple of 2 * num_heads (rotary positions turn pairs), "
                f"got hidden_dim={hidden_dim}, num_heads={num_heads}."
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
        # Finite, so that a sequence of nothing but padding gives no NaN.
        if padding_mask is not None:
            scores = ops.where(padding_mask[:, None, None, :], scores, -1e9)
        if self.context is not None:
            position = ops.arange(ops.shape(x)[1])
            distance = ops.abs(position[:, None] - position[None, :])
            scores = ops.where(distance <= self.context, scores, -1e9)
        # The softmax's division comes after the sum over keys: head_dim / time of the work.
        scores = scores - ops.stop_gradient(ops.max(scores, axis=-1, keepdims=True))
        weights = ops.exp(scores)
        total = ops.transpose(ops.sum(weights, axis=-1, keepdims=True), (0, 2, 1, 3))
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
