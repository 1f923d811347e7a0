"""The codec's last layer where it speaks as a voice does: a source, then a filter."""

import keras
import numpy as np
from keras import ops

from keras_speechssm.audio.mel import mel_filters
from keras_speechssm.layers.dense import PointwiseDense
from keras_speechssm.shapes import SAMPLE_RATE

LOWEST_PITCH, HIGHEST_PITCH = 60.0, 500.0
"""Hz that the pitch bins span, on a logarithmic scale; no other pitch is looked for."""

NUM_PITCH_BINS = 80

NUM_BANDS = 80
"""Bands of mel width in which the two filters' gains are given."""

NOISE_SAMPLES = 2**16
"""The noise source repeats after 4.1 s."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SourceFilterSynthesis(keras.layers.Layer):
    """Pulses and noise through filters that a network sets at every hop.

    What is it for: the stem of a `SoundStream` decoder with `stem="source_filter"`. The
    source is a train of pulses at a predicted pitch, band-limited while that is steady, and
    white noise; each
    passes a minimum-phase filter whose gains in mel bands are predicted as well. A voice
    made in this way has harmonics by construction, whatever the codes, and its phase
    need not be coded: a small codec spends its bits on what is heard, and a small
    SoundStorm has less to predict. The idea is that of source-filter vocoders (WORLD,
    Morise et al. 2016) with a network in front (DDSP, Engel et al. 2020).

    Causal: the hop at step t is set by the inputs up to t. The pitch gets no gradient
    through the sound; it learns from `pitch_logits` (see
    `keras_speechssm.training.codec.PitchLoss`).

    Args:
        hop: int. Samples of each input step.

    Call arguments:
        x: float (batch, time, channels).

    Returns:
        `(waveform, pitch_logits)`: float32 (batch, time * hop, 1) and float32 (batch, time,
        80), over pitches from 60 to 500 Hz that are evenly spaced on a logarithmic scale.
    """

    def __init__(self, hop: int, **kwargs):
        super().__init__(**kwargs)
        self.hop = hop
        # The pulses or the noise of two hops, and the filter's answer for six more.
        self.fft_length = 8 * hop
        self.gains = PointwiseDense(2 * NUM_BANDS, dtype=self.dtype_policy, name="gains")
        self.pitch = PointwiseDense(NUM_PITCH_BINS, dtype=self.dtype_policy, name="pitch")
        self._fade = np.hanning(2 * hop + 1)[:-1].astype("float32")
        self._bands = _interpolation(self.fft_length)
        self._fold = _minimum_phase_fold(self.fft_length)
        self._noise = np.random.default_rng(0).standard_normal(NOISE_SAMPLES, dtype="float32")

    def build(self, input_shape):
        self.gains.build(input_shape)
        self.pitch.build(input_shape)
        self.built = True

    def call(self, x):
        logits = ops.cast(self.pitch(x), "float32")
        gains = ops.cast(self.gains(x), "float32")
        pulses, noise = ops.split(gains, 2, axis=-1)
        pitch = expected_pitch(ops.stop_gradient(logits))
        voiced = self._filtered(self._pulse_train(pitch), pulses)
        unvoiced = self._filtered(self._noise_frames(pitch), noise)
        spectrum = [a + b for a, b in zip(voiced, unvoiced, strict=True)]
        waveform = self._overlap_add(ops.irfft(tuple(spectrum), self.fft_length))
        return waveform[..., None], logits

    def _pulse_train(self, pitch):
        """Pulses of unit power, windowed: (batch, time, 2 * hop)."""
        before = ops.concatenate([pitch[:, :1], pitch[:, :-1]], axis=1)
        cycles = 0.5 * (before + pitch) * (self.hop / SAMPLE_RATE)
        # A float32 sum: good to a thousandth of a cycle over a minute. Windows are shorter.
        start = ops.cumsum(cycles % 1.0, axis=1)
        start = (start - cycles % 1.0) % 1.0
        ramp = (ops.arange(self.hop, dtype="float32") + 0.5) / self.hop
        rate = self.hop / SAMPLE_RATE
        slope = (pitch - before)[..., None] * (0.5 * ramp**2)
        phase = start[..., None] + rate * (before[..., None] * ramp + slope)
        phase = self._with_next(phase - ops.round(phase))
        harmonics = ops.floor(0.475 * SAMPLE_RATE / pitch)[..., None]
        # The sum of cosines 1 .. n in closed form (Dirichlet's kernel).
        near = ops.abs(phase) < 1e-5
        denominator = ops.where(near, 1.0, ops.sin(np.pi * phase))
        kernel = ops.sin((2.0 * harmonics + 1.0) * np.pi * phase) / denominator
        kernel = ops.where(near, 2.0 * harmonics + 1.0, kernel) - 1.0
        return kernel / ops.sqrt(2.0 * harmonics) * ops.convert_to_tensor(self._fade)

    def _noise_frames(self, pitch):
        """White noise of unit power, windowed, the same for every example."""
        places = ops.arange(ops.shape(pitch)[1])[:, None] * self.hop + ops.arange(2 * self.hop)
        frames = ops.take(ops.convert_to_tensor(self._noise), places % NOISE_SAMPLES)
        return (frames * ops.convert_to_tensor(self._fade))[None]

    def _with_next(self, hops):
        """Each hop and the one after it; the last is followed by itself."""
        following = ops.concatenate([hops[:, 1:], hops[:, -1:]], axis=1)
        return ops.concatenate([hops, following], axis=-1)

    def _filtered(self, frames, gains):
        """Spectrum of `frames` through the minimum-phase filter of `gains`: real, imaginary."""
        log_magnitude = ops.matmul(
            8.0 * ops.tanh(gains / 4.0) - 5.0, ops.convert_to_tensor(self._bands)
        )
        cepstrum = ops.irfft((log_magnitude, ops.zeros_like(log_magnitude)), self.fft_length)
        real, phase = ops.rfft(cepstrum * ops.convert_to_tensor(self._fold))
        magnitude = ops.exp(real)
        response = ops.irfft((magnitude * ops.cos(phase), magnitude * ops.sin(phase)))
        # What rings longer would come round to the frame's beginning, before its cause.
        filter_real, filter_imaginary = ops.rfft(response[..., : -2 * self.hop], self.fft_length)
        source_real, source_imaginary = ops.rfft(frames, self.fft_length)
        return (
            source_real * filter_real - source_imaginary * filter_imaginary,
            source_real * filter_imaginary + source_imaginary * filter_real,
        )

    def _overlap_add(self, frames):
        """(batch, time, fft_length) -> (batch, time * hop)."""
        parts = ops.reshape(frames, (*ops.shape(frames)[:2], -1, self.hop))
        steps = ops.shape(frames)[1]
        total = parts[:, :, 0]
        for i in range(1, self.fft_length // self.hop):
            total = total + ops.pad(parts[:, :, i], ((0, 0), (i, 0), (0, 0)))[:, :steps]
        return ops.reshape(total, (ops.shape(frames)[0], -1))

    def compute_output_spec(self, x):
        batch, time = x.shape[:2]
        samples = None if time is None else time * self.hop
        return (
            keras.KerasTensor((batch, samples, 1), dtype="float32"),
            keras.KerasTensor((batch, time, NUM_PITCH_BINS), dtype="float32"),
        )

    def get_config(self) -> dict:
        return {**super().get_config(), "hop": self.hop}


def pitch_bins() -> np.ndarray:
    """Hz of each pitch bin, float32 (80,)."""
    return np.geomspace(LOWEST_PITCH, HIGHEST_PITCH, NUM_PITCH_BINS).astype("float32")


def expected_pitch(logits):
    """Pitch in Hz: the mean, on a logarithmic scale, of the best bin and its neighbors.

    Args:
        logits: float (..., 80).

    Returns:
        float (...), within 60 to 500.
    """
    best = ops.argmax(logits, axis=-1)
    places = ops.arange(NUM_PITCH_BINS, dtype="int32")
    distance = ops.abs(places - ops.cast(best, "int32")[..., None])
    weights = ops.softmax(ops.where(distance <= 2, logits, -1e9), axis=-1)
    return ops.exp(ops.sum(weights * ops.convert_to_tensor(np.log(pitch_bins())), axis=-1))


def _interpolation(fft_length: int) -> np.ndarray:
    """Gains of bands to gains of bins: float32 (bands, fft_length / 2 + 1), columns sum to 1."""
    filters = mel_filters(NUM_BANDS, fft_length)
    weights = filters / np.maximum(filters.sum(axis=1, keepdims=True), 1e-6)
    weights[0, 0] = weights[-1, -1] = 1.0  # no band peaks at 0 or 8000 Hz
    return weights.T.copy()


def _minimum_phase_fold(length: int) -> np.ndarray:
    """What turns the cepstrum of a magnitude into that of its minimum-phase filter."""
    fold = np.zeros(length, dtype="float32")
    fold[0] = fold[length // 2] = 1.0
    fold[1 : length // 2] = 2.0
    return fold
