"""Causal convolutions that change the rate: the building blocks of the codec."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_speechssm")
class CausalConv1D(keras.layers.Layer):
    """A convolution over time that never looks ahead, optionally strided.

    Output step t is computed from the inputs up to `(t + 1) * strides - 1`, zeros
    standing before the first (SoundStream, section III-A).

    Args:
        filters: int. Output channels.
        kernel_size: int, at least `strides`.
        strides: int. Input steps an output step. Defaults to `1`.
        dilation: int. Defaults to `1`.
        depthwise: bool. One filter a channel, no mixing. Defaults to `False`.

    Call arguments:
        x: float (batch, time, channels), time a multiple of `strides`.

    Returns:
        float (batch, time / strides, filters).

    `initial_state(batch_size)` and `advance(x, state) -> (y, state)` process a stream
    chunk by chunk, each chunk a multiple of `strides`, with the same result.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        dilation: int = 1,
        depthwise: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if kernel_size < strides:
            raise ValueError(f"kernel_size {kernel_size} is below strides {strides}.")
        if depthwise and strides != 1:
            raise ValueError(f"A depthwise CausalConv1D takes strides=1, got {strides}.")
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.dilation = dilation
        self.depthwise = depthwise
        self.context = (kernel_size - 1) * dilation + 1 - strides

    def build(self, input_shape):
        channels = input_shape[-1]
        if self.depthwise and channels != self.filters:
            raise ValueError(
                f"A depthwise CausalConv1D keeps the channels: got {channels} in, "
                f"{self.filters} out."
            )
        self.input_dim = channels
        fan_in = (self.kernel_size,) if self.depthwise else (self.kernel_size, channels)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*fan_in, self.filters),
            initializer=keras.initializers.VarianceScaling(1.0, "fan_in", "truncated_normal")
            if not self.depthwise
            else keras.initializers.RandomNormal(stddev=self.kernel_size**-0.5),
        )
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        self.built = True

    def call(self, x):
        return self._convolve(ops.pad(x, ((0, 0), (self.context, 0), (0, 0))))

    def initial_state(self, batch_size: int):
        """The last inputs, float (batch, context, channels): zeros at the start."""
        return ops.zeros((batch_size, self.context, self.input_dim), dtype=self.compute_dtype)

    def advance(self, x, state):
        """Continues a stream: `(y, state)` for the next chunk `x`."""
        x = ops.concatenate([state, ops.cast(x, self.compute_dtype)], axis=1)
        return self._convolve(x), x[:, x.shape[1] - self.context :]

    def _convolve(self, x):
        if self.depthwise:
            # Shifted products: XLA's depthwise convolution is many times slower on CPU.
            length = ops.shape(x)[1] - self.context
            taps = ops.unstack(ops.convert_to_tensor(self.kernel), axis=0)
            shifted = (
                tap * x[:, i * self.dilation : i * self.dilation + length]
                for i, tap in enumerate(taps)
            )
            return sum(shifted) + self.bias
        y = ops.conv(
            x, self.kernel, strides=self.strides, padding="valid", dilation_rate=self.dilation
        )
        return y + self.bias

    def compute_output_spec(self, x):
        time = None if x.shape[1] is None else x.shape[1] // self.strides
        return keras.KerasTensor((x.shape[0], time, self.filters), dtype=self.compute_dtype)

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            filters=self.filters,
            kernel_size=self.kernel_size,
            strides=self.strides,
            dilation=self.dilation,
            depthwise=self.depthwise,
        )
        return config


@keras.saving.register_keras_serializable(package="keras_speechssm")
class CausalConv1DTranspose(keras.layers.Layer):
    """The mirror of a strided `CausalConv1D`: raises the rate, never looks ahead.

    Every input step becomes `kernel_size` output steps, the later ones added to what
    the next inputs give (overlap-add).

    Args:
        filters: int. Output channels.
        kernel_size: int, a multiple of `strides`.
        strides: int. Output steps an input step.

    Call arguments:
        x: float (batch, time, channels).

    Returns:
        float (batch, time * strides, filters).

    `initial_state(batch_size)` and `advance(x, state) -> (y, state)` process a stream
    chunk by chunk with the same result.
    """

    def __init__(self, filters: int, kernel_size: int, strides: int, **kwargs):
        super().__init__(**kwargs)
        if kernel_size % strides:
            raise ValueError(f"kernel_size {kernel_size} is no multiple of strides {strides}.")
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.num_parts = kernel_size // strides

    def build(self, input_shape):
        self.input_dim = input_shape[-1]
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.input_dim, self.kernel_size * self.filters),
            initializer=keras.initializers.VarianceScaling(
                1.0 / self.num_parts, "fan_in", "truncated_normal"
            ),
        )
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        self.built = True

    def call(self, x):
        return self._expand(ops.pad(x, ((0, 0), (self.num_parts - 1, 0), (0, 0))))

    def initial_state(self, batch_size: int):
        """The last inputs, float (batch, kernel_size / strides - 1, channels)."""
        return ops.zeros((batch_size, self.num_parts - 1, self.input_dim), self.compute_dtype)

    def advance(self, x, state):
        """Continues a stream: `(y, state)` for the next chunk `x`."""
        x = ops.concatenate([state, ops.cast(x, self.compute_dtype)], axis=1)
        return self._expand(x), x[:, x.shape[1] - self.num_parts + 1 :]

    def _expand(self, x):
        time = ops.shape(x)[1] - self.num_parts + 1
        width = self.strides * self.filters
        # A flat product: see PointwiseDense.
        parts = ops.matmul(ops.reshape(x, (-1, self.input_dim)), self.kernel)
        parts = ops.reshape(parts, (-1, ops.shape(x)[1], self.kernel_size * self.filters))
        # Part p of input t lands p strides later; input t stands at index t + num_parts - 1.
        y = sum(
            parts[:, self.num_parts - 1 - p : self.num_parts - 1 - p + time][
                ..., p * width : (p + 1) * width
            ]
            for p in range(self.num_parts)
        )
        return ops.reshape(y, (-1, time * self.strides, self.filters)) + self.bias

    def compute_output_spec(self, x):
        time = None if x.shape[1] is None else x.shape[1] * self.strides
        return keras.KerasTensor((x.shape[0], time, self.filters), dtype=self.compute_dtype)

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(filters=self.filters, kernel_size=self.kernel_size, strides=self.strides)
        return config
