"""Pitch and spectrum of speech by WORLD's estimators."""

import functools
import warnings

import numpy as np
import scipy

from keras_speechssm.models.soundstream.source_filter_soundstream import (
    HIGHEST_PITCH,
    LOWEST_PITCH,
    band_interpolation,
)
from keras_speechssm.shapes import SAMPLE_RATE

NOISE_POWER = 0.75
"""Power of white noise of unit power after the windows of `SourceFilterSynthesis`."""

LOUDER = 1.15
"""Factor by which CheapTrick measures speech too loud; WORLD's own synthesis is as loud."""

HUM = 75.0
"""Frequency in Hz below which a sound is hum, which would be taken for a low voice."""


def measure_pitch(waveform: np.ndarray, hop: int) -> np.ndarray:
    """Measure the pitch at the end of every hop.

    Args:
        waveform: float (samples,) at 16 kHz.
        hop: Number of samples from one value to the next.

    Returns:
        float32 (samples // hop,): Hz, and 0 where there is no pitch.

    Raises:
        ModuleNotFoundError: If `pyworld` (extra `train`) is not installed.

    Reference:
        DIO with StoneMask's refinement (Morise et al. 2009, 2016).
    """
    samples, pitch, _ = _estimate_pitch(waveform, hop)
    return _at_ends_of_hops(pitch, len(samples) // hop)


def measure_voice(waveform: np.ndarray, hop: int) -> tuple[np.ndarray, np.ndarray]:
    """Measure what `SourceFilterSynthesis` needs to make this sound, at the end of every hop.

    Args:
        waveform: float (samples,) at 16 kHz.
        hop: Number of samples from one value to the next.

    Returns:
        The pitch of `measure_pitch`, and float32 (samples // hop, 160): the natural logarithm of
        the gain of each mel band, 80 for the pulses and 80 for the noise.

    Raises:
        ModuleNotFoundError: If `pyworld` (extra `train`) is not installed.

    Reference:
        CheapTrick (Morise 2015) for the spectrum, D4C (Morise 2016) for its noise.
    """
    world = _import_world()
    samples, pitch, times = _estimate_pitch(waveform, hop)
    # A little noise, because the logarithm of digital silence would be a deep hole.
    samples = samples + 1e-5 * np.random.default_rng(0).standard_normal(len(samples))
    power = world.cheaptrick(samples, pitch, times, SAMPLE_RATE)
    noise = world.d4c(samples, pitch, times, SAMPLE_RATE) ** 2
    noise = np.where(pitch[:, None] > 0.0, np.clip(noise, 1e-8, 1.0), 1.0)
    pulses = 0.5 * np.log(power * np.maximum(1.0 - noise, 1e-6))
    noise = 0.5 * np.log(power * noise / NOISE_POWER)
    bands = _bands_of_spectrum(2 * (power.shape[1] - 1))
    log_gains = np.concatenate([pulses @ bands, noise @ bands], axis=1) - np.log(LOUDER)
    count = len(samples) // hop
    return _at_ends_of_hops(pitch, count), _at_ends_of_hops(log_gains, count)


def _import_world():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)
        import pyworld
    return pyworld


def _estimate_pitch(waveform, hop: int):
    """Return samples, pitch in Hz (0 where there is none) and its times in s, all float64."""
    world = _import_world()
    samples = np.asarray(waveform, dtype="float64")
    # Backward, then forward: the phase stays.
    heard = scipy.signal.sosfilt(_hum_filter(), samples[::-1])[::-1]
    heard = np.ascontiguousarray(scipy.signal.sosfilt(_hum_filter(), heard))
    # The larger `allowed_range` finds the pitch of noisy recordings.
    options = dict(f0_ceil=HIGHEST_PITCH, frame_period=1000.0 * hop / SAMPLE_RATE)
    pitch, times = world.dio(heard, SAMPLE_RATE, allowed_range=0.15, **options)
    pitch = world.stonemask(heard, pitch, times, SAMPLE_RATE)
    inside = (pitch >= LOWEST_PITCH) & (pitch <= HIGHEST_PITCH)
    return samples, np.where(inside, pitch, 0.0), times


def _at_ends_of_hops(values: np.ndarray, count: int) -> np.ndarray:
    """Drop the value at the start, and repeat the last one up to `count`."""
    values = values[1 : count + 1]
    fill = ((0, count - len(values)), *((0, 0),) * (values.ndim - 1))
    if not len(values):
        return np.zeros((count, *values.shape[1:]), "float32")
    return np.pad(values, fill, mode="edge").astype("float32")


@functools.cache
def _hum_filter() -> np.ndarray:
    return scipy.signal.butter(4, HUM, "highpass", fs=SAMPLE_RATE, output="sos")


@functools.cache
def _bands_of_spectrum(fft_length: int) -> np.ndarray:
    """Weights from bins to the bands that interpolate to them best: (fft_length / 2 + 1, 80)."""
    return np.linalg.pinv(band_interpolation(fft_length))
