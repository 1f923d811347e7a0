import numpy as np
import pytest

from keras_speechssm.evaluation.metrics.naturalness import minute_spans, naturalness_over_time
from keras_speechssm.evaluation.models.mean_opinion_score import DNSMOSPredictor

pytestmark = pytest.mark.any_backend


def test_one_span_of_five_seconds_lies_in_each_of_the_papers_minutes():
    for number in range(50):
        spans = minute_spans(f"item {number}", 10.0, 240.0)
        assert len(spans) == 4
        for (start, stop), low, high in zip(
            spans, (10, 60, 120, 180), (60, 120, 180, 240), strict=True
        ):
            assert low <= start and stop <= high and stop - start == pytest.approx(5.0)


def test_the_last_span_reaches_to_the_end_of_the_recording():
    latest = max(minute_spans(f"item {n}", 10.0, 252.0)[3][1] for n in range(200))
    assert 245 < latest <= 252


def test_what_a_recording_does_not_reach_is_no_span():
    assert minute_spans("item", 10.0, 100.0)[2:] == [None, None]
    assert minute_spans("item", 10.0, 12.0) == [None] * 4
    assert len(minute_spans("item", 10.0, 960.0)) == 16


def test_spans_belong_to_the_item_alone():
    assert minute_spans("a", 10.0, 240.0) == minute_spans("a", 10.0, 240.0)
    assert minute_spans("a", 10.0, 240.0) != minute_spans("b", 10.0, 240.0)
    # A shorter recording does not move the spans of the minutes that it has.
    assert minute_spans("a", 10.0, 240.0)[:2] == minute_spans("a", 10.0, 130.0)[:2]


class Loudness:
    name = "loudness"

    def __call__(self, waveform):
        return float(np.abs(waveform).max())


def test_who_falls_silent_early_gets_the_worst_score():
    seconds = np.arange(60 * 16000) / 16000
    waveform = np.where(seconds < 30, 4.0, 3.0).astype("float32")
    spans = [(12.0, 17.0), (62.0, 67.0), None, (100.0, 105.0)]
    assert naturalness_over_time(waveform, spans, 10.0, Loudness()) == [4.0, 3.0, None, 1.0]


def test_dnsmos_prefers_speech_to_noise():
    pytest.importorskip("speechmos")
    from pathlib import Path

    from keras_speechssm.audio.io import read_audio

    speech = read_audio(Path(__file__).parents[3] / "examples" / "prompt.flac", duration=5.0)
    noise = 0.1 * np.random.default_rng(0).standard_normal(80000).astype("float32")
    predict = DNSMOSPredictor()
    assert 1.0 <= predict(noise) < predict(speech) - 0.5 < 5.0
    with pytest.raises(ValueError, match="empty"):
        predict(np.zeros(0, "float32"))
