"""Waveform -> features of Whisper's encoder, one vector for each semantic token."""

import keras
from keras import ops

from keras_speechssm.audio.mel import WHISPER_WINDOW, slaney_mel_filters, whisper_log_mel
from keras_speechssm.layers.padding import gather_time, left_align_order
from keras_speechssm.models.semantic_tokenizer.whisper_encoder import WhisperEncoder
from keras_speechssm.shapes import SAMPLES_PER_TOKEN

STACKED = 2
"""Encoder frames of one semantic token."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class WhisperFrames(keras.layers.Layer):
    """Features of Whisper's encoder, two frames of 20 ms stacked to one step of 40 ms.

    A front end of `SemanticTokenizer`. The encoder has learned to recognize speech from
    680,000 hours; its features hold the words of voices that a small tokenizer has never
    heard. The log-mel features are Whisper's: 80 Slaney mel bands, in a range of 80 dB below
    the loudest value of the input. Samples before the beginning are mirrored, samples after
    the end are zero.

    `load_whisper_frames` returns this layer with the weights of a trained Whisper.

    Args:
        num_layers: int. Transformer layers of the encoder (Whisper tiny: 4).
        num_heads: int. Attention heads (Whisper tiny: 6).
        hidden_dim: int. Width of the encoder (Whisper tiny: 384).
        intermediate_dim: int. Width inside its feed-forwards (Whisper tiny: 1536).
        num_mels: int. Mel bands. Defaults to `80`.
        max_length: int. Largest number of encoder frames. Defaults to `1500`, 30 s.
        train_encoder: bool. Whether the encoder learns too. By default only the
            normalization of the stacked frames does.

    Call arguments:
        waveform: float (batch, samples) in [-1, 1] at 16 kHz; samples a multiple of 640.
        padding_mask: bool (batch, samples / 640), `True` at real steps. Padding may be
            anywhere and hold anything. Defaults to `None`: every step is real.

    Returns:
        float (batch, samples / 640, 2 * hidden_dim), zeros at padding.

    Example:

    ```python
    import keras
    from keras_speechssm.models.semantic_tokenizer.whisper_frames import WhisperFrames

    front_end = WhisperFrames(num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32)
    features = front_end(keras.random.uniform((1, 6400)))  # (1, 10, 32)
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
        train_encoder: bool = False,
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
        self.train_encoder = train_encoder

        # === Layers ===
        self.encoder = WhisperEncoder(
            num_layers,
            num_heads,
            hidden_dim,
            intermediate_dim,
            num_mels=num_mels,
            max_length=max_length,
            dtype=self.dtype_policy,
            name="encoder",
        )
        self.encoder.trainable = train_encoder
        self.norm = keras.layers.LayerNormalization(
            epsilon=1e-5, dtype=self.dtype_policy, name="norm"
        )
        self._mel = slaney_mel_filters(num_mels, WHISPER_WINDOW)

    def build(self, waveform_shape, padding_mask_shape=None):
        self.encoder.build((None, None, self.num_mels))
        self.norm.build((None, None, STACKED * self.hidden_dim))
        self.built = True

    def call(self, waveform, padding_mask=None):
        self._check(waveform)
        batch = ops.shape(waveform)[0]
        rank = real = None
        if padding_mask is not None:
            steps = ops.reshape(waveform, (batch, -1, SAMPLES_PER_TOKEN))
            # Before any arithmetic: 0 * NaN is NaN.
            steps = ops.where(padding_mask[..., None], steps, 0.0)
            # The encoder counts positions, so padding moves to the end of each row.
            order, rank = left_align_order(padding_mask)
            real = gather_time(padding_mask, order)
            waveform = ops.reshape(gather_time(steps, order), (batch, -1))
        frames = self.log_mel(waveform, real)
        if real is not None:
            real = ops.repeat(real, STACKED, axis=1)
        features = self.encoder(ops.cast(frames, self.compute_dtype), padding_mask=real)
        features = ops.reshape(features, (batch, -1, STACKED * self.hidden_dim))
        features = self.norm(features)
        if padding_mask is not None:
            features = ops.where(padding_mask[..., None], gather_time(features, rank), 0.0)
        return features

    def log_mel(self, waveform, padding_mask=None):
        """Compute Whisper's log-mel features.

        Args:
            waveform: float (batch, samples); samples a multiple of 640.
            padding_mask: bool (batch, samples / 640), with padding at the end of each row,
                where the waveform is zero. Defaults to `None`: everything is real.

        Returns:
            float32 (batch, samples / 160, num_mels).
        """
        return whisper_log_mel(waveform, self._mel, padding_mask)

    def _check(self, waveform):
        samples = waveform.shape[-1]
        if isinstance(samples, int) and (samples == 0 or samples % SAMPLES_PER_TOKEN):
            raise ValueError(
                f"The waveform must hold whole steps of {SAMPLES_PER_TOKEN} samples, got "
                f"{samples} samples; fill it up, or use SemanticTokenizer.tokenize."
            )

    def compute_output_spec(self, waveform, padding_mask=None):
        steps = waveform.shape[1] and waveform.shape[1] // SAMPLES_PER_TOKEN
        shape = (waveform.shape[0], steps, STACKED * self.hidden_dim)
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
            train_encoder=self.train_encoder,
        )
        return config
