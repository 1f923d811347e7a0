"""Layers of the Descript Audio Codec: Snake, residual units, and the factorized quantizer."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_speechssm")
class Snake(keras.layers.Layer):
    """The periodic activation x + sin^2(a x) / a, with one learned `a` per channel.

    Call arguments:
        x: float (batch, time, channels).

    Returns:
        float (batch, time, channels).

    Example:

    ```python
    import keras
    from keras_speechssm.models.descript_audio_codec.descript_audio_codec_layers import Snake

    y = Snake()(keras.random.normal((2, 10, 8)))  # (2, 10, 8)
    ```

    Reference:
        - [Kumar et al., 2023](https://arxiv.org/abs/2306.06546)
    """

    def build(self, input_shape):
        self.alpha = self.add_weight(name="alpha", shape=(input_shape[-1],), initializer="ones")
        self.built = True

    def call(self, x):
        alpha = ops.cast(self.alpha, x.dtype)
        # A small `a` is 0 in float16, so its inverse is computed in float32.
        inverse = ops.cast(1.0 / (ops.cast(self.alpha, "float32") + 1e-9), x.dtype)
        return x + inverse * ops.square(ops.sin(alpha * x))

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="keras_speechssm")
class StridedConv1D(keras.layers.Layer):
    """A convolution that lowers the rate by its stride, centered on its outputs.

    The kernel spans two strides, and half a stride of zeros, rounded up, is added on each side.

    Args:
        filters: int. Number of output channels.
        strides: int. Input steps per output step.

    Call arguments:
        x: float (batch, time, channels), time a multiple of `strides`.

    Returns:
        float (batch, time / strides, filters).

    Example:

    ```python
    import keras
    from keras_speechssm.models.descript_audio_codec.descript_audio_codec_layers import (
        StridedConv1D,
    )

    y = StridedConv1D(filters=4, strides=5)(keras.random.normal((2, 20, 8)))  # (2, 4, 4)
    ```
    """

    def __init__(self, filters: int, strides: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(2 * self.strides, input_shape[-1], self.filters),
            initializer="glorot_uniform",
        )
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        self.built = True

    def call(self, x):
        margin = -(-self.strides // 2)
        x = ops.pad(x, ((0, 0), (margin, margin), (0, 0)))
        y = ops.conv(x, ops.cast(self.kernel, x.dtype), strides=self.strides, padding="valid")
        return y + ops.cast(self.bias, y.dtype)

    def compute_output_spec(self, x):
        time = x.shape[1] and x.shape[1] // self.strides
        return keras.KerasTensor((x.shape[0], time, self.filters), dtype=self.compute_dtype)

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(filters=self.filters, strides=self.strides)
        return config


@keras.saving.register_keras_serializable(package="keras_speechssm")
class StridedConv1DTranspose(keras.layers.Layer):
    """The transpose of `StridedConv1D`: raises the rate.

    Args:
        filters: int. Number of output channels.
        strides: int. Output steps per input step. The result of an odd stride is one step
            shorter.

    Call arguments:
        x: float (batch, time, channels).

    Returns:
        float (batch, time * strides - strides % 2, filters).

    Example:

    ```python
    import keras
    from keras_speechssm.models.descript_audio_codec.descript_audio_codec_layers import (
        StridedConv1DTranspose,
    )

    y = StridedConv1DTranspose(filters=4, strides=5)(keras.random.normal((2, 4, 8)))  # (2, 19, 4)
    ```
    """

    def __init__(self, filters: int, strides: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides

    def build(self, input_shape):
        # Taps and outputs together, so that one product of two matrices computes every part.
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], 2 * self.strides * self.filters),
            initializer=keras.initializers.VarianceScaling(0.5, "fan_in", "truncated_normal"),
        )
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        self.built = True

    def call(self, x):
        batch, time = ops.shape(x)[0], ops.shape(x)[1]
        width = self.strides * self.filters
        parts = ops.matmul(ops.reshape(x, (-1, x.shape[-1])), ops.cast(self.kernel, x.dtype))
        parts = ops.reshape(parts, (batch, time, 2 * width))
        # Each input gives two strides of outputs; the second one overlaps with the next input.
        first = ops.pad(parts[..., :width], ((0, 0), (0, 1), (0, 0)))
        second = ops.pad(parts[..., width:], ((0, 0), (1, 0), (0, 0)))
        y = ops.reshape(first + second, (batch, (time + 1) * self.strides, self.filters))
        margin = -(-self.strides // 2)
        return y[:, margin:-margin] + ops.cast(self.bias, y.dtype)

    def compute_output_spec(self, x):
        time = x.shape[1] and x.shape[1] * self.strides - self.strides % 2
        return keras.KerasTensor((x.shape[0], time, self.filters), dtype=self.compute_dtype)

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(filters=self.filters, strides=self.strides)
        return config


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SnakeResidualUnit(keras.layers.Layer):
    """Snake, dilated convolution, Snake, pointwise convolution, added to the input.

    Args:
        channels: int. Channels of input and output.
        dilation: int. Dilation of the first convolution, which has 7 taps.

    Call arguments:
        x: float (batch, time, channels).

    Returns:
        float (batch, time, channels).

    Example:

    ```python
    import keras
    from keras_speechssm.models.descript_audio_codec.descript_audio_codec_layers import (
        SnakeResidualUnit,
    )

    y = SnakeResidualUnit(channels=8, dilation=3)(keras.random.normal((2, 40, 8)))  # (2, 40, 8)
    ```
    """

    def __init__(self, channels: int, dilation: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.dilation = dilation
        policy = self.dtype_policy
        self.first_snake = Snake(dtype=policy, name="first_snake")
        self.dilated = keras.layers.Conv1D(
            channels, 7, padding="same", dilation_rate=dilation, dtype=policy, name="dilated"
        )
        self.second_snake = Snake(dtype=policy, name="second_snake")
        self.pointwise = keras.layers.Dense(channels, dtype=policy, name="pointwise")

    def build(self, input_shape):
        for layer in (self.first_snake, self.dilated, self.second_snake, self.pointwise):
            layer.build(input_shape)
        self.built = True

    def call(self, x):
        y = self.dilated(self.first_snake(x))
        return x + self.pointwise(self.second_snake(y))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(channels=self.channels, dilation=self.dilation)
        return config


@keras.saving.register_keras_serializable(package="keras_speechssm")
class FactorizedQuantizer(keras.layers.Layer):
    """A residual quantizer whose codes are looked up in a few dimensions, by their direction.

    Each level projects the residual to `code_dim` dimensions, picks the code with the largest
    cosine similarity, and projects that code back. It runs in float32.

    Args:
        num_quantizers: int. Levels.
        codebook_size: int. Codes of each level.
        code_dim: int. Dimension of the codes. Defaults to `8`.

    Call arguments:
        x: float (batch, time, dim).

    Returns:
        `(quantized, indices)`: float (batch, time, dim) with straight-through gradients, and
        int32 (batch, time, num_quantizers).

    Example:

    ```python
    import keras
    from keras_speechssm.models.descript_audio_codec.descript_audio_codec_layers import (
        FactorizedQuantizer,
    )

    quantizer = FactorizedQuantizer(num_quantizers=4, codebook_size=8)
    quantized, indices = quantizer(keras.random.normal((2, 10, 16)))
    coarse = quantizer.decode(indices[..., :2])  # the first two levels only
    ```

    Reference:
        - [Kumar et al., 2023](https://arxiv.org/abs/2306.06546)
    """

    def __init__(self, num_quantizers: int, codebook_size: int, code_dim: int = 8, **kwargs):
        super().__init__(**kwargs)
        if num_quantizers < 1:
            raise ValueError(f"num_quantizers is {num_quantizers}; expected at least 1.")
        self.num_quantizers = num_quantizers
        self.codebook_size = codebook_size
        self.code_dim = code_dim

    def build(self, input_shape):
        dim = input_shape[-1]
        self.input_denses, self.output_denses, self.codebooks = [], [], []
        for level in range(self.num_quantizers):
            # Gradients pass it straight through, so none of its weights receives one.
            fixed = {"dtype": "float32", "trainable": False}
            inwards = keras.layers.Dense(self.code_dim, name=f"input_{level}", **fixed)
            outwards = keras.layers.Dense(dim, name=f"output_{level}", **fixed)
            inwards.build((None, dim))
            outwards.build((None, self.code_dim))
            self.input_denses.append(inwards)
            self.output_denses.append(outwards)
            self.codebooks.append(
                self.add_weight(
                    name=f"codebook_{level}",
                    shape=(self.codebook_size, self.code_dim),
                    initializer=keras.initializers.RandomNormal(stddev=1.0),
                    autocast=False,
                    **fixed,
                )
            )
        self.built = True

    def encode(self, x):
        """Returns the indices int32 (batch, time, levels) of `x` (batch, time, dim)."""
        return self._quantize(x)[1]

    def decode(self, indices):
        """Returns the sum of the code vectors, float32 (batch, time, dim).

        Args:
            indices: int32 (batch, time, n), the first n levels, n from 1 to `num_quantizers`.
        """
        levels = enumerate(ops.unstack(indices, axis=-1))
        return sum(self._decode_level(level, codes) for level, codes in levels)

    def call(self, x):
        total, indices = self._quantize(ops.stop_gradient(x))
        x = ops.cast(x, "float32")
        return ops.cast(x + ops.stop_gradient(total - x), self.compute_dtype), indices

    def _quantize(self, x):
        residual, total, indices = ops.cast(x, "float32"), 0.0, []
        for level in range(self.num_quantizers):
            codebook = ops.convert_to_tensor(self.codebooks[level])
            # The length of the input does not change which code is the most similar.
            lengths = ops.sqrt(ops.sum(ops.square(codebook), axis=-1, keepdims=True))
            directions = codebook / ops.maximum(lengths, 1e-12)
            similarity = ops.matmul(self.input_denses[level](residual), ops.transpose(directions))
            indices.append(ops.cast(ops.argmax(similarity, axis=-1), "int32"))
            quantized = self._decode_level(level, indices[-1])
            residual, total = residual - quantized, total + quantized
        return total, ops.stack(indices, axis=-1)

    def _decode_level(self, level, codes):
        codebook = ops.convert_to_tensor(self.codebooks[level])
        return self.output_denses[level](ops.take(codebook, codes, axis=0))

    def compute_output_spec(self, x):
        return (
            keras.KerasTensor(x.shape, dtype=self.compute_dtype),
            keras.KerasTensor((*x.shape[:-1], self.num_quantizers), dtype="int32"),
        )

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            num_quantizers=self.num_quantizers,
            codebook_size=self.codebook_size,
            code_dim=self.code_dim,
        )
        return config
