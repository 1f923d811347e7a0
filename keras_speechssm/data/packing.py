"""Packing of token sequences of many lengths into rows of one length."""

import functools
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np


def pack_rows(lengths: Sequence[int], capacity: int, seed: int = 0) -> list[list[int]]:
    """Assign sequences to rows: each sequence is in exactly one row, unsplit.

    Best fit, longest first, over groups of shuffled sequences. Rows are nearly full, and which
    sequences share a row is nearly random.

    Args:
        lengths: Number of tokens of each sequence, 1 to `capacity`.
        capacity: Number of tokens of a row.
        seed: Seed of the shuffle.

    Returns:
        Lists of indices into `lengths`.

    Raises:
        ValueError: If a length is out of range.
    """
    lengths = np.asarray(lengths, "int64")
    if lengths.size and not 1 <= lengths.min() <= lengths.max() <= capacity:
        raise ValueError(
            f"Sequences have {lengths.min()} to {lengths.max()} tokens; expected 1 to {capacity}."
        )
    return [row for group in _pack_groups(lengths, capacity, seed) for row in group]


_GROUP = 1024


def _pack_groups(lengths: np.ndarray, capacity: int, seed: int) -> Iterator[list[list[int]]]:
    order = np.random.default_rng(seed).permutation(len(lengths))
    for start in range(0, len(order), _GROUP):
        yield _best_fit(order[start : start + _GROUP], lengths, capacity)


