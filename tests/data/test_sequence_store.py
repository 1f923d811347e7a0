import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("grain")
pytest.importorskip("array_record")

from keras_speechssm.data.token_store import (
    SequenceStore,
    TokenSequence,
    is_sequence_store,
    write_shard,
    write_store_manifest,
)

pytestmark = pytest.mark.any_backend


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
    write_store_manifest(folder, {"vocabulary_size": vocabulary_size}, reports)
    return written


@pytest.mark.parametrize("vocabulary_size", [12, 65_536, 70_000])
def test_gives_back_what_was_written(tmp_path, vocabulary_size):
    written = make_store(tmp_path, vocabulary_size)
    store = SequenceStore(tmp_path)
    assert len(store) == 3 and store.vocabulary_size == vocabulary_size
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
    report = write_shard(folder / "s.array_record", [TokenSequence("a", 0, 1, tokens)], 2**16)
    write_store_manifest(folder, {"vocabulary_size": 2**16}, [report])
    assert SequenceStore(folder)[0].tokens.tolist() == tokens


def test_is_a_source_for_grain(tmp_path):
    import grain

    make_store(tmp_path)
    dataset = grain.MapDataset.source(SequenceStore(tmp_path)).shuffle(seed=0)
    assert sorted(len(dataset[i].tokens) for i in range(3)) == [2, 3, 5]


def test_damage_is_found(tmp_path):
    make_store(tmp_path)
    path = tmp_path / "shard-00000.array_record"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="shard-00000.array_record is damaged"):
        SequenceStore(tmp_path)
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        SequenceStore(tmp_path, verify=False)
    path.unlink()
    with pytest.raises(ValueError, match="is missing"):
        SequenceStore(tmp_path)


def test_an_unfinished_store_is_none(tmp_path):
    make_store(tmp_path)
    manifest = tmp_path / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.unlink()
    assert not is_sequence_store(tmp_path)
    with pytest.raises(ValueError, match="no finished store"):
        SequenceStore(tmp_path)
    del content["shards"][0]["lengths"][0]
    manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="holds 3 sequences, its manifest.json says 2"):
        SequenceStore(tmp_path)
    del content["vocabulary_size"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="damaged"):
        SequenceStore(tmp_path)


def test_a_wrong_token_leaves_nothing_behind(tmp_path):
    sequences = [TokenSequence("a", 0, 1, [1, 2]), TokenSequence("b", 0, 1, [12])]
    with pytest.raises(ValueError, match="b holds token 12"):
        write_shard(tmp_path / "s.array_record", sequences, 12)
    assert list(tmp_path.iterdir()) == []
