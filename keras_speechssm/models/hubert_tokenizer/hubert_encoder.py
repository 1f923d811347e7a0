"""The encoder of HuBERT, up to one of its layers."""

import math

import keras
from keras import ops

from keras_speechssm.layers.padding import gather_time, left_align_order, mask_padding
from keras_speechssm.layers.softmax import attend


@keras.saving.register_keras_serializable(package="keras_speechssm")
class HubertEncoderBlock(keras.layers.Layer):
    """One Transformer layer of HuBERT base: each part is normalized after it is added.

    The softmax runs in float32.

    Args:
        num_heads: int. Attention heads.
        hidden_dim: int. Width of inputs and outputs, a multiple of `num_heads`.
        intermediate_dim: int. Width inside the feed-forward.

    Call arguments:
        x: float (batch, time, hidden_dim).
        padding_mask: bool (batch, time), `True` at real positions. Defaults to `None`: every
            position is real.

    Returns:
        float (batch, time, hidden_dim).

    Example:

    ```python
    import keras
    from keras_speechssm.models.hubert_tokenizer.hubert_encoder import HubertEncoderBlock

    block = HubertEncoderBlock(num_heads=2, hidden_dim=16, intermediate_dim=32)
    y = block(keras.random.normal((2, 50, 16)))  # (2, 50, 16)
    ```

    Reference:
        - [Hsu et al., 2021](https://arxiv.org/abs/2106.07447)
    """

    def __init__(self, num_heads: int, hidden_dim: int, intermediate_dim: int, **kwargs):
        super().__init__(**kwargs)
        if num_heads < 1 or hidden_dim % num_heads:
            raise ValueError(
                f"hidden_dim must be a multiple of num_heads, got {hidden_dim} and {num_heads}."
            )
        # === Config ===
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim

        # === Layers ===
        policy = self.dtype_policy

        def dense(width, name):
            return keras.layers.Dense(width, dtype=policy, name=name)

        def norm(name):
            return keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name=name)

        self.query_dense = dense(hidden_dim, "query_dense")
        self.key_dense = dense(hidden_dim, "key_dense")
        self.value_dense = dense(hidden_dim, "value_dense")
        self.output_dense = dense(hidden_dim, "output_dense")
        self.attention_norm = norm("attention_norm")
        self.feedforward_intermediate = dense(intermediate_dim, "feedforward_intermediate")
        self.feedforward_output = dense(hidden_dim, "feedforward_output")
        self.feedforward_norm = norm("feedforward_norm")

    def build(self, input_shape):
        for layer in (
            self.query_dense,
            self.key_dense,
            self.value_dense,
            self.output_dense,
            self.attention_norm,
            self.feedforward_intermediate,
            self.feedforward_norm,
        ):
            layer.build(input_shape)
        self.feedforward_output.build((*input_shape[:-1], self.intermediate_dim))
        self.built = True

    def call(self, x, padding_mask=None):
        x = self.attention_norm(x + self._attend(x, padding_mask))
        y = keras.activations.gelu(self.feedforward_intermediate(x), approximate=False)
        return self.feedforward_norm(x + self.feedforward_output(y))

    def _attend(self, x, padding_mask):
        batch, time = ops.shape(x)[0], ops.shape(x)[1]
        size = self.hidden_dim // self.num_heads
        split = (batch, time, self.num_heads, size)
        queries = ops.reshape(self.query_dense(x), split)
        keys = ops.reshape(self.key_dense(x), split)
        values = ops.reshape(self.value_dense(x), split)
        return self.output_dense(attend(queries, keys, values, padding_mask))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            num_heads=self.num_heads,
            hidden_dim=self.hidden_dim,
            intermediate_dim=self.intermediate_dim,
        )
        return config


