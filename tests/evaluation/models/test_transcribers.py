import sys
from pathlib import Path

import numpy as np
import pytest

from keras_speechssm.audio.io import read_audio
from keras_speechssm.evaluation.models import transcribers
from keras_speechssm.evaluation.models.transcribers import (
    TRANSCRIBERS,
    PocketsphinxTranscriber,
    TransformersTranscriber,
    load_transcriber,
)
from keras_speechssm.evaluation.models.transcript import Word, words_to_text

pytestmark = pytest.mark.any_backend

PROMPT = Path(__file__).parents[3] / "examples" / "prompt.flac"


@pytest.fixture(scope="module")
def transcriber():
    pytest.importorskip("pocketsphinx")
    return load_transcriber("pocketsphinx")


def test_words_are_heard_in_order(transcriber):
    waveform = read_audio(PROMPT)
    words = transcriber(waveform)
    assert isinstance(transcriber, PocketsphinxTranscriber)
    assert len(words) >= 10
    assert all(0 <= word.confidence <= 1 for word in words)
    starts = [word.start for word in words]
    assert starts == sorted(starts)
    assert all(word.start < word.end <= len(waveform) / 16000 + 0.05 for word in words)
    assert not any(mark in words_to_text(words) for mark in "<>[]()")


def test_what_was_read_before_changes_nothing(transcriber):
    waveform = read_audio(PROMPT, duration=4.0)
    first = transcriber(waveform)
    transcriber(0.5 * np.random.default_rng(0).standard_normal(48000).astype("float32"))
    assert transcriber(waveform) == first


def test_long_recordings_are_read_in_pieces_with_their_own_times(transcriber):
    waveform = read_audio(PROMPT, duration=5.0)
    twice = np.concatenate([waveform, np.zeros(16000, "float32"), waveform])
    words = PocketsphinxTranscriber(piece_seconds=6.0)(twice)
    late = [word for word in words if word.start >= 6.0]
    assert late and len(late) < len(words)


def test_silence_and_nothing_have_no_words(transcriber):
    assert transcriber(np.zeros(0, "float32")) == []
    assert len(transcriber(np.zeros(32000, "float32"))) <= 1


def test_a_recognizer_of_transformers_reads_windows(monkeypatch):
    # Once it has loaded the function, the lazy module is another one.
    assert pytest.importorskip("transformers").pipeline
    transformers = sys.modules["transformers"]
    heard = []

    class Recognizer:
        type = "ctc"

        def __call__(self, inputs, return_timestamps):
            assert inputs["sampling_rate"] == 16000 and return_timestamps == "word"
            heard.append(len(inputs["raw"]))
            chunks = [{"text": "HELLO", "timestamp": (0.5, 0.9)}]
            return {"chunks": chunks + [{"text": "You too", "timestamp": (1.0, None)}]}

    def pipeline(task, model):
        assert (task, model) == ("automatic-speech-recognition", "facebook/wav2vec2-base-960h")
        return Recognizer()

    monkeypatch.setattr(transformers, "pipeline", pipeline)
    transcriber = TransformersTranscriber("wav2vec2-base-960h")
    assert transcriber.window_seconds == 180.0
    words = transcriber(np.zeros(200 * 16000, "float32"))
    assert sum(heard) == 200 * 16000 and len(heard) == 2 and max(heard) <= 180 * 16000
    assert words[0] == Word("hello", 0.5, 0.9)
    second = heard[0] / 16000
    assert words[3] == Word("hello", second + 0.5, second + 0.9)
    assert words[5] == Word("too", second + 1.0, 200.0)


def test_names_lead_to_their_transcribers(monkeypatch, tmp_path):
    loaded = []
    for name in list(TRANSCRIBERS):
        monkeypatch.setitem(TRANSCRIBERS, name, lambda name=name: loaded.append(name))
    for name in ("moonshine-tiny", "whisper-base", "whisper-tiny-en", "pocketsphinx"):
        load_transcriber(name)
    load_transcriber()
    assert loaded == [
        *("moonshine-tiny", "whisper-base", "whisper-tiny-en", "pocketsphinx", "moonshine-tiny")
    ]
    monkeypatch.setattr(transcribers.KerasHubTranscriber, "from_preset", lambda name: name)
    assert load_transcriber("moonshine_tiny_en") == "moonshine_tiny_en"
    assert load_transcriber("whisper_base_en") == "whisper_base_en"
    monkeypatch.setattr(transcribers, "WhisperTranscriber", lambda folder: ("whisper", folder))
    (tmp_path / "model.bin").write_bytes(b"")
    assert load_transcriber(str(tmp_path)) == ("whisper", str(tmp_path))
    monkeypatch.setattr(transcribers, "TransformersTranscriber", lambda name: ("hub", name))
    assert load_transcriber("wav2vec2-base-960h") == ("hub", "wav2vec2-base-960h")
