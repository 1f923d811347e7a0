"""Repetition over time: a continuation that is stuck says the same again and again."""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np


def repeated_share(items: Sequence[Hashable], n: int = 4) -> float:
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
        n: of `repeated_share`.

    Returns:
        for each stretch `{"repeated_share", "num"}`.
    """
    if len(items) != len(times):
        raise ValueError(f"Got {len(items)} items with {len(times)} times; expected one each.")
    stretches: list[list] = [[] for _ in range(max(1, int(np.ceil(end / seconds))))]
    for item, time in zip(items, times, strict=True):
        stretches[min(int(time // seconds), len(stretches) - 1)].append(item)
    return [
        {"repeated_share": repeated_share(stretch, n), "num": len(stretch)} for stretch in stretches
    ]
