"""The encoder of S3TokenizerV2."""

import keras
import keras_hub
from keras import ops

from keras_speechssm.audio.mel import (
    WHISPER_HOP,
    WHISPER_WINDOW,
    slaney_mel_filters,
    whisper_log_mel,
)
from keras_speechssm.layers.dense import depthwise_conv
from keras_speechssm.layers.padding import gather_time, left_align_order, mask_padding
from keras_speechssm.layers.softmax import attend
from keras_speechssm.shapes import SAMPLES_PER_TOKEN


@keras.saving.register_keras_serializable(package="keras_speechssm")
class S3EncoderBlock(keras.layers.Layer):
    """One Transformer layer with a memory of neighboring values: FSMN attention.

    A depthwise convolution of the values (the memory) is added to the output of the attention.
    Queries and keys have rotary positions, and the softmax runs in float32.

    Args:
        num_heads: int. Attention heads.
        hidden_dim: int. Width of inputs and outputs, a multiple of `2 * num_heads`.
        intermediate_dim: int. Width inside the feed-forward.
        kernel_size: int. Odd number of taps of the memory. Defaults to `31`.

    Call arguments:
        x: float (batch, time, hidden_dim).
        padding_mask: bool (batch, time), `True` at real positions; padding comes last in each
            row. Defaults to `None`: every position is real.

    Returns:
        float (batch, time, hidden_dim).

    Example:

    ```python
    import keras
    from keras_speechssm.models.s3_tokenizer.s3_encoder import S3EncoderBlock

    block = S3EncoderBlock(num_heads=2, hidden_dim=16, intermediate_dim=32)
    y = block(keras.random.normal((2, 50, 16)))  # (2, 50, 16)
    ```

    Reference:
        - [Du et al., 2024](https://arxiv.org/abs/2412.10117)
    """

    def __init__(
        self,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        kernel_size: int = 31,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_heads < 1 or hidden_dim % (2 * num_heads):
            raise ValueError(
                "hidden_dim must be a multiple of 2 * num_heads, since rotary positions rotate "
                f"pairs; got {hidden_dim} and {num_heads}."
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; expected an odd number.")
        # === Config ===
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.kernel_size = kernel_size

        # === Layers ===
        policy = self.dtype_policy

        def dense(width, name, use_bias=True):
            return keras.layers.Dense(width, use_bias=use_bias, dtype=policy, name=name)

        def norm(name):
            return keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name=name)

        self.attention_norm = norm("attention_norm")
        self.query_dense = dense(hidden_dim, "query_dense")
        self.key_dense = dense(hidden_dim, "key_dense", use_bias=False)
        self.value_dense = dense(hidden_dim, "value_dense")
        self.output_dense = dense(hidden_dim, "output_dense")
        self.rotary = keras_hub.layers.RotaryEmbedding(dtype=policy, name="rotary")
        self.feedforward_norm = norm("feedforward_norm")
        self.feedforward_intermediate = dense(intermediate_dim, "feedforward_intermediate")
        self.feedforward_output = dense(hidden_dim, "feedforward_output")

    def build(self, input_shape):
        for layer in (
            self.attention_norm,
            self.query_dense,
            self.key_dense,
            self.value_dense,
            self.output_dense,
            self.feedforward_norm,
            self.feedforward_intermediate,
        ):
            layer.build(input_shape)
        size = self.hidden_dim // self.num_heads
        self.rotary.build((*input_shape[:-1], self.num_heads, size))
        self.feedforward_output.build((*input_shape[:-1], self.intermediate_dim))
        self.memory_kernel = self.add_weight(
            name="memory_kernel",
            shape=(self.kernel_size, self.hidden_dim),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        self.built = True

    def call(self, x, padding_mask=None):
        x = x + self._attend(self.attention_norm(x), padding_mask)
        y = self.feedforward_intermediate(self.feedforward_norm(x))
        return x + self.feedforward_output(keras.activations.gelu(y, approximate=False))

    def _attend(self, x, padding_mask):
        batch, time = ops.shape(x)[0], ops.shape(x)[1]
        size = self.hidden_dim // self.num_heads
        split = (batch, time, self.num_heads, size)
        queries = self.rotary(ops.reshape(self.query_dense(x), split))
        keys = self.rotary(ops.reshape(self.key_dense(x), split))
        values = self.value_dense(x)
        memory = self._remember(mask_padding(values, padding_mask), padding_mask)
        attended = attend(queries, keys, ops.reshape(values, split), padding_mask)
        return self.output_dense(attended) + memory

    def _remember(self, values, padding_mask):
        margin = self.kernel_size // 2
        kernel = ops.cast(ops.convert_to_tensor(self.memory_kernel), values.dtype)
        padded = ops.pad(values, ((0, 0), (margin, margin), (0, 0)))
        memory = depthwise_conv(padded, ops.unstack(kernel, axis=0))
        return mask_padding(memory + values, padding_mask)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            num_heads=self.num_heads,
            hidden_dim=self.hidden_dim,
            intermediate_dim=self.intermediate_dim,
            kernel_size=self.kernel_size,
        )
        return config


@keras.saving.register_keras_serializable(package="keras_speechssm")
class S3Encoder(keras.layers.Layer):
    """Encoder of S3TokenizerV2: waveform to vectors in (-1, 1) that only have to be rounded.

    Log-mel features at 100 Hz, two convolutions with stride 2, Transformer layers at 25 Hz, and
    a projection to a few dimensions.

    Args:
        num_layers: int. Transformer layers.
        num_heads: int. Attention heads.
        hidden_dim: int. Width.
        intermediate_dim: int. Width inside the feed-forwards.
        num_mels: int. Mel bands. Defaults to `128`.
        kernel_size: int. Taps of the blocks' memory. Defaults to `31`.
        code_dim: int. Dimension of the output. Defaults to `8`.

    Call arguments:
        waveform: float (batch, samples) in [-1, 1] at 16 kHz; samples a multiple of 640.
        padding_mask: bool (batch, samples / 640), `True` at real steps. Padding may be anywhere
            and hold anything. Defaults to `None`: every step is real.

    Returns:
        float32 (batch, samples / 640, code_dim), zeros at padding.

    Example:

    ```python
    import keras
    from keras_speechssm.models.s3_tokenizer.s3_encoder import S3Encoder

    encoder = S3Encoder(num_layers=1, num_heads=2, hidden_dim=16, intermediate_dim=32)
    latents = encoder(keras.random.uniform((1, 6400)))  # (1, 10, 8)
    ```

    Reference:
        - [Du et al., 2024](https://arxiv.org/abs/2412.10117)
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_mels: int = 128,
        kernel_size: int = 31,
        code_dim: int = 8,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # === Config ===
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.num_mels = num_mels
        self.kernel_size = kernel_size
        self.code_dim = code_dim

        # === Layers ===
        policy = self.dtype_policy
        # The padding of both convolutions is explicit: "same" pads a stride of 2 on one side.
        self.first_convolution = keras.layers.Conv1D(
            hidden_dim, 3, strides=2, dtype=policy, name="first_convolution"
        )
        self.second_convolution = keras.layers.Conv1D(
            hidden_dim, 3, strides=2, dtype=policy, name="second_convolution"
        )
        self.blocks = [
            S3EncoderBlock(
                num_heads,
                hidden_dim,
                intermediate_dim,
                kernel_size=kernel_size,
                dtype=policy,
                name=f"block_{i}",
            )
            for i in range(num_layers)
        ]
        # Rounding follows, so this is float32 whatever the policy.
        self.code_dense = keras.layers.Dense(code_dim, dtype="float32", name="code_dense")
        self._filters = slaney_mel_filters(num_mels, WHISPER_WINDOW)

    def build(self, waveform_shape, padding_mask_shape=None):
        width = (None, None, self.hidden_dim)
        self.first_convolution.build((None, None, self.num_mels))
        self.second_convolution.build(width)
        for block in self.blocks:
            block.build(width)
        self.code_dense.build(width)
        self.built = True

    def call(self, waveform, padding_mask=None):
        samples = waveform.shape[-1]
        if isinstance(samples, int) and (samples == 0 or samples % SAMPLES_PER_TOKEN):
            raise ValueError(
                f"The waveform must hold whole steps of {SAMPLES_PER_TOKEN} samples, got "
                f"{samples} samples; fill it up, or use S3Tokenizer.tokenize."
            )
        rank = real = None
        if padding_mask is not None:
            batch = ops.shape(waveform)[0]
            steps = ops.reshape(waveform, (batch, -1, SAMPLES_PER_TOKEN))
            # Before any arithmetic: 0 * NaN is NaN.
            steps = mask_padding(steps, padding_mask)
            # The encoder counts positions, so padding moves to the end of each row.
            order, rank = left_align_order(padding_mask)
            real = gather_time(padding_mask, order)
            waveform = ops.reshape(gather_time(steps, order), (batch, -1))
        log_mel = whisper_log_mel(waveform, self._filters, real, mirror_end=True)
        latents = self.encode(log_mel, real)
        if padding_mask is not None:
            latents = mask_padding(gather_time(latents, rank), padding_mask)
        return latents

    def encode(self, log_mel, padding_mask=None):
        """Encode log-mel features.

        Args:
            log_mel: float (batch, 4 * time, num_mels).
            padding_mask: bool (batch, time), with padding at the end of each row. Defaults to
                `None`: everything is real.

        Returns:
            float32 (batch, time, code_dim).
        """
        x = ops.cast(log_mel, self.compute_dtype)
        frames_per_step = SAMPLES_PER_TOKEN // WHISPER_HOP
        for layer in (self.first_convolution, self.second_convolution):
            if padding_mask is not None:
                x = mask_padding(x, ops.repeat(padding_mask, frames_per_step, axis=1))
            x = layer(ops.pad(x, ((0, 0), (1, 1), (0, 0))))
            x = keras.activations.gelu(x, approximate=False)
            frames_per_step //= 2
        for block in self.blocks:
            x = block(x, padding_mask=padding_mask)
        # The factor keeps values at the end of the range from being rounded to the next level.
        return 0.999 * ops.tanh(self.code_dense(x))

    def compute_output_spec(self, waveform, padding_mask=None):
        steps = waveform.shape[1] and waveform.shape[1] // SAMPLES_PER_TOKEN
        return keras.KerasTensor((waveform.shape[0], steps, self.code_dim), dtype="float32")

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            hidden_dim=self.hidden_dim,
            intermediate_dim=self.intermediate_dim,
            num_mels=self.num_mels,
            kernel_size=self.kernel_size,
            code_dim=self.code_dim,
        )
        return config
