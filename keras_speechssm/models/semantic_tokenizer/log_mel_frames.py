"""Waveform -> normalized log-mel features, one vector for each semantic token."""

import keras
import numpy as np
from keras import ops

from keras_speechssm.audio.mel import log_mel
from keras_speechssm.shapes import SAMPLES_PER_TOKEN

WINDOW = 400
"""Samples of one analysis window: 25 ms."""

HOP = 160
"""Samples from one analysis window to the next: 10 ms."""

FFT_LENGTH = 512

LOWEST, HIGHEST = 60.0, 7800.0
"""Hz that the mel bands span."""

POWER_FLOOR = 1e-3
"""Added to the mel power before the logarithm, about 70 dB below a full-scale tone.

High enough that a synthesizer's digital silence and a quiet room look alike.
"""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class LogMelFrames(keras.layers.Layer):
    """Log-mel frames of 10 ms, four of them stacked to one step of 40 ms.

    The default front end of the semantic tokenizer. Step t is made of the four frames centered in
    samples [640 t, 640 (t + 1)); their windows reach 120 samples beyond on each side
    (zeros beyond the ends).

    Normalization uses one mean and one deviation per band, kept as weights and set once
    by `adapt`: statistics of the utterance itself would make the tokens of a window
    depend on where it was cut. Everything runs in float32.

    Args:
        num_mels: int. Mel bands. Defaults to `80`.

    Call arguments:
        waveform: float (batch, samples) in [-1, 1] at 16 kHz; samples a multiple of 640.
        padding_mask: ignored; each step depends on its own samples only.

    Returns:
        float32 (batch, samples / 640, 4 * num_mels).

    Example:

    ```python
    import keras
    from keras_speechssm.models.semantic_tokenizer.log_mel_frames import LogMelFrames

    frames = LogMelFrames()(keras.random.uniform((2, 6400)))  # (2, 10, 320)
    ```
    """

    def __init__(self, num_mels: int = 80, **kwargs):
        super().__init__(**kwargs)
        if num_mels < 1:
            raise ValueError(f"num_mels must be at least 1, got {num_mels}.")
        self.num_mels = num_mels
        self.frames_per_step = SAMPLES_PER_TOKEN // HOP
        self._window = np.hanning(WINDOW + 1)[:-1].astype("float32")

    def build(self, input_shape):
        frozen = {"trainable": False, "dtype": "float32", "autocast": False}
        # Middling values for speech, until `adapt` sets those of a corpus.
        self.mean = self.add_weight(
            name="mean",
            shape=(self.num_mels,),
            initializer=keras.initializers.Constant(-3.0),
            **frozen,
        )
        self.deviation = self.add_weight(
            name="deviation",
            shape=(self.num_mels,),
            initializer=keras.initializers.Constant(3.5),
            **frozen,
        )
        self.built = True

    def call(self, waveform, padding_mask=None):
        frames = (self._log_mel(waveform) - self.mean) / self.deviation
        shape = (ops.shape(frames)[0], -1, self.frames_per_step * self.num_mels)
        return ops.reshape(frames, shape)

    def _log_mel(self, waveform):
        """Natural logarithm of the mel power, float32 (batch, samples / 160, num_mels)."""
        samples = waveform.shape[-1]
        if isinstance(samples, int) and (samples == 0 or samples % SAMPLES_PER_TOKEN):
            raise ValueError(
                f"The waveform must hold whole steps of {SAMPLES_PER_TOKEN} samples, got "
                f"{samples} samples; fill it up, or use SemanticTokenizer.tokenize."
            )
        margin = (WINDOW - HOP) // 2
        waveform = ops.pad(ops.cast(waveform, "float32"), ((0, 0), (margin, margin)))
        # A window is five half hops, so frames are slices of one reshape: no gather.
        half = HOP // 2
        halves = ops.reshape(waveform, (ops.shape(waveform)[0], -1, half))
        last = WINDOW // half - 1
        parts = [halves[:, i : (i - last) or None : 2] for i in range(last + 1)]
        frames = ops.concatenate(parts, axis=-1) * ops.convert_to_tensor(self._window)
        real, imaginary = ops.rfft(frames, fft_length=FFT_LENGTH)
        power = real**2 + imaginary**2
        return log_mel(power, self.num_mels, POWER_FLOOR, LOWEST, HIGHEST)

    def adapt(self, waveforms) -> None:
        """Set the mean and deviation of each band from example speech.

        Args:
            waveforms: float (batch, samples), samples a multiple of 640; minutes suffice.
        """
        if not self.built:
            self.build(None)
        frames = ops.convert_to_numpy(self._log_mel(ops.convert_to_tensor(waveforms)))
        frames = frames.reshape(-1, self.num_mels)
        self.mean.assign(frames.mean(axis=0))
        self.deviation.assign(np.maximum(frames.std(axis=0), 0.1))

    def compute_output_spec(self, waveform, padding_mask=None):
        steps = waveform.shape[1] and waveform.shape[1] // SAMPLES_PER_TOKEN
        width = self.frames_per_step * self.num_mels
        return keras.KerasTensor((waveform.shape[0], steps, width), dtype="float32")

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(num_mels=self.num_mels)
        return config
