"""Tests of token stores: what is written is read, and damage gives one line."""

import json
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("array_record")

from keras_speechssm.data.token_store import (
    TokenSequence,
    TokenStore,
    is_token_store,
    open_tokens,
    read_tokens,
    write_manifest,
    write_shard,
    write_token_store,
    write_tokens,
)

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize("tokens, size", [(None, 12), (np.ones(3), 12), ([1], [12]), ([1], 0)])
def test_what_is_not_tokens_is_not_stored(tmp_path, tokens, size):
    with pytest.raises(ValueError, match="Recording 'a' is|vocabulary_size is") as caught:
        write_token_store(tmp_path / "store", {"a": tokens}, size)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def make_store(folder, vocabulary_size=70_000, shards=((3, 5), (), (2,))):
    rng = np.random.default_rng(0)
    written, reports = [], []
    for number, lengths in enumerate(shards):
        sequences = [
            TokenSequence(f"{number}/é", 0.0, n / 25, rng.integers(0, vocabulary_size, n))
            for n in lengths
        ]
        path = folder / f"shard-{number:05d}.array_record"
        reports.append(write_shard(path, sequences, vocabulary_size))
        written += sequences
    write_manifest(folder, {"vocabulary_size": vocabulary_size}, reports)
    return written


@pytest.mark.parametrize("vocabulary_size", [12, 65_536, 70_000])
def test_returns_what_was_written(tmp_path, vocabulary_size):
    written = make_store(tmp_path, vocabulary_size)
    store = TokenStore(tmp_path)
    assert len(store) == 3
    assert store.vocabulary_size == vocabulary_size
    assert store.lengths.tolist() == [3, 5, 2]
    for index, sequence in enumerate(written):
        found = store[index]
        np.testing.assert_array_equal(found.tokens, sequence.tokens)
        assert found.tokens.dtype == np.int32
        assert (found.recording, found.start, found.stop) == (
            sequence.recording,
            sequence.start,
            sequence.stop,
        )


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=30))
def test_any_tokens_survive(tmp_path_factory, tokens):
    folder = tmp_path_factory.mktemp("store")
    write_token_store(folder, {"a": np.array(tokens)}, 2**16)
    assert TokenStore(folder)[0].tokens.tolist() == tokens


def test_is_a_source_for_grain_and_its_workers(tmp_path):
    grain = pytest.importorskip("grain")
    make_store(tmp_path)
    store = pickle.loads(pickle.dumps(TokenStore(tmp_path)))
    dataset = grain.MapDataset.source(store).shuffle(seed=0)
    assert sorted(len(dataset[i].tokens) for i in range(3)) == [2, 3, 5]


def test_a_store_under_its_earlier_format_name_is_read(tmp_path):
    make_store(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["format"] == "token_store"
    manifest["format"] = "sequence_store"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert len(TokenStore(tmp_path)) == 3


def test_damage_is_found(tmp_path):
    make_store(tmp_path)
    path = tmp_path / "shard-00000.array_record"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00000.array_record is damaged"):
        TokenStore(tmp_path)
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        TokenStore(tmp_path, verify=False)
    path.unlink()
    with pytest.raises(ValueError, match="is missing"):
        TokenStore(tmp_path)


def test_an_unfinished_store_is_refused(tmp_path):
    make_store(tmp_path)
    manifest = tmp_path / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.unlink()
    assert not is_token_store(tmp_path)
    with pytest.raises(ValueError, match="not a finished token store"):
        TokenStore(tmp_path)
    del content["shards"][0]["lengths"][0]
    manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"holds 3 sequences, but its manifest.json lists 2"):
        TokenStore(tmp_path)
    del content["vocabulary_size"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="damaged"):
        TokenStore(tmp_path)


