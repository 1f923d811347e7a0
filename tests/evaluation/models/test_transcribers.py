import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from keras_speechssm.audio.io import read_audio
from keras_speechssm.evaluation.models import openai_service, transcribers
from keras_speechssm.evaluation.models.transcribers import (
    TRANSCRIBERS,
    PocketsphinxTranscriber,
    ServiceTranscriber,
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


class Session:
    """Stands for `requests.Session`: replies in order, and keeps what it was sent."""

    def __init__(self, *replies):
        self.replies, self.sent = list(replies), []

    def post(self, address, data, files, timeout):
        import requests

        name, audio, kind = files["file"]
        self.sent.append((address, data, *soundfile.read(io.BytesIO(audio))))
        assert (name, kind) == ("audio.wav", "audio/wav")
        status, content = self.replies.pop(0)
        response = requests.Response()
        response.status_code = status
        response._content = json.dumps(content).encode()
        return response


def service(*replies, **options):
    transcriber = load_transcriber("http://localhost:1/v1/#whisper-1")
    assert isinstance(transcriber, ServiceTranscriber) and transcriber.name == "whisper-1"
    vars(transcriber).update({f"{name}": value for name, value in options.items()})
    transcriber._session = Session(*replies)
    return transcriber


def test_a_service_transcribes_pieces_with_their_times(monkeypatch):
    pytest.importorskip("requests")
    monkeypatch.setattr(openai_service.time, "sleep", lambda seconds: None)
    first = {"text": "Hi, you", "words": [{"word": " Hi", "start": 0.5, "end": 0.75}]}
    transcriber = service((503, {}), (200, first), (200, {"text": "Two more"}), piece_seconds=4.0)
    waveform = np.full(6 * 16000, 0.25, "float32")
    waveform[58000:62000] = 0.0  # the pause to cut at
    words = transcriber(waveform)
    assert words[0] == Word("hi", 0.5, 0.75)
    # Without times of words they are spread over their piece.
    assert [word.text for word in words[1:]] == ["two", "more"]
    assert words[1].start == pytest.approx(3.75, abs=0.1) and words[2].end == pytest.approx(6.0)
    (address, data, audio, rate), *_ = transcriber._session.sent
    assert address == "http://localhost:1/v1/audio/transcriptions" and rate == 16000
    assert data["model"] == "whisper-1" and data["response_format"] == "verbose_json"
    assert audio[0] == pytest.approx(0.25, abs=1e-4) and len(transcriber._session.sent) == 3


def test_a_service_without_times_is_asked_for_text_only_and_refusals_are_one_line():
    pytest.importorskip("requests")
    refusal = (400, {"error": {"message": "response_format 'verbose_json' is not compatible"}})
    transcriber = service(refusal, (200, {"text": "hello"}), (401, {"error": "bad key"}))
    assert words_to_text(transcriber(np.ones(16000, "float32"))) == "hello"
    assert "response_format" not in transcriber._session.sent[1][1]
    with pytest.raises(ValueError, match=r"refuses audio \(HTTP 401.*bad key\); check the address"):
        transcriber(np.ones(16000, "float32"))
    with pytest.raises(ValueError, match="needs the name of a model: http://localhost:1/v1#model"):
        load_transcriber("http://localhost:1/v1")
