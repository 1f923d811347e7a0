"""The codec's first layer where it listens to spectra: waveform -> features without phase."""

import keras
import numpy as np
from keras import ops

from keras_speechssm.layers.pointwise_dense import PointwiseDense

SHORT_WINDOW = 256
"""Samples of the window that follows the sound, up to 8 kHz."""

LONG_WINDOW, LONG_FFT, LONG_BINS = 640, 1024, 128
"""Samples of the window that parts the harmonics of low voices, up to 2 kHz."""

SHORTEST_LAG, LONGEST_LAG = 32, 267
"""Samples: periods of voices from 500 down to 60 Hz."""

FLOOR = 1e-4
"""Amplitude under which all is silence: 80 dB below a full-scale tone."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SpectralAnalysis(keras.layers.Layer):
    """Log spectra and autocorrelation of the last samples at every hop, mapped to channels.

    What is it for: the stem of a `SoundStream` with `stem="source_filter"`. Two voices
    that differ in phase alone sound alike, and give the same features here. Windows
    end where their hop ends: nothing ahead is seen.

    Args:
        filters: int. Output channels.
        hop: int. Samples from one output step to the next.

    Call arguments:
        x: float (batch, samples, 1), samples a multiple of `hop`.

    Returns:
        float (batch, samples / hop, filters).
    """

    def __init__(self, filters: int, hop: int, **kwargs):
        super().__init__(autocast=False, **kwargs)  # spectra are float32 in any policy
        self.filters = filters
        self.hop = hop
        self.dense = PointwiseDense(filters, dtype=self.dtype_policy, name="dense")

    def build(self, input_shape):
        lags = LONGEST_LAG - SHORTEST_LAG + 1
        self.dense.build((None, None, SHORT_WINDOW // 2 + 1 + LONG_BINS + lags))
        self.built = True

    def call(self, x):
        waveform = ops.cast(ops.squeeze(x, axis=-1), "float32")
        short = self._power(waveform, SHORT_WINDOW, SHORT_WINDOW)
        long = self._power(waveform, LONG_WINDOW, LONG_FFT)
        features = [_level(short), _level(long[..., :LONG_BINS]), self._periodicity(long)]
        features = ops.concatenate(features, axis=-1)
        return self.dense(ops.cast(features, self.compute_dtype))

    def _power(self, waveform, length: int, fft_length: int):
        """Power spectra of the `length` samples up to the end of each hop."""
        # Whole hops before the first sample, so that frames are slices of one reshape.
        parts = -(-length // self.hop)
        padded = ops.pad(waveform, ((0, 0), ((parts - 1) * self.hop, 0)))
        hops = ops.reshape(padded, (ops.shape(waveform)[0], -1, self.hop))
        steps = ops.shape(hops)[1] - parts + 1
        frames = ops.concatenate([hops[:, i : i + steps] for i in range(parts)], axis=-1)
        window = ops.convert_to_tensor(_late_window(length, self.hop))
        real, imaginary = ops.rfft(frames[..., parts * self.hop - length :] * window, fft_length)
        return real**2 + imaginary**2

    def _periodicity(self, power):
        """Autocorrelation, 2 at lag 0, at the periods of voices: (batch, time, lags)."""
        correlation = ops.irfft((power, ops.zeros_like(power)), LONG_FFT)
        # A window's own correlation falls with the lag, which would favour high voices.
        window = np.abs(np.fft.rfft(_late_window(LONG_WINDOW, self.hop), LONG_FFT)) ** 2
        own = np.fft.irfft(window)[: LONGEST_LAG + 1]
        gain = ops.convert_to_tensor((own[0] / own)[SHORTEST_LAG:].astype("float32"))
        energy = correlation[..., :1] + LONG_WINDOW * FLOOR**2
        return 2.0 * gain * correlation[..., SHORTEST_LAG : LONGEST_LAG + 1] / energy

    def compute_output_spec(self, x):
        steps = None if x.shape[1] is None else x.shape[1] // self.hop
        return keras.KerasTensor((x.shape[0], steps, self.filters), dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "filters": self.filters, "hop": self.hop}


def _level(power):
    """Logarithm of power, about -5 .. 5 from the floor to full scale."""
    return 0.5 * ops.log(power + FLOOR**2) - 0.5 * float(np.log(FLOOR))


def _late_window(length: int, hop: int) -> np.ndarray:
    """A window that rises slowly and falls within `hop`: its weight lies near its end.

    Scaled so that a tone's peak in the spectrum is its amplitude.
    """
    rise = np.hanning(2 * (length - hop) + 1)[: length - hop]
    fall = np.hanning(2 * hop + 1)[hop : 2 * hop]
    window = np.concatenate([rise, fall])
    return (2.0 * window / window.sum()).astype("float32")
