"""The edit distance that the token and phoneme metrics share."""

from collections.abc import Sequence

import numpy as np


def edit_distance(first: Sequence, second: Sequence) -> int:
    """Fewest insertions, deletions and substitutions that turn `first` into `second`.

    Args:
        first, second: sequences of hashable items, or integer arrays.

    Returns:
        The distance (Levenshtein), 0 to the longer length.
    """
    numbers: dict = {}
    a, b = (
        np.array([numbers.setdefault(item, len(numbers)) for item in sequence], dtype="int64")
        for sequence in (first, second)
    )
    offsets = np.arange(len(b) + 1)
    previous = offsets.copy()
    for row, item in enumerate(a, start=1):
        current = np.empty_like(previous)
        current[0] = row
        current[1:] = np.minimum(previous[:-1] + (b != item), previous[1:] + 1)
        # Insertions run along the row: a running minimum once the slope is taken out.
        previous = np.minimum.accumulate(current - offsets) + offsets
    return int(previous[-1])
