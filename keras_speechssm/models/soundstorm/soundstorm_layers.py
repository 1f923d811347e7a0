"""SoundStorm's own layers: the embedding of frames, and the output heads."""

import keras
from keras import ops

from keras_speechssm.shapes import FRAMES_PER_TOKEN


@keras.saving.register_keras_serializable(package="keras_speechssm")
class FrameEmbedding(keras.layers.Layer):
    """Embeds a frame: the sum of the embeddings of its semantic and acoustic tokens.

    Each semantic token (25 Hz) is repeated for its two frames (50 Hz). The length of the sequence
    is the number of frames for any number of levels (Borsos et al. 2023, section 3.1).

    Args:
        semantic_vocabulary_size: int. Size of the semantic vocabulary. The next id is a hidden
            token.
        num_levels: int. Acoustic tokens per frame.
        codebook_size: int. Codes of each level; id `codebook_size` is a hidden token.
        hidden_dim: int. Width of the output.

    Call arguments:
        semantic_tokens: int (batch, time).
        acoustic_tokens: int (batch, 2 time, levels).
        padding_mask: bool (batch, 2 time). Padding can hold any ids.

    Returns:
        float (batch, 2 time, hidden_dim), zero at padding.
    """

    def __init__(
        self,
        semantic_vocabulary_size: int,
        num_levels: int,
        codebook_size: int,
        hidden_dim: int,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.semantic_vocabulary_size = semantic_vocabulary_size
        self.num_levels = num_levels
        self.codebook_size = codebook_size
        self.hidden_dim = hidden_dim
        # The sum, not each part, has unit variance.
        spread = keras.initializers.RandomNormal(stddev=(num_levels + 1) ** -0.5)
        self.semantic_embedding = keras.layers.Embedding(
            semantic_vocabulary_size + 1,
            hidden_dim,
            embeddings_initializer=spread,
            dtype=self.dtype_policy,
            name="semantic_embedding",
        )
        # One table for all levels, codebook_size + 1 rows for each.
        self.acoustic_embedding = keras.layers.Embedding(
            num_levels * (codebook_size + 1),
            hidden_dim,
            embeddings_initializer=spread.clone(),
            dtype=self.dtype_policy,
            name="acoustic_embedding",
        )

    def build(self, semantic_shape, *args, **kwargs):
        self.semantic_embedding.build()
        self.acoustic_embedding.build()
        self.built = True

    def call(self, semantic_tokens, acoustic_tokens, padding_mask):
        # Padding can hold ids outside the tables.
        frame_pairs = ops.reshape(padding_mask, (*ops.shape(semantic_tokens), FRAMES_PER_TOKEN))
        semantic_tokens = ops.where(ops.any(frame_pairs, axis=-1), semantic_tokens, 0)
        acoustic_tokens = ops.where(padding_mask[..., None], acoustic_tokens, 0)
        semantic = self.semantic_embedding(semantic_tokens)
        offsets = ops.arange(self.num_levels, dtype="int32") * (self.codebook_size + 1)
        acoustic = ops.sum(self.acoustic_embedding(acoustic_tokens + offsets), axis=2)
        x = ops.repeat(semantic, FRAMES_PER_TOKEN, axis=1) + acoustic
        return ops.where(padding_mask[..., None], x, ops.zeros_like(x))

    def compute_output_spec(self, semantic_tokens, acoustic_tokens, padding_mask):
        shape = (*acoustic_tokens.shape[:2], self.hidden_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            semantic_vocabulary_size=self.semantic_vocabulary_size,
            num_levels=self.num_levels,
            codebook_size=self.codebook_size,
            hidden_dim=self.hidden_dim,
        )
        return config


@keras.saving.register_keras_serializable(package="keras_speechssm")
class LevelHeads(keras.layers.Layer):
    """One dense classifier per level; each example computes only the one it asks for.

    Training and decoding need one level at a time, so the logits of the other levels, most of
    the work of a small model, are not computed.

    Args:
        num_levels: int. Number of heads.
        codebook_size: int. Classes of each head.

    Call arguments:
        x: float (batch, frames, dim).
        level: int (batch,). Level of each example; 0 is the coarsest.

    Returns:
        Logits float32 (batch, frames, codebook_size).
    """

    def __init__(self, num_levels: int, codebook_size: int, **kwargs):
        super().__init__(**kwargs)
        self.num_levels = num_levels
        self.codebook_size = codebook_size

    def build(self, input_shape, *args, **kwargs):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.num_levels, input_shape[-1], self.codebook_size),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        self.bias = self.add_weight(
            name="bias", shape=(self.num_levels, self.codebook_size), initializer="zeros"
        )
        self.built = True

    def call(self, x, level):
        kernel = ops.take(ops.convert_to_tensor(self.kernel), level, axis=0)
        bias = ops.take(ops.convert_to_tensor(self.bias), level, axis=0)
        logits = ops.matmul(x, kernel) + bias[:, None, :]
        return ops.cast(logits, "float32")

    def compute_output_spec(self, x, level):
        return keras.KerasTensor((*x.shape[:2], self.codebook_size), dtype="float32")

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(num_levels=self.num_levels, codebook_size=self.codebook_size)
        return config
