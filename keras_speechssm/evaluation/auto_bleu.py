"""auto-BLEU: how much of a text repeats itself, as fairseq's GSLM defines it.

For each n, the share of n-grams that occur at another, not overlapping place of the same text;
then the mean over n = 1 .. N. Definitions differ: SlamKit counts bigrams that occur twice,
overlaps included. "the the the" has 0 or 0.5 by fairseq's (geometric, arithmetic mean over
n = 1, 2), 1 by SlamKit's.

Source: Lakhotia et al. 2021, section 4.2.
"""

from collections.abc import Hashable, Sequence

import numpy as np


def self_overlap(items: Sequence[Hashable], n: int) -> float:
    """Share of the n-grams of a sequence that occur elsewhere in it without overlap.

    Args:
        items: words or tokens.
        n: int, at least 1.

    Returns:
        0 .. 1; 0 for a sequence of fewer than n items.
    """
    grams = [tuple(items[start : start + n]) for start in range(len(items) - n + 1)]
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
    """auto-BLEU of one text by fairseq's definition.

    Args:
        items: its words or tokens.
        max_n: int. N-grams up to this length. Defaults to `2`.
        geometric: whether the mean over n is geometric, fairseq's default, or arithmetic.

    Returns:
        0 .. 1; less repeats less.
    """
    shares = np.array([self_overlap(items, n) for n in range(1, max_n + 1)])
    if not geometric:
        return float(shares.mean())
    return float(np.exp(np.log(shares).mean())) if shares.all() else 0.0


def slamkit_auto_bleu(items: Sequence[Hashable]) -> float:
    """Share of the bigrams that occur twice or more, overlaps counted: SlamKit's auto-BLEU."""
    grams = list(zip(items[:-1], items[1:], strict=True))
    if not grams:
        return 0.0
    counts: dict = {}
    for gram in grams:
        counts[gram] = counts.get(gram, 0) + 1
    return sum(counts[gram] > 1 for gram in grams) / len(grams)
