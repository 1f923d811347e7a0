"""Batches made by threads while the model trains on those before."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor


def made_ahead(make_batch: Callable[[int], tuple], first: int, threads: int) -> Iterator[tuple]:
    """The batches from number `first` on, in order, each begun some batches before its turn.

    An accelerator then need not wait for a batch that one core makes in the time of many steps.
    A plain iterator for `fit`: Keras' PyDataset fetches ahead, across the ends of epochs.

    Args:
        make_batch: function of a batch's number.
        first: int. Number of the first batch.
        threads: int. How many batches are made at a time; twice as many wait for their turn.

    Raises:
        Whatever `make_batch` raises, when the turn of that batch has come.
    """
    pool, made = ThreadPoolExecutor(threads, "batches"), deque()
    numbers = itertools.count(first)
    try:
        while True:
            while len(made) < 2 * threads:
                made.append(pool.submit(make_batch, next(numbers)))
            yield made.popleft().result()
    finally:  # When the iterator is dropped: what has not begun is not begun.
        pool.shutdown(wait=False, cancel_futures=True)
