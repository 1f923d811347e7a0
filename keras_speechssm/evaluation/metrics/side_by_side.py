"""Side-by-side comparisons of transcripts (paper, section 6.2)."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from keras_speechssm.evaluation.metrics.confidence_intervals import bootstrap_interval

VERDICTS = {"A>>B": 2, "A>B": 1, "A=B": 0, "B>A": -1, "B>>A": -2}
"""Labels, and how much better text A is."""

_END_LENGTH = 200
"""Characters of the end of a reply that may follow its verdict."""

Comparison = tuple[int | None, int | None]
"""How much better our text is, -2 to 2, judged once in each order; `None` without a verdict."""


def parse_verdict(reply: str) -> int | None:
    """Read how much better text A is from the last label of a reply.

    As in Arena-Hard, case is ignored, and a label is made of A, B, <, = and > in double brackets.
    A label counts near the end of a reply only, because a reply may repeat the labels before it
    chooses one.

    Args:
        reply: Text of a judge.

    Returns:
        From -2 to 2; `None` if the last label is unknown, or there is none at the end.
    """
    found = list(re.finditer(r"\[\[([AB<>=]+)\]\]", reply.upper()))
    if not found or len(reply.rstrip()) - found[-1].end() > _END_LENGTH:
        return None
    return VERDICTS.get(found[-1].group(1))


def truncate_to_shorter(first: str, second: str) -> tuple[str, str]:
    """Cut both transcripts to the number of words of the shorter one (paper, section 7.1)."""
    one, other = first.split(), second.split()
    length = min(len(one), len(other))
    return " ".join(one[:length]), " ".join(other[:length])


def judge_pairs(
    judge: Callable[[str, str], str],
    ours: Sequence[str],
    theirs: Sequence[str],
    truncated: Sequence[bool] | None = None,
) -> list[Comparison]:
    """Compare texts pair by pair, in both orders.

    An empty text loses both comparisons to a text with words; the judge is not asked.

    Args:
        judge: A `Judge`.
        ours: Our transcripts, of prompt and continuation together.
        theirs: The other transcripts, in the same order.
        truncated: For each pair, whether both texts are cut to the words of the shorter one, as
            the paper does in long form only. Defaults to `None`: all are cut.

    Returns:
        For each pair the verdicts of both comparisons, as how much better our text is.

    Raises:
        ValueError: The numbers of texts differ.
    """
    truncated = [True] * len(ours) if truncated is None else truncated
    if not len(ours) == len(theirs) == len(truncated):
        raise ValueError(f"Expected pairs of texts; got {len(ours)} and {len(theirs)}.")
    comparisons: list[Comparison] = []
    for one, other, is_cut in zip(ours, theirs, truncated, strict=True):
        if not one.split() or not other.split():
            verdict = 2 * (bool(one.split()) - bool(other.split()))
            comparisons.append((verdict, verdict))
            continue
        texts = truncate_to_shorter(one, other) if is_cut else (one, other)
        first, second = parse_verdict(judge(*texts)), parse_verdict(judge(*reversed(texts)))
        comparisons.append((first, None if second is None else -second))
    return comparisons


def win_rates(comparisons: Sequence[Comparison], seed: int = 0) -> dict:
    """Compute how often our texts win, in percent.

    The paper specifies neither how ties count nor weights, so several rates are reported. Both
    comparisons of a pair are dropped if one has no verdict, as in Arena-Hard.

    Args:
        comparisons: From `judge_pairs`.
        seed: Seed of the bootstrap. Defaults to `0`.

    Returns:
        `win_rate` (a tie is half a win) and `interval_95`, its bootstrap interval over pairs;
        `win_rate_weighted` (a significant verdict counts three times, as in Arena-Hard);
        `win_rate_without_ties` (NaN if there are only ties); `wins`, `ties`, `losses`,
        `num_items`, `num_dropped`.
    """
    kept = [(a, b) for a, b in comparisons if a is not None and b is not None]
    verdicts = np.array(kept, "int64").reshape(-1, 2)
    points = np.where(verdicts == 0, 0.5, (verdicts > 0).astype("float64"))
    weights = np.where(np.abs(verdicts) == 2, 3.0, 1.0)
    wins, losses = int((verdicts > 0).sum()), int((verdicts < 0).sum())
    nan = float("nan")
    low, high = bootstrap_interval(100 * points.mean(axis=1) if kept else [], seed=seed)
    return {
        "win_rate": 100 * float(points.mean()) if kept else nan,
        "interval_95": [low, high],
        "win_rate_weighted": 100 * float((points * weights).sum() / weights.sum()) if kept else nan,
        "win_rate_without_ties": 100 * wins / (wins + losses) if wins + losses else nan,
        "wins": wins,
        "ties": int((verdicts == 0).sum()),
        "losses": losses,
        "num_items": len(kept),
        "num_dropped": len(comparisons) - len(kept),
    }
