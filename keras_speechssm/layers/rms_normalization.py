"""Root-mean-square normalization with the gain written as 1 + scale."""

import keras
from keras import ops

from keras_speechssm.layers.rematerialization import rematerialize


@keras.saving.register_keras_serializable(package="keras_speechssm")
class RMSNormalization(keras.layers.Layer):
    """Divides by the root mean square over the last axis and multiplies by 1 + scale.

    `keras.layers.RMSNormalization` starts its gain at one; Griffin and Gemma store the gain's
    distance from one, which is what their checkpoints hold and what weight decay should shrink.
    Statistics are taken in float32.

    Args:
        epsilon: added to the mean square. Defaults to 1e-6.

    Call arguments:
        x: (..., dim).

    Returns:
        (..., dim), in the compute dtype.

    Source: Zhang and Sennrich, arXiv 1910.07467.
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer="zeros")

    def call(self, x):
        normalized = rematerialize(
            self._normalize, ops.cast(x, "float32"), ops.cast(self.scale, "float32")
        )
        return ops.cast(normalized, self.compute_dtype)

    def _normalize(self, x, scale):
        mean_square = ops.mean(ops.square(x), axis=-1, keepdims=True)
        return x * ops.rsqrt(mean_square + self.epsilon) * (1.0 + scale)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}
