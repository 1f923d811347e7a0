import numpy as np
import pytest

from keras_speechssm.audio.io import write_audio
from keras_speechssm.evaluation.metrics.token_agreement import (
    normalized_distance,
    token_agreement,
    without_repeats,
)
from keras_speechssm.evaluation.studies import token_agreement as module
from keras_speechssm.evaluation.studies.token_agreement import evaluate_token_agreement


def test_repeats_and_distance_by_hand():
    assert without_repeats(np.array([5, 5, 2, 2, 2, 5])) == [5, 2, 5]
    assert without_repeats([]) == []
    assert normalized_distance([1, 2, 3, 4], [1, 3, 4]) == 0.25
    assert normalized_distance([1, 2], [3, 4]) == 1.0
    assert normalized_distance([], []) == 0.0


def test_agreement_by_hand():
    streams = {
        ("s1", "a"): [1, 2, 3, 4],
        ("s1", "b"): [1, 2, 3, 5],  # 1 of 4 differs
        ("s2", "a"): [6, 7],
        ("s2", "b"): [6, 7],  # the same
    }
    assert token_agreement(streams) == {
        "same_sentence": 0.125,
        "same_voice": 1.0,
        "margin": 0.875,
        "num_pairs": (2, 2),
    }


def test_pairs_need_sentences_and_voices():
    with pytest.raises(ValueError, match="a sentence in two voices"):
        token_agreement({("s1", "a"): [1], ("s2", "a"): [2]})


class FakeTokenizer:
    """One token: how loud the recording is."""

    @classmethod
    def from_preset(cls, preset):
        return cls()

    def tokenize(self, waveform):
        return np.full(3, round(float(waveform.max()) * 10), "int32")


def test_file_names_give_sentence_and_voice(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SemanticTokenizer", FakeTokenizer)
    for name, level in (("1_a-1", 0.1), ("1_b_2", 0.1), ("2_a-1", 0.5), ("2_b_2", 0.4)):
        write_audio(tmp_path / f"{name}.wav", np.full(800, level))
    found = evaluate_token_agreement(tmp_path)
    assert found["same_sentence"] == 0.5 and found["same_voice"] == 1.0
    with pytest.raises(ValueError, match="max_pairs is 0"):
        evaluate_token_agreement(tmp_path, max_pairs=0)
    write_audio(tmp_path / "nameless.wav", np.zeros(800))
    with pytest.raises(ValueError, match="should be named <number>_<voice>.wav"):
        evaluate_token_agreement(tmp_path)
