"""Pitch of speech by WORLD's estimators."""

import warnings

import numpy as np

from keras_speechssm.models.soundstream.source_filter_soundstream import (
    HIGHEST_PITCH,
    LOWEST_PITCH,
)
from keras_speechssm.shapes import SAMPLE_RATE


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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)
        import pyworld

    samples = np.asarray(waveform, dtype="float64")
    limits = dict(f0_floor=LOWEST_PITCH, f0_ceil=HIGHEST_PITCH)
    period = 1000.0 * hop / SAMPLE_RATE
    pitch, times = pyworld.dio(samples, SAMPLE_RATE, frame_period=period, **limits)
    pitch = pyworld.stonemask(samples, pitch, times, SAMPLE_RATE)
    count = len(samples) // hop
    pitch = np.pad(pitch[1 : count + 1], (0, max(0, count + 1 - len(pitch))))
    return np.where((pitch >= LOWEST_PITCH) & (pitch <= HIGHEST_PITCH), pitch, 0.0).astype("f4")
