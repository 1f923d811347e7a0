"""The convolution module: the local half of a Conformer block."""

import keras
from keras import ops

from keras_speechssm.layers.pointwise_dense import PointwiseDense


@keras.saving.register_keras_serializable(package="keras_speechssm")
class ConvolutionModule(keras.layers.Layer):
    """Gated pointwise, depthwise, norm, swish, pointwise: the Conformer's local half.

    What is it for: the convolution half of `ConformerBlock` (Gulati et al. 2020,
    section 2.2). Layer normalisation stands where they have batch normalisation, so
    that neither padding nor the other sequences of a batch can be seen.

    Args:
        hidden_dim: int. Width of inputs and outputs.
        kernel_size: int. Taps of the depthwise convolution, centred. Defaults to `5`.
        dropout: float. Dropout on the output. Defaults to `0.0`.

    Call arguments:
        x: float (batch, time, hidden_dim); finite, also at padding.
        padding_mask: bool (batch, time), `True` at real positions, or `None`.
        training: bool.

    Returns:
        float (batch, time, hidden_dim).
    """

    def __init__(self, hidden_dim: int, kernel_size: int = 5, dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        if kernel_size < 1:
            raise ValueError(f"kernel_size must be at least 1, got {kernel_size}.")
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
            # The biases above have filled the padding: empty it before taps reach in.
            x = ops.where(padding_mask[..., None], x, 0.0)
        x = ops.silu(self.norm(self._convolve(x)))
        return self.drop(self.output_dense(x), training=training)

    def _convolve(self, x):
        """Depthwise convolution as a sum of shifts: XLA's grouped one is slow on CPUs."""
        before = (self.kernel_size - 1) // 2
        after = self.kernel_size - 1 - before
        padded = ops.pad(x, ((0, 0), (before, after), (0, 0)))
        taps = ops.cast(self.depthwise, self.compute_dtype)
        total = 0.0
        for tap in range(self.kernel_size):
            end = tap - self.kernel_size + 1
            total = total + padded[:, tap : end or None] * taps[tap]
        return total

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            hidden_dim=self.hidden_dim, kernel_size=self.kernel_size, dropout=self.dropout
        )
        return config
