"""CAM++: the speaker encoder of S3Gen."""

import keras
from keras import ops

_SEGMENT = 100
"""Frames of one segment of the context: 2 s at 50 Hz."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class CAMPlusPlus(keras.layers.Layer):
    """CAM++: the log-mel spectrum of a recording to one vector for the voice in it.

    A small two-dimensional convolutional network, then three densely connected stacks of
    convolutions over time. Each convolution is weighted by its context: the mean over the
    recording and over segments of 2 s. The defaults are the published sizes. It is for inference:
    the batch normalizations use their stored statistics.

    Args:
        embedding_dim: int. Dimension of the result. Defaults to `192`.
        num_mels: int. Mel bands, a multiple of 8. Defaults to `80`.
        image_channels: int. Channels of the two-dimensional part. Defaults to `32`.
        channels: int. Channels of the first stack's input. Defaults to `128`.
        growth: int. Channels that each layer of a stack appends. Defaults to `32`.
        stack_sizes: tuple of int. Layers of the three stacks. Defaults to `(12, 24, 16)`.

    Call arguments:
        log_mel: float (batch, frames, num_mels) at 100 Hz, see
            `keras_speechssm.audio.mel.kaldi_log_mel`, minus its mean over time.

    Returns:
        float32 (batch, embedding_dim).

    Example:

    ```python
    import keras
    from keras_speechssm.models.s3_gen.cam_plus_plus import CAMPlusPlus

    encoder = CAMPlusPlus(channels=8, growth=2, image_channels=2, stack_sizes=(1, 1, 1))
    vector = encoder(keras.random.normal((1, 300, 80)))  # (1, 192)
    ```

    Reference:
        - [Wang et al., 2023](https://arxiv.org/abs/2303.00332)
    """

    def __init__(
        self,
        embedding_dim: int = 192,
        num_mels: int = 80,
        image_channels: int = 32,
        channels: int = 128,
        growth: int = 32,
        stack_sizes=(12, 24, 16),
        **kwargs,
    ):
        super().__init__(**kwargs)
        # === Config ===
        self.embedding_dim = embedding_dim
        self.num_mels = num_mels
        self.image_channels = image_channels
        self.channels = channels
        self.growth = growth
        self.stack_sizes = tuple(stack_sizes)

        # === Layers ===
        policy = self.dtype_policy

        def image_convolution(name, strides):
            return keras.layers.Conv2D(
                image_channels, 3, strides=strides, use_bias=False, dtype=policy, name=name
            )

        self.first_convolution = image_convolution("first_convolution", 1)
        self.first_norm = _norm(policy, "first_norm")
        self.units = [
            _ImageUnit(image_channels, halve=i % 2 == 0, dtype=policy, name=f"unit_{i}")
            for i in range(4)
        ]
        self.last_convolution = image_convolution("last_convolution", (2, 1))
        self.last_norm = _norm(policy, "last_norm")
        self.time_convolution = keras.layers.Conv1D(
            channels, 5, strides=2, use_bias=False, dtype=policy, name="time_convolution"
        )
        self.time_norm = _norm(policy, "time_norm")
        self.stacks, self.transition_norms, self.transitions = [], [], []
        for i, size in enumerate(self.stack_sizes):
            self.stacks.append(
                [
                    _ContextAwareConvolution(
                        growth, dilation=min(i + 1, 2), dtype=policy, name=f"stack_{i}_layer_{j}"
                    )
                    for j in range(size)
                ]
            )
            channels = (channels + size * growth) // 2
            self.transition_norms.append(_norm(policy, f"transition_{i}_norm"))
            self.transitions.append(_dense(channels, policy, f"transition_{i}"))
        self.output_norm = _norm(policy, "output_norm")
        self.embedding_dense = _dense(embedding_dim, "float32", "embedding_dense")
        self.embedding_norm = keras.layers.BatchNormalization(
            epsilon=1e-5, center=False, scale=False, dtype="float32", name="embedding_norm"
        )

    def build(self, input_shape):
        image = (None, None, None, self.image_channels)
        self.first_convolution.build((None, None, None, 1))
        for layer in (self.first_norm, *self.units, self.last_convolution, self.last_norm):
            layer.build(image)
        self.time_convolution.build((None, None, self.num_mels // 8 * self.image_channels))
        channels = self.channels
        self.time_norm.build((None, None, channels))
        for stack, norm, transition in zip(
            self.stacks, self.transition_norms, self.transitions, strict=True
        ):
            for layer in stack:
                layer.build((None, None, channels))
                channels += self.growth
            norm.build((None, None, channels))
            transition.build((None, None, channels))
            channels = transition.units
        self.output_norm.build((None, None, channels))
        self.embedding_dense.build((None, 2 * channels))
        self.embedding_norm.build((None, self.embedding_dim))
        self.built = True

    def call(self, log_mel):
        # Frequency, time, channels.
        x = ops.expand_dims(ops.transpose(ops.cast(log_mel, self.compute_dtype), (0, 2, 1)), -1)
        x = ops.relu(self.first_norm(self.first_convolution(_pad(x)), training=False))
        for unit in self.units:
            x = unit(x)
        x = ops.relu(self.last_norm(self.last_convolution(_pad(x)), training=False))
        x = ops.transpose(x, (0, 2, 3, 1))
        x = ops.reshape(x, (ops.shape(x)[0], -1, self.num_mels // 8 * self.image_channels))
        x = self.time_convolution(ops.pad(x, ((0, 0), (2, 2), (0, 0))))
        x = ops.relu(self.time_norm(x, training=False))
        for stack, norm, transition in zip(
            self.stacks, self.transition_norms, self.transitions, strict=True
        ):
            for layer in stack:
                x = ops.concatenate([x, layer(x)], axis=-1)
            x = transition(ops.relu(norm(x, training=False)))
        x = ops.cast(ops.relu(self.output_norm(x, training=False)), "float32")
        count = ops.cast(ops.shape(x)[1], "float32")
        deviation = ops.sqrt(ops.var(x, axis=1) * count / (count - 1.0))  # unbiased
        statistics = ops.concatenate([ops.mean(x, axis=1), deviation], axis=-1)
        return self.embedding_norm(self.embedding_dense(statistics), training=False)

    def compute_output_spec(self, log_mel):
        return keras.KerasTensor((log_mel.shape[0], self.embedding_dim), dtype="float32")

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            embedding_dim=self.embedding_dim,
            num_mels=self.num_mels,
            image_channels=self.image_channels,
            channels=self.channels,
            growth=self.growth,
            stack_sizes=self.stack_sizes,
        )
        return config


class _ImageUnit(keras.layers.Layer):
    """Two 3x3 convolutions with a shortcut; `halve` halves the number of frequencies."""

    def __init__(self, channels: int, halve: bool, **kwargs):
        super().__init__(**kwargs)
        policy, strides = self.dtype_policy, (2, 1) if halve else (1, 1)

        def convolution(size, strides, name):
            return keras.layers.Conv2D(
                channels, size, strides=strides, use_bias=False, dtype=policy, name=name
            )

        self.first_convolution = convolution(3, strides, "first_convolution")
        self.first_norm = _norm(policy, "first_norm")
        self.second_convolution = convolution(3, 1, "second_convolution")
        self.second_norm = _norm(policy, "second_norm")
        self.shortcut = self.shortcut_norm = None
        if halve:
            self.shortcut = convolution(1, strides, "shortcut")
            self.shortcut_norm = _norm(policy, "shortcut_norm")

    def build(self, input_shape):
        for layer in (
            self.first_convolution,
            self.first_norm,
            self.second_convolution,
            self.second_norm,
        ):
            layer.build(input_shape)
        if self.shortcut is not None:
            self.shortcut.build(input_shape)
            self.shortcut_norm.build(input_shape)
        self.built = True

    def call(self, x):
        y = ops.relu(self.first_norm(self.first_convolution(_pad(x)), training=False))
        y = self.second_norm(self.second_convolution(_pad(y)), training=False)
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x), training=False)
        return ops.relu(x + y)


class _ContextAwareConvolution(keras.layers.Layer):
    """A convolution over time, each output channel weighted by its context."""

    def __init__(self, filters: int, dilation: int, **kwargs):
        super().__init__(**kwargs)
        policy, width = self.dtype_policy, 4 * filters
        self.width = width
        self.input_norm = _norm(policy, "input_norm")
        self.bottleneck = _dense(width, policy, "bottleneck")
        self.bottleneck_norm = _norm(policy, "bottleneck_norm")
        self.local = keras.layers.Conv1D(
            filters,
            3,
            padding="same",
            dilation_rate=dilation,
            use_bias=False,
            dtype=policy,
            name="local",
        )
        self.context_intermediate = keras.layers.Dense(
            width // 2, dtype=policy, name="context_intermediate"
        )
        self.context_output = keras.layers.Dense(filters, dtype=policy, name="context_output")

    def build(self, input_shape):
        self.input_norm.build(input_shape)
        self.bottleneck.build(input_shape)
        wide = (None, None, self.width)
        for layer in (self.bottleneck_norm, self.local, self.context_intermediate):
            layer.build(wide)
        self.context_output.build((None, None, self.width // 2))
        self.built = True

    def call(self, x):
        x = self.bottleneck(ops.relu(self.input_norm(x, training=False)))
        x = ops.relu(self.bottleneck_norm(x, training=False))
        context = ops.mean(x, axis=1, keepdims=True) + self._segment_means(x)
        context = ops.relu(self.context_intermediate(context))
        return self.local(x) * ops.sigmoid(self.context_output(context))

    def _segment_means(self, x):
        """The mean of each segment at each of its frames; the last one may be shorter."""
        batch, time = ops.shape(x)[0], ops.shape(x)[1]
        count = -(-time // _SEGMENT)
        missing = count * _SEGMENT - time
        parts = ops.reshape(
            ops.pad(x, ((0, 0), (0, missing), (0, 0))), (batch, count, _SEGMENT, self.width)
        )
        lengths = [_SEGMENT] * (count - 1) + [_SEGMENT - missing]
        means = ops.sum(parts, axis=2) / ops.convert_to_tensor(lengths, x.dtype)[:, None]
        return ops.repeat(means, _SEGMENT, axis=1)[:, :time]


def _norm(policy, name: str):
    return keras.layers.BatchNormalization(epsilon=1e-5, dtype=policy, name=name)


def _dense(units: int, policy, name: str):
    return keras.layers.Dense(units, use_bias=False, dtype=policy, name=name)


def _pad(x):
    """Adds a border for a 3x3 kernel: "same" would pad a stride of 2 on one side only."""
    return ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
