import pickle
import types

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_speechssm.data.packing import PackedSequences, pack_rows
from keras_speechssm.models import GriffinBackbone, SpeechSSM


@given(st.lists(st.integers(1, 12), max_size=60), st.integers(0, 3))
def test_every_sequence_lies_in_one_row_and_none_is_too_full(lengths, seed):
    rows = pack_rows(lengths, 12, seed)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in row) <= 12 for row in rows)


def test_each_sequence_goes_where_it_leaves_least_space():
    lengths = np.random.default_rng(1).integers(1, 30, 300)
    order = np.random.default_rng(5).permutation(300)
    rows, free = [], []
    for index in sorted(order.tolist(), key=lambda index: -lengths[index]):
        fits = [(space, row) for row, space in enumerate(free) if space >= lengths[index]]
        row = min(fits)[1] if fits else len(rows)
        if not fits:
            rows.append([])
            free.append(40)
        rows[row].append(index)
        free[row] -= lengths[index]
    assert pack_rows(lengths, 40, seed=5) == rows


def test_rows_are_nearly_full():
    lengths = np.random.default_rng(0).integers(1, 1001, 3000)
    rows = pack_rows(lengths, 1000)
    assert lengths.sum() / (1000 * len(rows)) > 0.97


@pytest.mark.parametrize("length", [0, 13])
def test_lengths_out_of_range_are_refused(length):
    with pytest.raises(ValueError, match="expected 1 to 12"):
        pack_rows([5, length], 12)


def packed(streams, sequence_length, seed=0):
    streams = [np.asarray(stream) for stream in streams]
    lengths = [len(stream) for stream in streams]
    return PackedSequences(lengths, streams.__getitem__, sequence_length, seed)


def test_a_row_knows_its_sequences():
    rows = packed([[1, 2, 3], [], [4, 5], [9]], 7)
    assert len(rows) == 1  # a single token has no target
    inputs, targets, weights = rows[0]
    assert inputs["token_ids"].tolist() == [1, 2, 3, 4, 5, 0, 0]
    assert inputs["reset_mask"].astype(int).tolist() == [1, 0, 0, 1, 0, 1, 0]
    assert targets.tolist() == [2, 3, 0, 5, 0, 0, 0]
    assert weights.tolist() == [1, 1, 0, 1, 0, 0, 0]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=20), st.integers(2, 12))
def test_every_pair_of_neighbors_is_learnt_once_an_epoch(lengths, sequence_length):
    ends = np.cumsum(lengths)
    streams = [np.arange(end - n, end) for end, n in zip(ends, lengths, strict=True)]
    if max(lengths) < 2:
        with pytest.raises(ValueError, match="at least two tokens"):
            packed(streams, sequence_length)
        return
    rows = packed(streams, sequence_length)
    found = []
    for number in range(len(rows)):
        inputs, targets, weights = rows[number]
        pairs = zip(inputs["token_ids"][weights > 0], targets[weights > 0], strict=True)
        found += [int(target) for token, target in pairs if token + 1 == target]
        assert len(inputs["token_ids"]) == sequence_length
    # Of a piece all tokens but the first.
    expected = [
        token
        for stream in streams
        for start in range(0, len(stream) - 1, sequence_length)
        for token in stream[start + 1 : start + sequence_length]
    ]
    assert sorted(found) == sorted(expected)


def test_every_row_comes_once_an_epoch_in_an_order_of_its_own():
    rows = packed([np.full(10, number) for number in range(24)], 10)
    batches = rows.batches(6)
    epochs = [
        [int(row[0]) for step in steps for row in batches(step)[0]["token_ids"]]
        for steps in (range(4), range(4, 8))
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(24))
    assert epochs[0] != epochs[1]
    again = packed([np.full(10, number) for number in range(24)], 10).batches(6)
    for step in (5, 2):  # whatever was asked for before
        np.testing.assert_array_equal(batches(step)[1], again(step)[1])


