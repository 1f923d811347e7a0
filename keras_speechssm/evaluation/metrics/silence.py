"""Share of silence over time: a continuation that has collapsed falls silent, or never pauses."""

import numpy as np

from keras_speechssm.shapes import SAMPLE_RATE

_FRAME = SAMPLE_RATE // 50


def silence_fraction(
    waveform: np.ndarray, seconds: float | None = None, below_loud_db: float = 40.0
) -> list[float]:
    """Share of silent 20 ms frames in each stretch of a waveform.

    Args:
        waveform: float (samples,) at 16 kHz.
        seconds: float. Length of a stretch, the last one may be shorter. Defaults to
            `None`: one stretch, the whole.
        below_loud_db: float. A frame is silent if its level is this much under the 95th
            percentile of the whole waveform's frames, or under -70 dBFS. Defaults to `40.0`.

    Returns:
        list of float, 0 .. 1, one a stretch; empty for less than one frame of audio.
    """
    levels = _frame_levels(waveform)
    if not len(levels):
        return []
    threshold = max(np.percentile(levels, 95) - below_loud_db, -70.0)
    size = len(levels) if seconds is None else max(1, round(seconds * SAMPLE_RATE / _FRAME))
    starts = range(0, len(levels), size)
    return [float(np.mean(levels[start : start + size] < threshold)) for start in starts]


def _frame_levels(waveform: np.ndarray) -> np.ndarray:
    """Level of each whole 20 ms frame in dB of full scale."""
    count = len(waveform) // _FRAME
    frames = np.asarray(waveform[: count * _FRAME], "float64").reshape(count, _FRAME)
    return 10.0 * np.log10(np.mean(frames**2, axis=1) + 1e-12)


def non_speech_fraction(
    turns: list[tuple[float, float]], duration: float, seconds: float
) -> list[float]:
    """Share of each stretch of time that no turn covers.

    Args:
        turns: (start, end) in seconds, in order, without overlap.
        duration: of the whole, in seconds.
        seconds: length of a stretch.
    """
    shares = []
    for start in np.arange(0.0, duration, seconds):
        stop = min(start + seconds, duration)
        covered = sum(max(0.0, min(stop, end) - max(start, begin)) for begin, end in turns)
        shares.append(float(1.0 - covered / (stop - start)))
    return shares
