"""Recordings to token files: names, refusals, resumption."""

import numpy as np
import pytest
from tiny_models import shared_tiny_preset

from keras_speechssm.audio.io import write_audio
from keras_speechssm.data import prepare as tokenization
from keras_speechssm.data.prepare import tokenize_file, tokenize_recordings
from keras_speechssm.data.token_store import read_manifest, read_tokens, write_tokens


@pytest.fixture
def recordings(tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000).astype("float32")
    for name in ("a/x.wav", "a/deep/y.flac", "b/x.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_audio(tmp_path / name, noise)
    return tmp_path


class CountingTokenizer:
    """Stands in for the model: one token a step, and how often it was asked."""

    vocabulary_size = 4
    calls = 0

    @classmethod
    def from_preset(cls, preset):
        return cls()

    def tokenize(self, waveform):
        type(self).calls += 1
        return np.zeros(-(-len(waveform) // 640), "int32")


@pytest.fixture
def counting(monkeypatch):
    CountingTokenizer.calls = 0
    monkeypatch.setattr(tokenization, "SemanticTokenizer", CountingTokenizer)
    return CountingTokenizer


def test_names_mirror_one_folder_and_tell_several_apart(recordings, counting):
    tokenize_recordings([recordings / "a"], recordings / "one", "p", progress=None)
    assert set(read_manifest(recordings / "one").recordings) == {"x", "deep/y"}
    both = [recordings / "a", recordings / "b"]
    assert tokenize_recordings(both, recordings / "two", "p", progress=None) == 75
    manifest = read_manifest(recordings / "two")
    assert set(manifest.recordings) == {"a/x", "a/deep/y", "b/x"}
    assert (manifest.vocabulary_size, manifest.preset) == (4, "p")


def test_a_second_run_does_only_what_is_missing(recordings, counting):
    lines = []
    for _ in range(2):
        tokenize_recordings([recordings / "a"], recordings / "out", "p", progress=lines.append)
    assert counting.calls == 2 and len(lines) == 1 and lines[0].startswith("2 of 2 recordings")


def test_another_preset_is_refused(recordings, counting):
    tokenize_recordings([recordings / "a"], recordings / "out", "p", progress=None)
    with pytest.raises(ValueError, match="made with preset 'p', not 'q'"):
        tokenize_recordings([recordings / "a"], recordings / "out", "q", progress=None)


def test_another_preset_is_refused_after_an_interrupt_too(recordings, counting, monkeypatch):
    output = recordings.parent / "tokens"

    def interrupted(path, tokens):
        write_tokens(path, tokens)
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenization, "write_tokens", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tokenize_recordings([recordings], output, "p", progress=None)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="begun with preset 'p'"):
        tokenize_recordings([recordings], output, "q", progress=None)


def test_equal_names_and_files_as_folders_are_refused(recordings, counting):
    files = [recordings / "a" / "x.wav", recordings / "b" / "x.wav"]
    tokenize_recordings(files, recordings / "two", "p", progress=None)
    assert set(read_manifest(recordings / "two").recordings) == {"a/x", "b/x"}
    write_audio(recordings / "a" / "x.flac", np.zeros(16000, "float32"))
    with pytest.raises(ValueError, match="would both be named 'a/x'"):
        tokenize_recordings([*files, recordings / "a" / "x.flac"], recordings / "out", "p")
    with pytest.raises(ValueError, match="would both be named 'x'"):
        tokenize_recordings([recordings / "a"], recordings / "out", "p")
    with pytest.raises(ValueError, match="a file lies there"):
        tokenize_recordings([recordings / "a"], recordings / "a" / "x.wav", "p")
    assert not (recordings / "out").exists() and counting.calls == 2


def test_one_file_through_a_real_model(recordings):
    out = recordings / "tokens.npy"
    assert tokenize_file(recordings / "a" / "x.wav", out, shared_tiny_preset()) == 25
    assert read_tokens(out).shape == (25,)
    with pytest.raises(ValueError, match="must end in .npy"):
        tokenize_file(recordings / "a" / "x.wav", recordings / "tokens.txt")