@keras.saving.register_keras_serializable(package="keras_speechssm")
class HubertEncoder(keras.layers.Layer):
    """Encoder of HuBERT base: waveform to the features of its last layer here.

    Strided convolutions, the first one normalized over time, a projection, a convolution for the
    positions, and Transformer layers. The waveform is used as it is, not normalized. In a padded
    batch, statistics over time are those of the real samples, so padding changes nothing.

    Args:
        num_layers: int. Transformer layers.
        num_heads: int. Attention heads.
        hidden_dim: int. Width.
        intermediate_dim: int. Width inside the feed-forwards.
        conv_channels: tuple of int. Channels of each convolution.
        conv_kernels: tuple of int. Kernel size of each convolution.
        conv_strides: tuple of int. Stride of each convolution.
        position_kernel: int. Even kernel size of the convolution for the positions.
        position_groups: int. Groups of that convolution.

    Call arguments:
        waveform: float (batch, samples) in [-1, 1] at 16 kHz; samples a multiple of
            `samples_per_step`. The last step sees zeros after the end.
        padding_mask: bool (batch, samples / samples_per_step), `True` at real steps. Padding may
            be anywhere and hold anything. Defaults to `None`: every step is real.

    Returns:
        float (batch, samples / samples_per_step, hidden_dim), zeros at padding.

    Example:

    ```python
    import keras
    from keras_speechssm.models.hubert_tokenizer.hubert_encoder import HubertEncoder

    encoder = HubertEncoder(1, 2, 16, 32, (8, 8), (200, 4), (160, 2), 4, 2)
    features = encoder(keras.random.uniform((1, 6400)))  # (1, 20, 16)
    ```

    Reference:
        - [Hsu et al., 2021](https://arxiv.org/abs/2106.07447)
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        conv_channels,
        conv_kernels,
        conv_strides,
        position_kernel: int = 128,
        position_groups: int = 16,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not len(conv_channels) == len(conv_kernels) == len(conv_strides):
            raise ValueError(
                "conv_channels, conv_kernels and conv_strides must have the same length; got "
                f"{len(conv_channels)}, {len(conv_kernels)} and {len(conv_strides)}."
            )
        if any(k < s for k, s in zip(conv_kernels, conv_strides, strict=True)):
            raise ValueError(
                "Each of conv_kernels must be at least its stride; got "
                f"{tuple(conv_kernels)} and {tuple(conv_strides)}."
            )
        # === Config ===
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.conv_channels = tuple(conv_channels)
        self.conv_kernels = tuple(conv_kernels)
        self.conv_strides = tuple(conv_strides)
        self.position_kernel = position_kernel
        self.position_groups = position_groups
        self.samples_per_step = math.prod(self.conv_strides)
        reach = 1
        for kernel, stride in zip(conv_kernels[::-1], conv_strides[::-1], strict=True):
            reach = (reach - 1) * stride + kernel
        self.extra_samples = reach - self.samples_per_step
        """Samples after the end of a step that it depends on."""

        # === Layers ===
        policy = self.dtype_policy

        def norm(name):
            return keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name=name)

        sizes = zip(self.conv_channels, self.conv_kernels, self.conv_strides, strict=True)
        self.convolutions = [
            keras.layers.Conv1D(
                channels, kernel, strides=stride, use_bias=False, dtype=policy, name=f"conv_{i}"
            )
            for i, (channels, kernel, stride) in enumerate(sizes)
        ]
        self.projection_norm = norm("projection_norm")
        self.projection = keras.layers.Dense(hidden_dim, dtype=policy, name="projection")
        self.input_norm = norm("input_norm")
        self.blocks = [
            HubertEncoderBlock(
                num_heads, hidden_dim, intermediate_dim, dtype=policy, name=f"block_{i}"
            )
            for i in range(num_layers)
        ]

    def build(self, waveform_shape, padding_mask_shape=None):
        channels = 1
        for layer, following in zip(self.convolutions, self.conv_channels, strict=True):
            layer.build((None, None, channels))
            channels = following
        first = self.conv_channels[0]
        self.gamma = self.add_weight(name="gamma", shape=(first,), initializer="ones")
        self.beta = self.add_weight(name="beta", shape=(first,), initializer="zeros")
        self.projection_norm.build((None, None, channels))
        self.projection.build((None, None, channels))
        group = self.hidden_dim // self.position_groups
        self.position_kernels = self.add_weight(
            name="position_kernels",
            shape=(self.position_groups, self.position_kernel, group, group),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        self.position_bias = self.add_weight(
            name="position_bias", shape=(self.hidden_dim,), initializer="zeros"
        )
        width = (None, None, self.hidden_dim)
        self.input_norm.build(width)
        for block in self.blocks:
            block.build(width)
        self.built = True

    def call(self, waveform, padding_mask=None):
        samples = waveform.shape[-1]
        if isinstance(samples, int) and (samples == 0 or samples % self.samples_per_step):
            raise ValueError(
                f"The waveform must hold whole steps of {self.samples_per_step} samples, got "
                f"{samples} samples; fill it up, or use HubertTokenizer.tokenize."
            )
        rank = lengths = None
        if padding_mask is not None:
            batch = ops.shape(waveform)[0]
            steps = ops.reshape(waveform, (batch, -1, self.samples_per_step))
            # Padding moves to the end of each row.
            order, rank = left_align_order(padding_mask)
            steps = gather_time(mask_padding(steps, padding_mask), order)
            waveform = ops.reshape(steps, (batch, -1))
            lengths = ops.sum(ops.cast(padding_mask, "int32"), axis=1, keepdims=True)
            lengths = lengths * self.samples_per_step + self.extra_samples
        waveform = ops.pad(waveform, ((0, 0), (0, self.extra_samples)))
        x = self.encode(waveform, lengths)
        if padding_mask is None:
            return x
        return mask_padding(gather_time(x, rank), padding_mask)

    def encode(self, waveform, lengths=None):
        """Encode waveforms of any length, without zeros after the end.

        Args:
            waveform: float (batch, samples), zeros after the end of each row.
            lengths: int (batch, 1), real samples of each row. Defaults to `None`: all of them.

        Returns:
            float (batch, time, hidden_dim), with whatever at the frames of padding.
        """
        x, mask = ops.cast(waveform, self.compute_dtype)[..., None], None
        for number, layer in enumerate(self.convolutions):
            x = layer(x)
            if lengths is not None:
                stride = self.conv_strides[number]
                lengths = (lengths - self.conv_kernels[number]) // stride + 1
            if number == 0:
                x = self._normalize_over_time(x, lengths)
            x = keras.activations.gelu(x, approximate=False)
        if lengths is not None:
            mask = ops.arange(ops.shape(x)[1], dtype="int32")[None] < lengths
        x = mask_padding(self.projection(self.projection_norm(x)), mask)
        x = self.input_norm(x + self._positions(x))
        for block in self.blocks:
            x = block(x, padding_mask=mask)
        return x

    def _normalize_over_time(self, x, lengths):
        """Normalizes each channel over the real frames of its row, in float32."""
        dtype, x = x.dtype, ops.cast(x, "float32")
        if lengths is None:
            mean = ops.mean(x, axis=1, keepdims=True)
            variance = ops.mean(ops.square(x - mean), axis=1, keepdims=True)
        else:
            real = ops.arange(ops.shape(x)[1], dtype="int32")[None] < lengths
            count = ops.cast(ops.maximum(lengths, 1), "float32")[..., None]
            mean = ops.sum(mask_padding(x, real), axis=1, keepdims=True) / count
            squares = mask_padding(ops.square(x - mean), real)
            variance = ops.sum(squares, axis=1, keepdims=True) / count
        x = (x - mean) * ops.rsqrt(variance + 1e-5)
        x = x * ops.cast(self.gamma, "float32") + ops.cast(self.beta, "float32")
        return ops.cast(x, dtype)

    def _positions(self, x):
        """The convolution for the positions, group by group: few backends have grouped ones."""
        margin = self.position_kernel // 2
        padded = ops.pad(x, ((0, 0), (margin, margin - 1), (0, 0)))
        kernels = ops.unstack(ops.cast(self.position_kernels, x.dtype), axis=0)
        parts = ops.split(padded, self.position_groups, axis=-1)
        groups = [
            ops.conv(part, kernel, padding="valid")
            for part, kernel in zip(parts, kernels, strict=True)
        ]
        y = ops.concatenate(groups, axis=-1) + ops.cast(self.position_bias, x.dtype)
        return keras.activations.gelu(y, approximate=False)

    def compute_output_spec(self, waveform, padding_mask=None):
        time = waveform.shape[1] and waveform.shape[1] // self.samples_per_step
        shape = (waveform.shape[0], time, self.hidden_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            hidden_dim=self.hidden_dim,
            intermediate_dim=self.intermediate_dim,
            conv_channels=self.conv_channels,
            conv_kernels=self.conv_kernels,
            conv_strides=self.conv_strides,
            position_kernel=self.position_kernel,
            position_groups=self.position_groups,
        )
        return config
