"""The encoder of S3Gen: semantic tokens to a first estimate of the mel spectrum."""

import keras
import numpy as np
from keras import ops

from keras_speechssm.layers.padding import mask_padding
from keras_speechssm.layers.softmax import attend

_LOOKAHEAD = 3
"""Tokens that the first convolution looks ahead."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class S3GenEncoder(keras.layers.Layer):
    """Semantic tokens at 25 Hz to the mean of the mel spectrum at 50 Hz.

    Transformer layers with relative positions, twice as many frames, and more such layers. The
    defaults are the published sizes.

    Args:
        vocabulary_size: int. Semantic tokens. Defaults to `6561`.
        num_mels: int. Mel bands. Defaults to `80`.
        num_layers: int. Layers at 25 Hz. Defaults to `6`.
        num_upsampled_layers: int. Layers at 50 Hz. Defaults to `4`.
        num_heads: int. Attention heads. Defaults to `8`.
        hidden_dim: int. Width, an even multiple of `num_heads`. Defaults to `512`.
        intermediate_dim: int. Width inside the feed-forwards. Defaults to `2048`.

    Call arguments:
        token_ids: int (batch, time).
        padding_mask: bool (batch, time), `True` at real tokens; padding comes last in each row.
            Defaults to `None`: every token is real.

    Returns:
        float32 (batch, 2 * time, num_mels).

    Example:

    ```python
    import numpy as np
    from keras_speechssm.models.s3_gen.s3_gen_encoder import S3GenEncoder

    encoder = S3GenEncoder(10, 80, 1, 1, num_heads=2, hidden_dim=8, intermediate_dim=16)
    mean = encoder(np.array([[3, 1, 4, 1, 5]]))  # (1, 10, 80)
    ```

    Reference:
        - [Du et al., 2024](https://arxiv.org/abs/2412.10117)
    """

    def __init__(
        self,
        vocabulary_size: int = 6561,
        num_mels: int = 80,
        num_layers: int = 6,
        num_upsampled_layers: int = 4,
        num_heads: int = 8,
        hidden_dim: int = 512,
        intermediate_dim: int = 2048,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_heads < 1 or hidden_dim % num_heads or hidden_dim % 2:
            raise ValueError(
                f"hidden_dim must be an even multiple of num_heads; got {hidden_dim} and "
                f"{num_heads}."
            )
        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.num_mels = num_mels
        self.num_layers = num_layers
        self.num_upsampled_layers = num_upsampled_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim

        # === Layers ===
        policy = self.dtype_policy

        def convolution(size, name):
            return keras.layers.Conv1D(hidden_dim, size, dtype=policy, name=name)

        def blocks(count, prefix):
            return [
                _RelativeBlock(
                    num_heads, hidden_dim, intermediate_dim, dtype=policy, name=f"{prefix}_{i}"
                )
                for i in range(count)
            ]

        self.token_embedding = keras.layers.Embedding(
            vocabulary_size, hidden_dim, dtype=policy, name="token_embedding"
        )
        self.input_dense = keras.layers.Dense(hidden_dim, dtype=policy, name="input_dense")
        self.input_norm = _norm(1e-5, policy, "input_norm")
        self.lookahead_convolution = convolution(_LOOKAHEAD + 1, "lookahead_convolution")
        self.causal_convolution = convolution(3, "causal_convolution")
        self.blocks = blocks(num_layers, "block")
        self.upsampled_convolution = convolution(5, "upsampled_convolution")
        self.upsampled_dense = keras.layers.Dense(hidden_dim, dtype=policy, name="upsampled_dense")
        self.upsampled_norm = _norm(1e-5, policy, "upsampled_norm")
        self.upsampled_blocks = blocks(num_upsampled_layers, "upsampled_block")
        self.output_norm = _norm(1e-5, policy, "output_norm")
        self.output_dense = keras.layers.Dense(num_mels, dtype=policy, name="output_dense")

    def build(self, token_ids_shape, padding_mask_shape=None):
        self.token_embedding.build(token_ids_shape)
        for layer in (
            self.input_dense,
            self.input_norm,
            self.lookahead_convolution,
            self.causal_convolution,
            *self.blocks,
            self.upsampled_convolution,
            self.upsampled_dense,
            self.upsampled_norm,
            *self.upsampled_blocks,
            self.output_norm,
            self.output_dense,
        ):
            layer.build((None, None, self.hidden_dim))
        self.built = True

    def call(self, token_ids, padding_mask=None):
        scale = self.hidden_dim**0.5
        x = mask_padding(self.token_embedding(token_ids), padding_mask)
        x = mask_padding(scale * self.input_norm(self.input_dense(x)), padding_mask)
        y = self.lookahead_convolution(ops.pad(x, ((0, 0), (0, _LOOKAHEAD), (0, 0))))
        y = self.causal_convolution(ops.pad(ops.leaky_relu(y, 0.01), ((0, 0), (2, 0), (0, 0))))
        x = x + y
        positions = self._positions(x)
        for block in self.blocks:
            x = block(x, positions, padding_mask)
        x = ops.pad(ops.repeat(x, 2, axis=1), ((0, 0), (4, 0), (0, 0)))
        x = self.upsampled_dense(self.upsampled_convolution(x))
        x = scale * self.upsampled_norm(x)
        if padding_mask is not None:
            padding_mask = ops.repeat(padding_mask, 2, axis=1)
        positions = self._positions(x)
        for block in self.upsampled_blocks:
            x = block(x, positions, padding_mask)
        return ops.cast(self.output_dense(self.output_norm(x)), "float32")

    def _positions(self, x):
        """Encodings of the distances from time - 1 down to 1 - time, (2 * time - 1, dim)."""
        time, dim = ops.shape(x)[1], self.hidden_dim
        distances = ops.cast(ops.arange(2 * time - 1, dtype="int32"), "float32")
        distances = ops.cast(time - 1, "float32") - distances
        rates = np.exp(np.arange(0, dim, 2) * (-np.log(10000.0) / dim)).astype("float32")
        angles = distances[:, None] * ops.convert_to_tensor(rates)
        encodings = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)
        return ops.cast(ops.reshape(encodings, (-1, dim)), self.compute_dtype)

    def compute_output_spec(self, token_ids, padding_mask=None):
        time = token_ids.shape[1] and 2 * token_ids.shape[1]
        return keras.KerasTensor((token_ids.shape[0], time, self.num_mels), dtype="float32")

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            vocabulary_size=self.vocabulary_size,
            num_mels=self.num_mels,
            num_layers=self.num_layers,
            num_upsampled_layers=self.num_upsampled_layers,
            num_heads=self.num_heads,
            hidden_dim=self.hidden_dim,
            intermediate_dim=self.intermediate_dim,
        )
        return config


class _RelativeBlock(keras.layers.Layer):
    """A Transformer layer with the relative positions of Transformer-XL."""

    def __init__(self, num_heads: int, hidden_dim: int, intermediate_dim: int, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim

        def dense(width, name, use_bias=True):
            return keras.layers.Dense(width, use_bias=use_bias, dtype=policy, name=name)

        self.attention_norm = _norm(1e-12, policy, "attention_norm")
        self.query_dense = dense(hidden_dim, "query_dense")
        self.key_dense = dense(hidden_dim, "key_dense")
        self.value_dense = dense(hidden_dim, "value_dense")
        self.position_dense = dense(hidden_dim, "position_dense", use_bias=False)
        self.output_dense = dense(hidden_dim, "output_dense")
        self.feedforward_norm = _norm(1e-12, policy, "feedforward_norm")
        self.feedforward_intermediate = dense(intermediate_dim, "feedforward_intermediate")
        self.feedforward_output = dense(hidden_dim, "feedforward_output")

    def build(self, input_shape):
        for layer in (
            self.attention_norm,
            self.query_dense,
            self.key_dense,
            self.value_dense,
            self.position_dense,
            self.output_dense,
            self.feedforward_norm,
            self.feedforward_intermediate,
        ):
            layer.build(input_shape)
        self.feedforward_output.build((*input_shape[:-1], self.intermediate_dim))
        shape = (self.num_heads, self.hidden_dim // self.num_heads)
        self.content_bias = self.add_weight(
            name="content_bias", shape=shape, initializer="glorot_uniform"
        )
        self.position_bias = self.add_weight(
            name="position_bias", shape=shape, initializer="glorot_uniform"
        )
        self.built = True

    def call(self, x, positions, padding_mask=None):
        x = x + self._attend(self.attention_norm(x), positions, padding_mask)
        y = ops.silu(self.feedforward_intermediate(self.feedforward_norm(x)))
        return x + self.feedforward_output(y)

    def _attend(self, x, positions, padding_mask):
        batch, time = ops.shape(x)[0], ops.shape(x)[1]
        size = self.hidden_dim // self.num_heads
        split = (batch, time, self.num_heads, size)
        queries = ops.reshape(self.query_dense(x), split)
        keys = ops.reshape(self.key_dense(x), split)
        values = ops.reshape(self.value_dense(x), split)
        distances = ops.reshape(self.position_dense(positions), (-1, self.num_heads, size))
        by_content = queries + ops.cast(self.content_bias, queries.dtype)
        by_position = queries + ops.cast(self.position_bias, queries.dtype)
        # The score of distance q - k, from the scores of all distances.
        shifted = ops.einsum("bqhd,phd->bhqp", by_position * size**-0.5, distances)
        shifted = ops.pad(shifted, ((0, 0), (0, 0), (0, 0), (1, 0)))
        shifted = ops.reshape(shifted, (batch, self.num_heads, 2 * time, time))[:, :, 1:]
        shifted = ops.reshape(shifted, (batch, self.num_heads, time, 2 * time - 1))[..., :time]
        return self.output_dense(attend(by_content, keys, values, padding_mask, shifted))


def _norm(epsilon: float, policy, name: str):
    return keras.layers.LayerNormalization(epsilon=epsilon, dtype=policy, name=name)
