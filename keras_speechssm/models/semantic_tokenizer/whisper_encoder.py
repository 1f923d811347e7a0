"""The encoder of Whisper."""

import keras
from keras import ops

from keras_speechssm.layers.softmax import attend


@keras.saving.register_keras_serializable(package="keras_speechssm")
class WhisperEncoderBlock(keras.layers.Layer):
    """One Transformer layer of Whisper's encoder: self-attention, then a feed-forward.

    Both parts are normalized first and added to their input. The softmax runs in float32.

    Args:
        num_heads: int. Attention heads.
        hidden_dim: int. Width of inputs and outputs, a multiple of `num_heads`.
        intermediate_dim: int. Width inside the feed-forward.

    Call arguments:
        x: float (batch, time, hidden_dim).
        padding_mask: bool (batch, time), `True` at real positions. Defaults to `None`:
            every position is real.

    Returns:
        float (batch, time, hidden_dim).

    Example:

    ```python
    import keras
    from keras_speechssm.models.semantic_tokenizer.whisper_encoder import WhisperEncoderBlock

    block = WhisperEncoderBlock(num_heads=6, hidden_dim=384, intermediate_dim=1536)
    y = block(keras.random.normal((2, 50, 384)))  # (2, 50, 384)
    ```

    Reference:
        - [Radford et al., 2022](https://arxiv.org/abs/2212.04356)
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

        self.attention_norm = norm("attention_norm")
        self.attention_input = dense(3 * hidden_dim, "attention_input")
        self.attention_output = dense(hidden_dim, "attention_output")
        self.feedforward_norm = norm("feedforward_norm")
        self.feedforward_intermediate = dense(intermediate_dim, "feedforward_intermediate")
        self.feedforward_output = dense(hidden_dim, "feedforward_output")

    def build(self, input_shape):
        self.attention_norm.build(input_shape)
        self.attention_input.build(input_shape)
        self.attention_output.build(input_shape)
        self.feedforward_norm.build(input_shape)
        self.feedforward_intermediate.build(input_shape)
        self.feedforward_output.build((*input_shape[:-1], self.intermediate_dim))
        self.built = True

    def call(self, x, padding_mask=None):
        x = x + self.attention_output(self._attend(self.attention_norm(x), padding_mask))
        y = self.feedforward_intermediate(self.feedforward_norm(x))
        return x + self.feedforward_output(keras.activations.gelu(y, approximate=False))

    def _attend(self, x, padding_mask):
        batch, time = ops.shape(x)[0], ops.shape(x)[1]
        size = self.hidden_dim // self.num_heads
        projected = ops.reshape(self.attention_input(x), (batch, time, 3, self.num_heads, size))
        queries, keys, values = (projected[:, :, i] for i in range(3))
        return attend(queries, keys, values, padding_mask)

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
class WhisperEncoder(keras.layers.Layer):
    """Encoder of Whisper: log-mel frames at 100 Hz to features at 50 Hz.

    Two convolutions, the second one with stride 2, a table of positions, Transformer layers
    and a final normalization. Every layer attends to the whole input.

    Args:
        num_layers: int. Transformer layers (Whisper tiny: 4).
        num_heads: int. Attention heads (Whisper tiny: 6).
        hidden_dim: int. Width (Whisper tiny: 384).
        intermediate_dim: int. Width inside the feed-forwards (Whisper tiny: 1536).
        num_mels: int. Mel bands of the input. Defaults to `80`.
        max_length: int. Largest number of output frames. Defaults to `1500`, 30 s.

    Call arguments:
        log_mel: float (batch, frames, num_mels), `frames` even.
        padding_mask: bool (batch, frames / 2), `True` at real output frames; padding comes
            last in each row. Defaults to `None`: every frame is real.

    Returns:
        float (batch, frames / 2, hidden_dim), zeros at padding.

    Example:

    ```python
    import keras
    from keras_speechssm.models.semantic_tokenizer.whisper_encoder import WhisperEncoder

    encoder = WhisperEncoder(num_layers=4, num_heads=6, hidden_dim=384, intermediate_dim=1536)
    features = encoder(keras.random.normal((1, 200, 80)))  # (1, 100, 384)
    ```

    Reference:
        - [Radford et al., 2022](https://arxiv.org/abs/2212.04356)
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_mels: int = 80,
        max_length: int = 1500,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # === Config ===
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.num_mels = num_mels
        self.max_length = max_length

        # === Layers ===
        policy = self.dtype_policy
        # The padding of both convolutions is explicit: "same" pads a stride of 2 on one side.
        self.first_convolution = keras.layers.Conv1D(
            hidden_dim, 3, dtype=policy, name="first_convolution"
        )
        self.second_convolution = keras.layers.Conv1D(
            hidden_dim, 3, strides=2, dtype=policy, name="second_convolution"
        )
        self.blocks = [
            WhisperEncoderBlock(
                num_heads, hidden_dim, intermediate_dim, dtype=policy, name=f"block_{i}"
            )
            for i in range(num_layers)
        ]
        self.final_norm = keras.layers.LayerNormalization(
            epsilon=1e-5, dtype=policy, name="final_norm"
        )

    def build(self, log_mel_shape, padding_mask_shape=None):
        width = (None, None, self.hidden_dim)
        self.first_convolution.build((None, None, self.num_mels))
        self.second_convolution.build(width)
        self.positions = self.add_weight(
            name="positions",
            shape=(self.max_length, self.hidden_dim),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        for block in self.blocks:
            block.build(width)
        self.final_norm.build(width)
        self.built = True

    def call(self, log_mel, padding_mask=None):
        time = log_mel.shape[1] and log_mel.shape[1] // 2
        if time is not None and time > self.max_length:
            raise ValueError(
                f"WhisperEncoder takes at most {2 * self.max_length} frames, got "
                f"{log_mel.shape[1]}; cut the recording into windows."
            )
        x, frames = log_mel, None
        if padding_mask is not None:
            frames = ops.repeat(padding_mask, 2, axis=1)[..., None]
            x = ops.where(frames, x, 0.0)
        x = self._convolve(self.first_convolution, x)
        if frames is not None:
            x = ops.where(frames, x, 0.0)
        x = self._convolve(self.second_convolution, x)
        x = x + ops.cast(self.positions[: ops.shape(x)[1]], x.dtype)
        for block in self.blocks:
            x = block(x, padding_mask=padding_mask)
        x = self.final_norm(x)
        return x if padding_mask is None else ops.where(padding_mask[..., None], x, 0.0)

    def _convolve(self, layer, x):
        x = layer(ops.pad(x, ((0, 0), (1, 1), (0, 0))))
        return keras.activations.gelu(x, approximate=False)

    def compute_output_spec(self, log_mel, padding_mask=None):
        time = log_mel.shape[1] and log_mel.shape[1] // 2
        shape = (log_mel.shape[0], time, self.hidden_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            hidden_dim=self.hidden_dim,
            intermediate_dim=self.intermediate_dim,
            num_mels=self.num_mels,
            max_length=self.max_length,
        )
        return config
