import numpy as np
import pytest

from keras_speechssm.audio.io import write_audio
from keras_speechssm.evaluation.models.transcript import Word
from keras_speechssm.evaluation.studies import confidence
from keras_speechssm.evaluation.studies.confidence import (
    confidence_report,
    evaluate_confidence,
)
from keras_speechssm.pipeline import Sampling

pytestmark = pytest.mark.any_backend


def test_shares_above_the_middle_of_the_shuffled():
    found = confidence_report(
        {"continuation": [0.1, 0.4, 0.6, 0.9], "truth": [], "shuffled": [0.1, 0.5, 0.8]}
    )
    assert found["continuation_above_shuffled"] == 0.5 and found["truth_above_shuffled"] == 0.0
    tied = confidence_report({"continuation": [0.5, 0.5, 0.9], "shuffled": [0.1, 0.5, 0.8]})
    assert tied["continuation_above_shuffled"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="same confidence for all words"):
        confidence_report({"continuation": [1.0], "shuffled": [1.0, 1.0]})
    assert found["continuation_words"] == 4 and found["shuffled_confidence"] > 0.46
    with pytest.raises(ValueError, match="No word was recognized in the shuffled"):
        confidence_report({"continuation": [0.1], "shuffled": []})


class Pipeline:
    """Tokens are levels in hundredths; the model continues to count by two."""

    @classmethod
    def from_preset(cls, preset):
        return cls()

    sample_rate = 16_000
    sampling = Sampling()
    speech_lm = property(lambda self: self)

    def tokenize(self, waveform):
        return np.round(100 * waveform[::640]).astype("int32")

    def generate(self, tokens, num_tokens, **sampling):
        return (tokens[:, -1:] + 2 + 2 * np.arange(num_tokens)) % 90

    def speak_tokens(self, tokens, voice, seed):
        return np.repeat(tokens / 100, 640).astype("float32")


def test_what_is_compared(tmp_path, monkeypatch):
    heard = []

    class Transcriber:
        """A word a second, surer the more its levels rise."""

        def __call__(self, waveform):
            levels = waveform[::640]
            heard.append(np.round(100 * levels).astype(int))
            rises = [np.mean(np.diff(levels[s : s + 25]) > 0) for s in range(0, len(levels), 25)]
            return [Word("a", 0.0, 1.0, float(rise)) for rise in rises]

    monkeypatch.setattr(confidence, "SpeechContinuation", Pipeline)
    monkeypatch.setattr(confidence, "load_transcriber", lambda name: Transcriber())
    monkeypatch.setattr(confidence, "speech_turns", lambda x: [(0.0, 1.0)] * bool(x.any()))
    levels = np.arange(50) / 100
    write_audio(tmp_path / "a.wav", np.repeat(levels, 640))
    found = evaluate_confidence(tmp_path, prompt_seconds=1.0, seconds=1.0)
    np.testing.assert_array_equal(heard[0], np.arange(26, 76, 2))
    np.testing.assert_array_equal(heard[1], np.arange(25, 50))
    np.testing.assert_array_equal(np.sort(heard[2]), heard[0])
    assert not np.array_equal(heard[2], heard[0])
    assert found["continuation_above_shuffled"] == found["truth_above_shuffled"] == 1.0
    assert found["shuffled_confidence"] < 0.8
    monkeypatch.setattr(confidence, "speech_turns", lambda x: [])
    with pytest.raises(ValueError, match="No word was recognized in the shuffled"):
        evaluate_confidence(tmp_path, prompt_seconds=1.0, seconds=1.0)

    def refuse(self, tokens, voice, seed):
        raise ValueError("silence")

    monkeypatch.setattr(Pipeline, "speak_tokens", refuse)
    with pytest.raises(ValueError, match="a.wav: silence"):
        evaluate_confidence(tmp_path, prompt_seconds=1.0, seconds=1.0)
    with pytest.raises(ValueError, match="has 30 s after a prompt"):
        evaluate_confidence(tmp_path, prompt_seconds=1.0)
