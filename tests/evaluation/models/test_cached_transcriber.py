import numpy as np
import pytest

from keras_speechssm.evaluation.models.transcribers import CachedTranscriber
from keras_speechssm.evaluation.models.transcript import Word

pytestmark = pytest.mark.any_backend


class Counting:
    def __init__(self, name="counting"):
        self.name = name
        self.calls = 0

    def __call__(self, waveform):
        self.calls += 1
        return [Word(f"word{self.calls}", 0.0, 1.0, 0.5)]


def test_nothing_is_transcribed_twice(tmp_path):
    inner = Counting()
    one, other = np.zeros(10, "float32"), np.ones(10, "float32")
    store = CachedTranscriber(inner, tmp_path)
    first = store(one)
    assert store(one) == first and store(other) != first
    assert CachedTranscriber(inner, tmp_path)(one) == first
    assert inner.calls == 2


def test_another_transcriber_hears_for_itself(tmp_path):
    waveform = np.zeros(10, "float32")
    CachedTranscriber(Counting("a"), tmp_path)(waveform)
    other = Counting("b")
    CachedTranscriber(other, tmp_path)(waveform)
    assert other.calls == 1


def test_a_damaged_transcript_is_made_again(tmp_path):
    inner = Counting()
    store = CachedTranscriber(inner, tmp_path)
    store(np.zeros(10, "float32"))
    (path,) = tmp_path.glob("*.json")
    path.write_text("{")
    assert store(np.zeros(10, "float32"))[0].text == "word2"
    assert store(np.zeros(10, "float32"))[0].text == "word2"
