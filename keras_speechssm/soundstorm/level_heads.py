"""The output of SoundStorm: a dense head for each quantizer level, one used at a time."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_speechssm")
class LevelHeads(keras.layers.Layer):
    """A dense classifier for each level, of which an example computes only its own.

    Training and decoding both ask for one level at a time, so the other heads'
    logits, most of the work of a small model, are never made.

    Args:
        num_levels: int. Number of heads.
        codebook_size: int. Classes of each head.

    Call arguments:
        x: float (batch, frames, dim).
        level: int (batch,). Head of each example, 0 for the coarsest level.

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
