"""Tests of `tokenize_file` and `tokenize_recordings`: names, refusals, resumption."""

import numpy as np
import pytest
from tiny_models import shared_tiny_preset

pytest.importorskip("array_record")

from keras_speechssm.audio.io import write_audio
from keras_speechssm.data import prepare
from keras_speechssm.data.prepare import tokenize_file, tokenize_recordings
from keras_speechssm.data.token_store import TokenStore, read_tokens

pytestmark = pytest.mark.any_backend


@pytest.fixture
def recordings(tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000).astype("float32")
    for name in ("a/x.wav", "a/deep/y.flac", "b/x.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_audio(tmp_path / name, noise)
    return tmp_path


def tokens_of(folder):
    sequences = [*TokenStore(folder)]
    return {sequence.recording: sequence.tokens for sequence in sequences}


def test_names_mirror_one_folder_and_distinguish_several(recordings):
    preset = shared_tiny_preset()
    assert tokenize_recordings([recordings / "a"], recordings / "one", preset) == 50
    one = tokens_of(recordings / "one")
    assert set(one) == {"x", "deep/y"}
    both = [recordings / "a", recordings / "b"]
    assert tokenize_recordings(both, recordings / "two", preset) == 75
    two = tokens_of(recordings / "two")
    assert set(two) == {"a/x", "a/deep/y", "b/x"}
    np.testing.assert_array_equal(one["x"], two["a/x"])
    assert TokenStore(recordings / "two").manifest["preset"] == preset


def test_a_second_run_makes_only_what_is_missing(recordings, monkeypatch):
    arguments = ([recordings / "a"], recordings / "out", shared_tiny_preset())
    tokenize_recordings(*arguments)
    (recordings / "out" / "manifest.json").unlink()
    monkeypatch.setattr(prepare, "write_shard", None)
    assert tokenize_recordings(*arguments) == 50


def test_other_recordings_or_another_preset_are_refused(recordings):
    preset = shared_tiny_preset()
    tokenize_recordings([recordings / "a"], recordings / "out", preset)
    with pytest.raises(ValueError, match="started with other recordings"):
        tokenize_recordings([recordings / "a", recordings / "b"], recordings / "out", preset)


def test_equal_names_and_files_as_folders_are_refused(recordings):
    preset = shared_tiny_preset()
    files = [recordings / "a" / "x.wav", recordings / "b" / "x.wav"]
    tokenize_recordings(files, recordings / "two", preset)
    assert set(tokens_of(recordings / "two")) == {"a/x", "b/x"}
    write_audio(recordings / "a" / "x.flac", np.zeros(16000, "float32"))
    with pytest.raises(ValueError, match="would both be named 'a/x'"):
        tokenize_recordings([*files, recordings / "a" / "x.flac"], recordings / "out", preset)
    with pytest.raises(ValueError, match="would both be named 'x'"):
        tokenize_recordings([recordings / "a"], recordings / "out", preset)
    with pytest.raises(ValueError, match="it is a file"):
        tokenize_recordings([recordings / "b"], recordings / "a" / "x.wav", preset)
    assert not (recordings / "out").exists()


def test_one_unreadable_recording_stops_the_run(recordings):
    (recordings / "a" / "z.wav").write_bytes(b"no audio")
    with pytest.raises(ValueError, match="1 of the recordings cannot be read"):
        tokenize_recordings([recordings / "a"], recordings / "out", shared_tiny_preset())


def test_one_file_through_a_real_model(recordings):
    out = recordings / "tokens.npy"
    assert tokenize_file(recordings / "a" / "x.wav", out, shared_tiny_preset()) == 25
    assert read_tokens(out).shape == (25,)
    with pytest.raises(ValueError, match=r"must end in .npy"):
        tokenize_file(recordings / "a" / "x.wav", recordings / "tokens.txt")
