"""Repetition in texts and token sequences."""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np


def repeated_fraction(items: Sequence[Hashable], n: int = 4) -> float:
    """Fraction of the n-grams that have occurred earlier in the sequence.

    Args:
        items: Words or tokens in order.
        n: Length of the n-grams. Defaults to `4`.

    Returns:
        From 0 to 1; 0 for fewer than n items.
    """
    grams = n_grams(items, n)
    return (len(grams) - len(set(grams))) / len(grams) if grams else 0.0


def n_grams(items: Sequence[Hashable], n: int) -> list[tuple]:
    """Return the n-grams of a sequence in order."""
    return [tuple(items[start : start + n]) for start in range(len(items) - n + 1)]


def entropy(items: Sequence[Hashable]) -> float:
    """Entropy in nats of the frequencies of the items; 0 without items."""
    counts = np.array(list(Counter(items).values()), "float64")
    frequencies = counts / counts.sum()
    return float(-(frequencies * np.log(frequencies)).sum()) if len(counts) else 0.0


def repetition_over_time(
    items: Sequence[Hashable],
    times: Sequence[float],
    seconds: float,
    end: float,
    n: int = 4,
) -> list[dict[str, float]]:
    """Repetition within each stretch of time, without regard to the others.

    Args:
        items: Words or tokens in order.
        times: Start of each item in seconds.
        seconds: Length of a stretch.
        end: End of the last stretch; no item starts later.
        n: Length of the n-grams. Defaults to `4`.

    Returns:
        For each stretch `repeated_fraction` and `num`, its number of items.

    Raises:
        ValueError: The numbers of items and times differ.
    """
    if len(items) != len(times):
        raise ValueError(f"Expected one time per item; got {len(items)} items, {len(times)} times.")
    stretches: list[list] = [[] for _ in range(max(1, int(np.ceil(end / seconds))))]
    for item, time in zip(items, times, strict=True):
        stretches[min(int(time // seconds), len(stretches) - 1)].append(item)
    return [
        {"repeated_fraction": repeated_fraction(stretch, n), "num": len(stretch)}
        for stretch in stretches
    ]


def self_overlap(items: Sequence[Hashable], n: int) -> float:
    """Fraction of the n-grams that also occur elsewhere in the sequence without overlap.

    Args:
        items: Words or tokens.
        n: Length of the n-grams.

    Returns:
        From 0 to 1; 0 for fewer than n items.
    """
    grams = n_grams(items, n)
    if not grams:
        return 0.0
    first: dict = {}
    last: dict = {}
    for place, gram in enumerate(grams):
        first.setdefault(gram, place)
        last[gram] = place
    repeated = sum(
        place - first[gram] >= n or last[gram] - place >= n for place, gram in enumerate(grams)
    )
    return repeated / len(grams)


def auto_bleu(items: Sequence[Hashable], max_n: int = 2, geometric: bool = True) -> float:
    """auto-BLEU as fairseq's GSLM defines it: how much a text repeats itself.

    The mean over n = 1 .. `max_n` of `self_overlap`. Definitions differ: "the the the" has 0 or
    0.5 by fairseq's (geometric or arithmetic mean over n = 1, 2), and 1 by SlamKit's.

    Args:
        items: Words or tokens of one text.
        max_n: Longest n-grams. Defaults to `2`.
        geometric: Use the geometric mean, fairseq's default, instead of the arithmetic one.

    Returns:
        From 0 to 1; less repetition gives less.

    Reference:
        - [Lakhotia et al. 2021](https://arxiv.org/abs/2102.01192), section 4.2
    """
    overlaps = np.array([self_overlap(items, n) for n in range(1, max_n + 1)])
    if not geometric:
        return float(overlaps.mean())
    return float(np.exp(np.log(overlaps).mean())) if overlaps.all() else 0.0


def slamkit_auto_bleu(items: Sequence[Hashable]) -> float:
    """auto-BLEU as SlamKit defines it: fraction of bigrams that occur twice or more.

    Unlike in `auto_bleu`, overlapping occurrences count.
    """
    grams = n_grams(items, 2)
    counts = Counter(grams)
    return sum(counts[gram] > 1 for gram in grams) / len(grams) if grams else 0.0
