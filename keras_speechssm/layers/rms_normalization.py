"""Root-mean-square normalization with a gain of 1 + scale."""

import keras
from keras import ops

from keras_speechssm.layers.rematerialization import rematerialize


@keras.saving.register_keras_serializable(package="keras_speechssm")
class RMSNormalization(keras.layers.Layer):
    """Divides by the root mean square over the last axis and multiplies by `1 + scale`.

    The weight of `keras.layers.RMSNormalization` is the gain. Griffin and Gemma store its distance
    from 1, which is in their checkpoints and what weight decay should shrink. The mean square is
    computed in float32.

    Args:
        epsilon: Added to the mean square. Defaults to `1e-6`.

    Call arguments:
        x: (..., dim).

    Returns:
        (..., dim) in the compute dtype.

    Example:

    ```python
    import keras
    from keras_speechssm.layers import RMSNormalization

    y = RMSNormalization()(keras.random.normal((2, 10, 8)))  # (2, 10, 8)
    ```

    Reference:
        Zhang and Sennrich 2019 (arXiv 1910.07467), equation 4.
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
