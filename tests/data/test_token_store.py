"""Folders of tokens: what is written is read, and damage is told in one line."""

import json
import os

import numpy as np
import pytest

from keras_speechssm.data.token_store import (
    Manifest,
    finish_token_folder,
    read_manifest,
    read_token_folder,
    read_tokens,
    recording_names,
    write_manifest,
    write_tokens,
)

pytestmark = pytest.mark.any_backend


@pytest.fixture
def folder(tmp_path):
    write_tokens(tmp_path / "emma" / "0001.npy", np.arange(7))
    write_tokens(tmp_path / "emma" / "0000.npy", np.array([511, 0, 3], "int64"))
    write_tokens(tmp_path / "heidi.npy", np.zeros(0, "uint16"))
    return tmp_path


def test_a_folder_is_read_as_written(folder):
    manifest = finish_token_folder(folder, 512, preset="demo")
    assert manifest == read_manifest(folder)
    assert manifest.recordings == {"emma/0000": 3, "emma/0001": 7, "heidi": 0}
    assert (manifest.num_tokens, manifest.token_rate, manifest.preset) == (10, 25, "demo")
    recordings = read_token_folder(folder)
    assert [tokens.dtype for tokens in recordings] == [np.int32] * 3
    for tokens, expected in zip(recordings, ([511, 0, 3], range(7), []), strict=True):
        np.testing.assert_array_equal(tokens, expected)


@pytest.mark.parametrize("largest, stored", [(2**16 - 1, "uint16"), (2**16, "int32")])
def test_the_smallest_type_that_holds_the_tokens(tmp_path, largest, stored):
    write_tokens(tmp_path / "a.npy", np.array([0, largest]))
    assert np.load(tmp_path / "a.npy").dtype == stored
    np.testing.assert_array_equal(read_tokens(tmp_path / "a.npy"), [0, largest])


def test_only_the_named_recordings_are_listed(folder):
    assert list(finish_token_folder(folder, 512, names=["heidi"]).recordings) == ["heidi"]
    assert len(read_token_folder(folder)) == 1


def test_unfinished_files_are_not_recordings(folder):
    (folder / "emma" / ".0002.npy.partial").write_bytes(b"half")
    (folder / ".hidden.npy").write_bytes(b"half")
    assert recording_names(folder) == ["emma/0000", "emma/0001", "heidi"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    write_tokens(tmp_path / "a.npy", np.arange(3))

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_tokens(tmp_path / "a.npy", np.arange(5))
    with pytest.raises(OSError, match="disk full"):
        write_manifest(tmp_path, Manifest(512))
    assert os.listdir(tmp_path) == ["a.npy"]
    assert len(read_tokens(tmp_path / "a.npy")) == 3


@pytest.mark.parametrize(
    "tokens", [np.zeros(3), np.zeros((2, 3), int), np.array([-1]), np.array([2**31])]
)
def test_what_is_not_tokens_is_refused(tmp_path, tokens):
    with pytest.raises(ValueError, match="expected whole numbers"):
        write_tokens(tmp_path / "a.npy", tokens)
    assert os.listdir(tmp_path) == []


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ends in .npy"):
        write_tokens(tmp_path / "a.txt", np.arange(3))


def test_damage_is_told(folder):
    with pytest.raises(ValueError, match="no manifest.json"):
        read_token_folder(folder)
    with pytest.raises(ValueError, match="holds token 511, but the vocabulary has 500"):
        finish_token_folder(folder, 500)
    finish_token_folder(folder, 512)
    write_tokens(folder / "heidi.npy", np.arange(4))
    with pytest.raises(ValueError, match="heidi in .* has 4 tokens, but manifest.json says 0"):
        read_token_folder(folder)
    (folder / "heidi.npy").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="heidi.npy is not a file of tokens"):
        read_token_folder(folder)
    (folder / "heidi.npy").unlink()
    with pytest.raises(ValueError, match="heidi.npy does not exist"):
        read_token_folder(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"vocabulary_size": 5}'])
def test_a_damaged_manifest_is_told(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match="is damaged"):
        read_manifest(tmp_path)


def test_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="not a file of tokens"):
        read_tokens(tmp_path / "a.npy")


def test_an_empty_folder_or_vocabulary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no .npy"):
        finish_token_folder(tmp_path, 512)
    with pytest.raises(ValueError, match="positive"):
        write_manifest(tmp_path, Manifest(0))


def test_fields_of_the_future_are_passed_over(folder):
    finish_token_folder(folder, 512)
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**content, "language": "en"}))
    assert read_manifest(folder).vocabulary_size == 512
