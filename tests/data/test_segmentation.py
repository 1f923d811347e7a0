import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_speechssm.data.segmentation import cut_at_pauses, cut_at_turns, monologue_spans
from keras_speechssm.shapes import SAMPLE_RATE

pytestmark = pytest.mark.any_backend


def covers(spans, duration):
    ends = [0.0] + [stop for _, stop in spans]
    assert [start for start, _ in spans] == ends[:-1]
    assert ends[-1] == pytest.approx(duration)


@given(st.integers(0, 12 * SAMPLE_RATE), st.floats(1, 5))
def test_pauses_cut_a_recording_into_all_of_its_parts(samples, target):
    waveform = np.random.default_rng(0).normal(size=samples).astype("float32")
    spans = cut_at_pauses(waveform, target)
    covers(spans, samples / SAMPLE_RATE)
    assert all(0 < stop - start <= target + 1e-4 for start, stop in spans)


def test_cuts_lie_in_pauses():
    waveform = np.random.default_rng(0).normal(size=70 * SAMPLE_RATE).astype("float32")
    for pause in (26.0, 29.0, 55.5):
        waveform[int(pause * SAMPLE_RATE) : int((pause + 0.3) * SAMPLE_RATE)] = 0.0
    # 26 s is quiet too, but the cut after 29 s leaves a longer span: either is right.
    (_, first), (_, second), _ = cut_at_pauses(waveform, 30.0)
    assert 26.0 < first < 26.3 or 29.0 < first < 29.3
    assert 55.5 < second < 55.8


def test_turns_are_agglomerated_up_to_the_target():
    turns = [(0.5, 4.0), (5.0, 9.0), (9.4, 14.0), (15.0, 19.0)]
    assert cut_at_turns(turns, 20.0, 10.0) == [(0.0, 9.2), (9.2, 14.5), (14.5, 20.0)]


@given(st.lists(st.floats(0.1, 7), max_size=12), st.floats(1, 9))
def test_turns_cut_a_recording_into_all_of_its_parts(steps, target):
    ends = np.cumsum(steps)
    turns = [(end - 0.05, end) for end in ends]
    duration = float(ends[-1]) if steps else 3.0
    spans = cut_at_turns(turns, duration, target)
    covers(spans, duration)
    assert all(stop - start <= target + 1e-6 for start, stop in spans)


TURNS = [(0.0, 10.0), (10.5, 20.0), (21.0, 22.0), (23.0, 33.0), (34.0, 40.0), (55.0, 60.0)]


def voices(labels):
    """Unit vectors: those of one letter alike, others at right angles."""
    by_turn = dict(zip(TURNS, labels, strict=True))
    return lambda span: np.eye(26)[ord(by_turn[span]) - ord("a")]


def test_a_monologue_is_the_contiguous_turns_of_its_voice():
    # The interviewer's second splits it, and so does the silence of 15 s.
    assert monologue_spans(TURNS, voices("aabaaa"), 100.0) == [
        (0.0, 20.0),
        (23.0, 40.0),
        (55.0, 60.0),
    ]


def test_spans_keep_the_target():
    assert monologue_spans(TURNS, voices("aaaaaa"), 22.5) == [
        (0.0, 22.0),
        (23.0, 40.0),
        (55.0, 60.0),
    ]
    assert monologue_spans([(0.0, 25.0)], lambda span: np.ones(1), 10.0) == [
        (0.0, 10.0),
        (10.0, 20.0),
        (20.0, 25.0),
    ]


def test_a_conversation_is_no_monologue():
    assert monologue_spans(TURNS, voices("ababab"), 100.0) == []
    assert monologue_spans([], voices("aaaaaa"), 100.0) == []
