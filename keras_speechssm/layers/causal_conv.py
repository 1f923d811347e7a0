"""Causal convolutions that may change the rate: the building blocks of the codec."""

import keras
from keras import ops

from keras_speechssm.layers.dense import depthwise_conv


@keras.saving.register_keras_serializable(package="keras_speechssm")
class CausalConv1D(keras.layers.Layer):
    """A convolution over time that does not look ahead, optionally strided.

    Output step t depends on the inputs up to `(t + 1) * strides - 1`. Before the first input there
    are zeros.

    `initial_state` and `advance` process a stream in chunks whose lengths are multiples of
    `strides`, see `StreamingLayer`.

    Args:
        filters: Number of output channels.
        kernel_size: Number of taps, at least `strides`.
        strides: Input steps per output step. Defaults to `1`.
        dilation: Distance between the inputs of neighboring taps. Defaults to `1`.
        depthwise: One filter per channel, without mixing channels. Defaults to `False`.

    Raises:
        ValueError: If `kernel_size` is below `strides`, or a depthwise layer has strides or
            changes the number of channels.

    Call arguments:
        x: float (batch, time, channels); time is a multiple of `strides`.

    Returns:
        float (batch, time / strides, filters).

    Example:

    ```python
    import keras
    from keras_speechssm.layers import CausalConv1D

    layer = CausalConv1D(filters=8, kernel_size=4, strides=2)
    y = layer(keras.random.normal((2, 20, 3)))  # (2, 10, 8)
    y, state = layer.advance(keras.random.normal((2, 6, 3)), layer.initial_state(2))
    ```

    Reference:
        Zeghidour et al. 2021, "SoundStream" (arXiv 2107.03312), section III-A.
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
            raise ValueError(f"kernel_size is {kernel_size}; expected at least strides, {strides}.")
        if depthwise and strides != 1:
            raise ValueError(f"strides is {strides}; a depthwise CausalConv1D supports 1 only.")
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
                f"filters is {self.filters}, but the input has {channels} channels; a depthwise "
                "CausalConv1D needs as many."
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
        """Returns the state before any input: zeros (batch, context, channels)."""
        return ops.zeros((batch_size, self.context, self.input_dim), dtype=self.compute_dtype)

    def advance(self, x, state):
        """Processes the next chunk of a stream; returns its outputs and the new state."""
        x = ops.concatenate([state, ops.cast(x, self.compute_dtype)], axis=1)
        return self._convolve(x), x[:, x.shape[1] - self.context :]

    def _convolve(self, x):
        if self.depthwise:
            taps = ops.unstack(ops.convert_to_tensor(self.kernel), axis=0)
            return depthwise_conv(x, taps, self.dilation) + self.bias
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
    """The transpose of a strided `CausalConv1D`: raises the rate and does not look ahead.

    Each input step becomes `kernel_size` output steps; those of neighboring inputs overlap and are
    added.

    `initial_state` and `advance` process a stream chunk by chunk, see `StreamingLayer`.

    Args:
        filters: Number of output channels.
        kernel_size: Number of taps, a multiple of `strides`.
        strides: Output steps per input step.

    Raises:
        ValueError: If `kernel_size` is not a multiple of `strides`.

    Call arguments:
        x: float (batch, time, channels).

    Returns:
        float (batch, time * strides, filters).

    Example:

    ```python
    import keras
    from keras_speechssm.layers import CausalConv1DTranspose

    layer = CausalConv1DTranspose(filters=3, kernel_size=4, strides=2)
    y = layer(keras.random.normal((2, 10, 8)))  # (2, 20, 3)
    ```

    Reference:
        Zeghidour et al. 2021, "SoundStream" (arXiv 2107.03312), section III-B.
    """

    def __init__(self, filters: int, kernel_size: int, strides: int, **kwargs):
        super().__init__(**kwargs)
        if kernel_size % strides:
            raise ValueError(
                f"kernel_size is {kernel_size}; expected a multiple of strides, {strides}."
            )
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
        """Returns the state before any input: (batch, kernel_size / strides - 1, channels)."""
        return ops.zeros((batch_size, self.num_parts - 1, self.input_dim), self.compute_dtype)

    def advance(self, x, state):
        """Processes the next chunk of a stream; returns its outputs and the new state."""
        x = ops.concatenate([state, ops.cast(x, self.compute_dtype)], axis=1)
        return self._expand(x), x[:, x.shape[1] - self.num_parts + 1 :]

    def _expand(self, x):
        time = ops.shape(x)[1] - self.num_parts + 1
        width = self.strides * self.filters
        # One product of two matrices, as in PointwiseDense.
        parts = ops.matmul(ops.reshape(x, (-1, self.input_dim)), self.kernel)
        parts = ops.reshape(parts, (-1, ops.shape(x)[1], self.kernel_size * self.filters))
        # Part p of input t belongs p strides later; input t is at index t + num_parts - 1.
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