def test_a_wrong_token_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="b holds ids from 12 to 12"):
        write_token_store(tmp_path, {"a": np.array([1, 2]), "b": np.array([12])}, 12)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def npy_folder(tmp_path):
    """A folder of tokens as earlier versions wrote it."""
    folder = tmp_path / "npy"
    write_tokens(folder / "emma" / "0001.npy", np.arange(7))
    write_tokens(folder / "emma" / "0000.npy", np.array([511, 0, 3], "int64"))
    write_tokens(folder / "heidi.npy", np.zeros(0, "uint16"))
    recordings = {"emma/0001": 7, "emma/0000": 3, "heidi": 0}
    manifest = {"vocabulary_size": 512, "preset": "demo", "recordings": recordings}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "language": "en"}))
    return folder


def test_npy_folders_of_earlier_versions_are_read(npy_folder):
    store = pickle.loads(pickle.dumps(TokenStore(npy_folder)))
    assert (store.vocabulary_size, store.lengths.tolist()) == (512, [3, 7, 0])
    assert [sequence.recording for sequence in store] == ["emma/0000", "emma/0001", "heidi"]
    assert store[1].stop == pytest.approx(7 / 25)
    for sequence, expected in zip(store, ([511, 0, 3], range(7), []), strict=True):
        assert sequence.tokens.dtype == np.int32
        np.testing.assert_array_equal(sequence.tokens, expected)


def test_damage_of_npy_folders_is_found_when_they_are_opened(npy_folder):
    write_tokens(npy_folder / "heidi.npy", np.arange(4))
    with pytest.raises(ValueError, match=r"heidi in .* has 4 tokens, but manifest.json lists 0"):
        TokenStore(npy_folder)
    write_tokens(npy_folder / "heidi.npy", np.array([512]))
    with pytest.raises(ValueError, match="heidi.npy holds ids from 512"):
        TokenStore(npy_folder)
    (npy_folder / "heidi.npy").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="heidi.npy is not a token file"):
        TokenStore(npy_folder)
    (npy_folder / "heidi.npy").unlink()
    with pytest.raises(ValueError, match="heidi.npy does not exist"):
        TokenStore(npy_folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"vocabulary_size": 5}'])
def test_another_manifest_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match="not a finished token store"):
        TokenStore(tmp_path)


def test_several_stores_are_one_list(tmp_path, npy_folder):
    write_token_store(tmp_path / "a", {"x": np.arange(4), "y": np.arange(2)}, 512)
    source = open_tokens([tmp_path / "a", npy_folder])
    assert (source.vocabulary_size, source.lengths.tolist()) == (512, [4, 2, 3, 7, 0])
    np.testing.assert_array_equal(source.read(3), np.arange(7))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).read(3), np.arange(7))
    write_token_store(tmp_path / "b", {"x": np.arange(4)}, 5)
    with pytest.raises(ValueError, match="must share one tokenizer"):
        open_tokens([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize("largest, stored", [(2**16 - 1, "uint16"), (2**16, "int32")])
def test_npy_files_use_the_smallest_type(tmp_path, largest, stored):
    write_tokens(tmp_path / "a.npy", np.array([0, largest]))
    assert np.load(tmp_path / "a.npy").dtype == stored
    np.testing.assert_array_equal(read_tokens(tmp_path / "a.npy"), [0, largest])


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    write_tokens(tmp_path / "a.npy", np.arange(3))

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_tokens(tmp_path / "a.npy", np.arange(5))
    with pytest.raises(OSError, match="disk full"):
        write_token_store(tmp_path, {"a": np.arange(3)}, 512)
    assert os.listdir(tmp_path) == ["a.npy"]
    assert len(read_tokens(tmp_path / "a.npy")) == 3


@pytest.mark.parametrize(
    "tokens", [np.zeros(3), np.zeros((2, 3), int), np.array([-1]), np.array([2**31])]
)
def test_what_is_not_tokens_is_refused(tmp_path, tokens):
    with pytest.raises(ValueError, match="tokens (is|holds)"):
        write_tokens(tmp_path / "a.npy", tokens)
    assert os.listdir(tmp_path) == []


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in .npy"):
        write_tokens(tmp_path / "a.txt", np.arange(3))


def test_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="not a token file"):
        read_tokens(tmp_path / "a.npy")
