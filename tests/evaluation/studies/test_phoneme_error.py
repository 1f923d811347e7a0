import json

import numpy as np
import pytest

from keras_speechssm.audio.io import write_audio
from keras_speechssm.data.corpora import PHONEMES
from keras_speechssm.evaluation.studies import phoneme_error
from keras_speechssm.evaluation.studies.phoneme_error import evaluate_phoneme_error


class FakeTokenizer:
    """Hears every second of audio as "hh", whatever it is."""

    labels = None

    @classmethod
    def from_preset(cls, preset):
        assert preset == "some-preset"
        return cls()

    def tokenize(self, waveform):
        return np.zeros(round(len(waveform) / 16000), "int32")

    def phonemes(self, tokens):
        return [PHONEMES.index("hh") + 1] * len(tokens)


def test_segments_are_cut_out_and_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(phoneme_error, "SemanticTokenizer", FakeTokenizer)
    write_audio(tmp_path / "x.wav", np.zeros(16000 * 6))
    segments = [
        {"start": 0.1, "end": 2.0, "text": "", "phonemes": ["hh", "ax"]},  # 1 wrong of 2
        {"start": 2.1, "end": 5.0, "text": "", "phonemes": ["hh", "hh", "hh"]},  # right
        {"start": 5.0, "end": 6.0, "text": "", "phonemes": []},
    ]
    (tmp_path / "x.json").write_text(json.dumps({"voice": "v", "segments": segments}))
    assert evaluate_phoneme_error([tmp_path], preset="some-preset") == {
        "phoneme_error_rate": 0.2,
        "num_phonemes": 5,
        "num_segments": 2,
    }
    one = evaluate_phoneme_error([tmp_path], preset="some-preset", max_segments=1)
    assert one["num_segments"] == 1
    with pytest.raises(ValueError, match="max_segments is 0"):
        evaluate_phoneme_error([tmp_path], max_segments=0)


def test_folders_without_transcripts_are_refused(tmp_path):
    write_audio(tmp_path / "x.wav", np.zeros(16000))
    with pytest.raises(ValueError, match="has phonemes in a sidecar file"):
        evaluate_phoneme_error([tmp_path])