def _best_fit(indices: np.ndarray, lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Put each sequence into the row that it leaves least space in, the longest first."""
    indices = indices[np.argsort(-lengths[indices], kind="stable")]
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # space and number of each row that has space, in order
    for index, length in zip(indices.tolist(), lengths[indices].tolist(), strict=True):
        place = bisect_left(free, (length, -1))
        if place < len(free):
            space, row = free.pop(place)
        else:
            space, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        if space > length:
            insort(free, (space - length, row))
    return rows


class PackedSequences:
    """Rows of packed sequences with reset masks: `len(rows)`, `rows[index]`.

    `dataset` gives batches for `fit`. The rows are also a data source for Grain:
    `grain.MapDataset.source(rows).shuffle(seed=0).batch(8)`.

    The weights of a row are 0 and 1. Those of `batch`, `batches` and `dataset` are 1 on average,
    so that the loss is a mean over the predicted tokens; through Grain the sum is divided by all
    positions, padding included, which gives slightly less.

    Args:
        lengths: Number of tokens of each sequence. Longer ones than a row are cut into rows
            and a rest.
        read: Function from a sequence's index to its tokens, int (time,).
        sequence_length: Number of tokens of a row.
        seed: Seed of the packing and of the order of the rows.
        pack: Whether a row may hold several sequences. If `False`, each row holds one, with a
            `padding_mask` instead of the `reset_mask`. Defaults to `True`.

    Raises:
        ValueError: If there are no tokens.

    Example:

    ```python
    import numpy as np
    from keras_speechssm.data import PackedSequences
    from keras_speechssm.models import GriffinBackbone, SpeechSSM

    sequences = [np.arange(9) % 8, np.arange(5), np.arange(30) % 8]
    rows = PackedSequences.from_arrays(sequences, sequence_length=16)
    model = SpeechSSM(GriffinBackbone(8, 3, 8, 16, 2, use_rotary=False))
    model.fit(rows.dataset(batch_size=2), epochs=2, verbose=0)
    ```
    """

    def __init__(
        self,
        lengths: Sequence[int],
        read: Callable[[int], np.ndarray],
        sequence_length: int,
        seed: int = 0,
        pack: bool = True,
    ):
        if sequence_length < 2:
            raise ValueError(f"sequence_length is {sequence_length}; expected at least 2.")
        self.read = read
        self.sequence_length = sequence_length
        self.seed = seed
        # Arrays, since a large corpus has millions of sequences. A single token has no target.
        lengths = np.asarray(lengths, "int64")
        counts = np.maximum(0, -(-(lengths - 1) // sequence_length))
        if not counts.sum():
            raise ValueError("There are no sequences of at least two tokens to train on.")
        sequences = np.repeat(np.arange(len(lengths)), counts)
        numbers = np.arange(len(sequences)) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = numbers * sequence_length
        stops = np.minimum(starts + sequence_length, lengths[sequences])
        self._pieces = np.empty((len(sequences), 3), "int32")
        for column, values in enumerate((sequences, starts, stops)):
            self._pieces[:, column] = values
        self.pack = pack
        if pack:
            groups = _pack_groups(stops - starts, sequence_length, seed)
            order, sizes = [], []
            for rows in groups:
                order.append(np.concatenate(rows).astype("int32"))
                sizes.append(np.array([len(row) for row in rows], "int32"))
            self._order_of_pieces = np.concatenate(order)
            self._row_ends = np.cumsum(np.concatenate(sizes))
        else:
            self._order_of_pieces = np.arange(len(sequences), dtype="int32")
            self._row_ends = np.arange(1, len(sequences) + 1)
        targets = (stops - starts - 1)[self._order_of_pieces]
        self._num_targets = np.diff(np.cumsum(targets)[self._row_ends - 1], prepend=0)
        self._orders: dict[int, np.ndarray] = {}

    @classmethod
    def from_store(cls, store, sequence_length: int, seed: int = 0) -> "PackedSequences":
        """Return rows of a `TokenStore`, which are read on demand."""
        read = functools.partial(_read_from_store, store)  # workers of Grain pickle it
        return cls(store.lengths, read, sequence_length, seed)

    @classmethod
    def from_arrays(
        cls,
        sequences: Sequence[np.ndarray],
        sequence_length: int,
        seed: int = 0,
        pack: bool = True,
    ) -> "PackedSequences":
        """Return rows of token arrays (time,) of any lengths; see the class."""
        lengths = [len(tokens) for tokens in sequences]
        return cls(lengths, sequences.__getitem__, sequence_length, seed, pack)

    def __len__(self) -> int:
        return len(self._row_ends)

    def __getitem__(self, number: int) -> tuple[dict, np.ndarray, np.ndarray]:
        """Return one row in the form that `fit` takes.

        Returns:
            Inputs (`token_ids` int32 and `reset_mask` or `padding_mask` bool,
            (sequence_length,)), targets int32, and weights float32: 1 where the target is the
            same sequence's next token.
        """
        tokens = np.zeros(self.sequence_length, "int32")
        targets, weights = np.zeros_like(tokens), np.zeros(self.sequence_length, "float32")
        starts = np.zeros(self.sequence_length, bool)
        position = 0
        number = range(len(self))[int(number)]  # raises IndexError past the end
        first = self._row_ends[number - 1] if number else 0
        for piece in self._order_of_pieces[first : self._row_ends[number]]:
            index, start, stop = self._pieces[piece].tolist()
            found = np.asarray(self.read(index))[start:stop]
            if len(found) != stop - start:
                raise ValueError(
                    f"Sequence {index} is shorter than its folder says; prepare it again."
                )
            end = position + len(found)
            tokens[position:end] = found
            targets[position : end - 1] = found[1:]
            weights[position : end - 1] = 1.0
            starts[position] = True
            position = end
        if not self.pack:
            mask = np.arange(self.sequence_length) < position
            return {"token_ids": tokens, "padding_mask": mask}, targets, weights
        # Padding at the end of a row is a separate document with zero weight.
        starts[position : position + 1] = True
        return {"token_ids": tokens, "reset_mask": starts}, targets, weights

    def batch(
        self, numbers: Sequence[int], part: slice | np.ndarray = slice(None)
    ) -> tuple[dict, np.ndarray, np.ndarray]:
        """Stack rows into one batch, (batch, sequence_length) each.

        The weights are scaled to a mean of one, so that the loss is the mean over the
        predicted tokens, in nats: Keras divides by all positions.

        Args:
            numbers: Numbers of the rows.
            part: Places in `numbers` of the rows to return, for a process that shares the batch
                with others. The weights are those of the whole batch. Defaults to all.
        """
        numbers = np.asarray(numbers)
        inputs, targets, weights = zip(*(self[number] for number in numbers[part]), strict=True)
        stacked = {name: np.stack([row[name] for row in inputs]) for name in inputs[0]}
        positions = np.float32(len(numbers) * self.sequence_length)
        scale = positions / np.float32(self._num_targets[numbers].sum())
        return stacked, np.stack(targets), np.stack(weights) * scale

    def batches(
        self, batch_size: int, process: int = 0, num_processes: int = 1
    ) -> Callable[[int], tuple]:
        """Return a function from the step to its batch: every row once per epoch, shuffled.

        Its second argument, `rows`, replaces the part of this process: places in the batch.

        Args:
            batch_size: Number of rows of a batch.
            process: Index of this process among the hosts that split each batch. Defaults
                to `0`.
            num_processes: Number of processes; a divisor of `batch_size`. Defaults to `1`.

        Raises:
            ValueError: If the batch cannot be split among the processes.
        """
        rows_per_process = _split_batch(batch_size, process, num_processes)
        own = slice(process * rows_per_process, (process + 1) * rows_per_process)

        # Workers pickle it, so it is not defined here.
        return functools.partial(self._numbered_batch, batch_size, own)

    def _numbered_batch(
        self, batch_size: int, own: slice, step: int, rows: np.ndarray | None = None
    ) -> tuple:
        numbers = []
        for place in range(step * batch_size, (step + 1) * batch_size):
            epoch, position = divmod(place, len(self))
            numbers.append(int(self._order(epoch)[position]))
        return self.batch(numbers, own if rows is None else rows)

    def dataset(
        self, batch_size: int, shuffle: bool = True, process: int = 0, num_processes: int = 1
    ) -> "PackedDataset":
        """Return all rows in batches, for `fit` and `evaluate`.

        Args:
            batch_size: Number of rows of a batch. The last batch of an epoch may be smaller.
            shuffle: Whether the order changes with each epoch. Defaults to `True`.
            process: Index of this process among the hosts that split each batch. Defaults to `0`.
            num_processes: Number of processes; a divisor of `batch_size`. With several, rows that
                do not fill a batch are left out of the epoch. Defaults to `1`.

        Raises:
            ValueError: If the batch cannot be split among the processes, or there are fewer rows
                than several processes need.
        """
        return PackedDataset(self, batch_size, shuffle, process, num_processes)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            rng = np.random.default_rng((self.seed, epoch))
            self._orders = {epoch: rng.permutation(len(self))}
        return self._orders[epoch]

    def held_out_batches(self, batch_size: int, max_batches: int) -> list[tuple]:
        """Return the same batches every time, for validation; full ones if there are any."""
        wanted = min(len(self), max_batches * batch_size)
        wanted = max(wanted - wanted % batch_size, min(len(self), batch_size))
        return [
            self.batch(range(start, min(start + batch_size, wanted)))
            for start in range(0, wanted, batch_size)
        ]


def _read_from_store(store, index: int) -> np.ndarray:
    return store[index].tokens


class PackedDataset(keras.utils.PyDataset):
    """The rows of a `PackedSequences` in batches; see `PackedSequences.dataset`.

    Args:
        rows: A `PackedSequences`.
        batch_size: Number of rows of a batch.
        shuffle: Whether the order changes with each epoch. Defaults to `True`.
        process: Index of this process. Defaults to `0`.
        num_processes: Number of processes. Defaults to `1`.
        **kwargs: Arguments of `keras.utils.PyDataset`, such as `workers`.
    """

    def __init__(
        self,
        rows: PackedSequences,
        batch_size: int,
        shuffle: bool = True,
        process: int = 0,
        num_processes: int = 1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
        if num_processes > 1 and len(rows) < batch_size:
            raise ValueError(f"{len(rows)} rows do not fill a batch of {batch_size} rows.")
        self.rows = rows
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.process = process
        self.num_processes = num_processes
        self._rows_per_process = _split_batch(batch_size, process, num_processes)
        self._epoch = 0
        self._numbers = self._read_order()

    def _read_order(self) -> np.ndarray:
        return self.rows._order(self._epoch) if self.shuffle else np.arange(len(self.rows))

    def __len__(self) -> int:
        if self.num_processes > 1:
            return len(self.rows) // self.batch_size
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[dict, np.ndarray, np.ndarray]:
        start, own = index * self.batch_size, self.process * self._rows_per_process
        numbers = self._numbers[start : start + self.batch_size]
        return self.rows.batch(numbers, slice(own, own + self._rows_per_process))

    def on_epoch_end(self) -> None:
        self._epoch += 1
        self._numbers = self._read_order()


def _split_batch(batch_size: int, process: int, num_processes: int) -> int:
    """Returns the number of rows per process."""
    if batch_size % num_processes or not 0 <= process < num_processes:
        raise ValueError(
            f"{batch_size} rows cannot be split: process {process} of {num_processes}."
        )
    return batch_size // num_processes
