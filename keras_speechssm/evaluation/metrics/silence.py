"""Silence and non-speech over time."""

from collections.abc import Sequence

import numpy as np

from keras_speechssm.shapes import SAMPLE_RATE

_FRAME = SAMPLE_RATE // 50


def silence_fraction(
    waveform: np.ndarray, seconds: float | None = None, below_loud_db: float = 40.0
) -> list[float]:
    """Fraction of silent 20 ms frames in each stretch of a waveform.

    A collapsed continuation falls silent, or never pauses.

    Args:
        waveform: float (samples,) at 16 kHz.
        seconds: Length of a stretch; the last one may be shorter. Defaults to `None`: one
            stretch, the whole waveform.
        below_loud_db: A frame is silent if its level is this much below the 95th percentile of
            all frames, or below -70 dBFS. Defaults to `40.0`.

    Returns:
        One value from 0 to 1 per stretch; none for less than one frame of audio.
    """
    count = len(waveform) // _FRAME
    frames = np.asarray(waveform[: count * _FRAME], "float64").reshape(count, _FRAME)
    levels = 10.0 * np.log10(np.mean(frames**2, axis=1) + 1e-12)
    if not count:
        return []
    threshold = max(np.percentile(levels, 95) - below_loud_db, -70.0)
    size = count if seconds is None else max(1, round(seconds * SAMPLE_RATE / _FRAME))
    return [
        float(np.mean(levels[start : start + size] < threshold)) for start in range(0, count, size)
    ]


def non_speech_fraction(
    turns: Sequence[tuple[float, float]], duration: float, seconds: float
) -> list[float]:
    """Fraction of each stretch of time in which nobody speaks.

    Noise and hum are not silent, but they are not speech either.

    Args:
        turns: (start, end) of speech in seconds, in order and without overlap, from
            `keras_speechssm.data.voice_activity.speech_turns`.
        duration: Length of the recording in seconds.
        seconds: Length of a stretch.

    Returns:
        One value from 0 to 1 per stretch.
    """
    fractions = []
    for start in np.arange(0.0, duration, seconds):
        stop = min(start + seconds, duration)
        covered = sum(max(0.0, min(stop, end) - max(start, begin)) for begin, end in turns)
        fractions.append(float(1.0 - covered / (stop - start)))
    return fractions
