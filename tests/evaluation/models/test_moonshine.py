from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from keras_speechssm.audio.io import read_audio
from keras_speechssm.evaluation.models import moonshine
from keras_speechssm.evaluation.models.moonshine import (
    MoonshineTranscriber,
    join_tokens,
    read_tokenizer,
)
from keras_speechssm.evaluation.models.transcript import place_words

pytestmark = pytest.mark.any_backend

PROMPT = Path(__file__).parents[3] / "examples" / "prompt.flac"
SPACE = "\u2581".encode()


@pytest.fixture(scope="module")
def transcriber():
    pytest.importorskip("onnxruntime")
    if find_spec("moonshine_voice") is None:
        pytest.skip("moonshine-voice is not installed")
    return MoonshineTranscriber(num_threads=1)


def test_the_tokenizer_file_has_lengths_of_one_and_two_bytes(tmp_path):
    tokens = [b"", b"a", b"x" * 127, b"y" * 300]
    lengths = [b"\x00", b"\x01", b"\x7f", bytes([(300 & 127) | 128, 300 >> 7])]
    pairs = zip(lengths, tokens, strict=True)
    (tmp_path / "tokenizer.bin").write_bytes(b"".join(size + token for size, token in pairs))
    assert read_tokenizer(tmp_path / "tokenizer.bin") == tokens


def test_words_are_joined_with_their_least_probability():
    tokens = [SPACE + b"The", SPACE + b"riv", b"er", b"." + SPACE + b"W", b"e"]
    assert join_tokens(tokens, [0.9, 0.8, 0.3, 0.7, 0.6]) == [
        ("the", 0.9),
        ("river.", 0.3),
        ("we", 0.6),
    ]
    assert join_tokens([], []) == []


def test_words_share_the_time_in_proportion_to_their_letters():
    first, second = place_words([("a", 1.0), ("children", 0.5)], 10.0, 21.0)
    assert (first.start, first.end, second.start, second.end) == (10.0, 12.0, 12.0, 21.0)
    assert second.confidence == 0.5
    assert place_words([], 0.0, 1.0) == []


def test_the_prompt_is_heard(transcriber):
    waveform = read_audio(PROMPT)
    words = transcriber(waveform)
    text = " ".join(word.text for word in words)
    assert "went down to the river" in text and "the old man looked up" in text
    assert all(0 < word.confidence <= 1 for word in words)
    assert words[-1].end <= len(waveform) / 16000 + 0.01
    # Pieces are read on their own: the same audio gives the same words.
    assert transcriber(waveform) == words


def test_long_recordings_are_cut(transcriber):
    waveform = read_audio(PROMPT, duration=5.0)
    twice = np.concatenate([waveform, np.zeros(16000, "float32"), waveform])
    words = MoonshineTranscriber(piece_seconds=6.0, num_threads=1)(twice)
    assert [word.text for word in words].count("down") == 2


@pytest.mark.parametrize("samples", [0, 100, 32000])
def test_silence_and_nothing_have_no_words(transcriber, samples):
    assert transcriber(np.zeros(samples, "float32")) == []


def test_a_missing_package_is_one_clear_line(monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(moonshine, "_PACKAGE", "moonshine_elsewhere")
    with pytest.raises(ValueError, match=r"pip install --no-deps moonshine-voice==0\.0\.4"):
        MoonshineTranscriber()