def test_processes_share_a_batch():
    rows = packed([np.full(10, number) for number in range(24)], 10)
    whole = rows.batches(6)(2)[1]
    parts = [rows.batches(6, process, 3)(2)[1] for process in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    with pytest.raises(ValueError, match="6 rows cannot be split"):
        rows.batches(6, 0, 4)


def test_parts_of_a_batch_have_the_weights_of_the_whole():
    rows = packed([np.arange(2 + number % 9) for number in range(60)], 10)
    whole = rows.batches(6)(1)
    parts = [rows.batches(6, process, 3)(1) for process in range(3)]
    others = [rows.batches(6)(1, rows=np.array(places)) for places in ([0, 5], [1, 4], [2, 3])]
    assert len({float(part[2].max()) for part in parts}) == 1
    for k in (1, 2):
        np.testing.assert_array_equal(np.concatenate([part[k] for part in parts]), whole[k])
        np.testing.assert_array_equal(others[0][k], whole[k][[0, 5]])
    np.testing.assert_array_equal(others[2][0]["token_ids"], whole[0]["token_ids"][2:4])
    datasets = [rows.dataset(6, False, process, 2)[1][2] for process in range(2)]
    np.testing.assert_array_equal(np.concatenate(datasets), rows.dataset(6, False)[1][2])


def test_a_batch_larger_than_an_epoch_takes_from_the_next():
    batches = packed([np.arange(4)], 4).batches(3)
    assert batches(0)[0]["token_ids"].tolist() == [[0, 1, 2, 3]] * 3


def test_a_batch_s_weights_are_one_on_average():
    weights = packed([np.arange(4), np.arange(9)], 10).batch([0, 1])[2]
    assert weights.mean() == pytest.approx(1.0) and weights.dtype == np.float32
    assert np.count_nonzero(weights) == 3 + 8 and len(np.unique(weights)) == 2


def test_held_out_batches_are_whole_and_the_same_every_time():
    rows = packed([np.arange(10)] * 11, 10)
    assert [len(batch[1]) for batch in rows.held_out_batches(4, 2)] == [4, 4]
    assert [len(batch[1]) for batch in rows.held_out_batches(16, 2)] == [11]


def test_a_dataset_has_every_row_once_per_epoch():
    rows = packed([np.full(10, number) for number in range(23)], 10)
    dataset = rows.dataset(6)
    epochs = []
    for _ in range(2):
        assert [len(dataset[n][1]) for n in range(len(dataset))] == [6, 6, 6, 5]
        epochs.append([int(row[0]) for n in range(4) for row in dataset[n][0]["token_ids"]])
        dataset.on_epoch_end()
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(23))
    assert epochs[0] != epochs[1]
    plain = rows.dataset(6, shuffle=False)
    np.testing.assert_array_equal(plain[3][1], rows.batch(range(18, 23))[1])


def test_processes_share_the_batches_of_a_dataset():
    rows = packed([np.full(10, number) for number in range(23)], 10)
    whole = rows.dataset(6)[2][1]
    parts = [rows.dataset(6, process=process, num_processes=3) for process in range(3)]
    np.testing.assert_array_equal(np.concatenate([part[2][1] for part in parts]), whole)
    assert [len(part) for part in parts] == [3, 3, 3]  # the last 5 rows do not fill a batch
    with pytest.raises(ValueError, match="6 rows cannot be split"):
        rows.dataset(6, process=0, num_processes=4)
    with pytest.raises(ValueError, match="23 rows do not fill a batch of 24"):
        rows.dataset(24, process=0, num_processes=3)


def test_without_packing_each_row_has_one_sequence():
    sequences = [np.arange(1, 4), np.arange(5, 12)]
    rows = PackedSequences.from_arrays(sequences, 5, pack=False)
    found = [
        (row["token_ids"].tolist(), row["padding_mask"].sum(), w.sum())
        for row, _, w in map(rows.__getitem__, range(len(rows)))
    ]
    assert found == [
        ([1, 2, 3, 0, 0], 3, 2),
        ([5, 6, 7, 8, 9], 5, 4),
        ([10, 11, 0, 0, 0], 2, 1),
    ]


@pytest.mark.slow_to_compile("tensorflow")
def test_a_plain_fit_takes_them_through_grain():
    grain = pytest.importorskip("grain")
    rows = packed([np.arange(20) % 7] * 9, 10)
    dataset = grain.MapDataset.source(rows).shuffle(seed=0).repeat().batch(4)
    backbone = GriffinBackbone(
        vocabulary_size=7, num_layers=2, hidden_dim=8, intermediate_dim=8, num_heads=2
    )
    model = SpeechSSM(backbone)
    model.compile(optimizer=keras.optimizers.Adam(0.02), weighted_metrics=[])
    history = model.fit(dataset, steps_per_epoch=20, epochs=2, shuffle=False, verbose=0)
    losses = history.history["loss"]
    assert losses[1] < 0.8 * losses[0]


def test_rows_are_pickled_for_worker_processes():
    sequences = [np.arange(3), np.arange(2)]
    records = [types.SimpleNamespace(tokens=tokens) for tokens in sequences]
    store = FakeStore(records)
    for rows in (PackedSequences.from_arrays(sequences, 4), PackedSequences.from_store(store, 4)):
        again = pickle.loads(pickle.dumps(rows))
        np.testing.assert_array_equal(again[0][1], rows[0][1])
        make_batch = pickle.loads(pickle.dumps(rows.batches(1)))
        np.testing.assert_array_equal(make_batch(1)[1], rows.batches(1)(1)[1])


class FakeStore(list):
    lengths = (3, 2)
