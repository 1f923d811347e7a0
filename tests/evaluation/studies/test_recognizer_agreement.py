import numpy as np
import pytest

from keras_speechssm.audio.io import write_audio
from keras_speechssm.evaluation.models.transcript import Word
from keras_speechssm.evaluation.studies import recognizer_agreement
from keras_speechssm.evaluation.studies.recognizer_agreement import (
    evaluate_recognizer_agreement,
    summarize_agreement,
    transcribe_minutes,
)

pytestmark = pytest.mark.any_backend

pytest.importorskip("rapidfuzz")
pytest.importorskip("whisper_normalizer")


class FakeTranscriber:
    """Hears as many words as there are seconds."""

    def __init__(self, name, word):
        self.name = name
        self.word = word

    def __call__(self, waveform):
        return [Word(self.word, n, n + 1) for n in range(round(len(waveform) / 16000))]


def hears_speech_in_noise(waveform):
    return [(0.0, 1.0)] if np.abs(waveform).max() > 0.01 else []


def test_agreement_is_counted_per_minute():
    texts = {
        "first": [("red hat", "red hat"), ("old man", "old mill")],
        "second": [("river", "bridge")],
    }
    report = summarize_agreement(texts, ("a", "b"))
    assert report["mutual_word_error_rate"] == 2 / 5
    assert report["by_minute"] == [1 / 3, 1 / 2]
    assert report["num_words"] == {"a": 5, "b": 5}
    assert report["recordings"]["first"] == {
        "mutual_word_error_rate": 1 / 4,
        "a": "red hat old man",
        "b": "red hat old mill",
    }


def test_both_hear_the_same_pieces_and_no_silence(monkeypatch):
    monkeypatch.setattr(recognizer_agreement, "speech_turns", hears_speech_in_noise)
    noise = np.random.default_rng(0).standard_normal(16000 * 5).astype("float32")
    waveform = np.concatenate([0.1 * noise, np.zeros(16000 * 5, "float32")])
    recognizers = [FakeTranscriber("a", "yes"), FakeTranscriber("b", "no")]
    minutes = transcribe_minutes(waveform, recognizers, minute_seconds=5.0)
    assert minutes[-1] == ("", "")
    yes, no = minutes[0]
    assert yes.split() == ["yes"] * len(no.split()) and yes


def test_recordings_are_compared(monkeypatch, tmp_path):
    monkeypatch.setattr(recognizer_agreement, "speech_turns", hears_speech_in_noise)
    monkeypatch.setattr(
        recognizer_agreement, "load_transcriber", lambda name: FakeTranscriber(name, name[-1])
    )
    noise = np.random.default_rng(0).standard_normal(16000 * 3).astype("float32")
    write_audio(tmp_path / "noise.wav", 0.1 * noise)
    options = {"transcriber": "recognizer x", "second_transcriber": "recognizer y"}
    report = evaluate_recognizer_agreement([tmp_path], **options)
    assert report["mutual_word_error_rate"] == 1.0
    assert report["num_words"] == {"recognizer x": 3, "recognizer y": 3}
    short = evaluate_recognizer_agreement([tmp_path], **options, max_seconds=1.0)
    assert short["recordings"]["noise"]["recognizer x"] == "x"


def test_a_transcriber_is_not_compared_with_itself(tmp_path):
    with pytest.raises(ValueError, match="expected two different ones"):
        evaluate_recognizer_agreement([tmp_path], second_transcriber="moonshine-tiny")
