"""Repetition over time: a continuation that is stuck says the same again and again."""

from collections import Counter
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


def repeated_fraction(items: Sequence[Hashable], n: int = 4) -> float:
    """Share of the n-grams that have occurred before, 0 .. 1; 0 for fewer than n items.

    Args:
        items: words or tokens in order.
        n: int. Defaults to `4`.
    """
    seen: set = set()
    repeated = count = 0
    for start in range(len(items) - n + 1):
        gram = tuple(items[start : start + n])
        repeated += gram in seen
        count += 1
        seen.add(gram)
    return repeated / count if count else 0.0


def entropy(items: Sequence[Hashable]) -> float:
    """Entropy in nats of the items' frequencies; 0 for none."""
    counts = np.array(list(Counter(items).values()), "float64")
    if not len(counts):
        return 0.0
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def repetition_over_time(
    items: Sequence[Hashable],
    times: Sequence[float],
    seconds: float,
    end: float,
    n: int = 4,
) -> list[dict[str, float]]:
    """Repetition within each stretch of time, by itself.

    Args:
        items: words or tokens in order.
        times: when each begins, in seconds.
        seconds: length of a stretch.
        end: where the last stretch ends, no item beginning later.
        n: of `repeated_fraction`.

    Returns:
        for each stretch `{"repeated_fraction", "num"}`.
    """
    if len(items) != len(times):
        raise ValueError(f"Got {len(items)} items with {len(times)} times; expected one each.")
    stretches: list[list] = [[] for _ in range(max(1, int(np.ceil(end / seconds))))]
    for item, time in zip(items, times, strict=True):
        stretches[min(int(time // seconds), len(stretches) - 1)].append(item)
    return [
        {"repeated_fraction": repeated_fraction(stretch, n), "num": len(stretch)}
        for stretch in stretches
    ]
