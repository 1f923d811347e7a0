"""How sure a mean is: Student's interval, Wilson's for shares, and the bootstrap."""

from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.99
"""The paper's (tables 2 and 3)."""


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> dict[str, float]:
    """Mean of independent values and half the width of Student's interval around it.

    Returns:
        `{"mean", "half_width", "num"}`; the half-width is NaN for fewer than two values, both
        for none.
    """
    from scipy import stats

    values = np.asarray(list(values), "float64")
    if not len(values):
        return {"mean": float("nan"), "half_width": float("nan"), "num": 0}
    half = float("nan")
    if len(values) > 1:
        error = values.std(ddof=1) / np.sqrt(len(values))
        half = float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * error)
    return {"mean": float(values.mean()), "half_width": half, "num": len(values)}


def proportion_interval(
    values: Sequence[float], confidence: float = CONFIDENCE
) -> dict[str, float]:
    """Share of independent zeros and ones, with Wilson's interval.

    Of few that are all alike, Student's says that it is sure; this one does not.

    Returns:
        `{"mean", "low", "high", "num"}`, NaN but for `num` of no values.
    """
    from scipy import stats

    num = len(values)
    if not num:
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "num": 0}
    share = float(np.mean(values))
    square = float(stats.norm.ppf(0.5 + confidence / 2)) ** 2 / num
    center = (share + square / 2) / (1 + square)
    half = np.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    # Rounding must not take the share itself out.
    low, high = min(share, float(center - half)), max(share, float(center + half))
    return {"mean": share, "low": max(0.0, low), "high": min(1.0, high), "num": num}


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, num_samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean over resampled items; `(nan, nan)` for no values."""
    values = np.asarray(list(values), "float64")
    if not len(values):
        return float("nan"), float("nan")
    draws = np.random.default_rng(seed).integers(len(values), size=(num_samples, len(values)))
    low, high = np.quantile(
        values[draws].mean(axis=1), [0.5 - confidence / 2, 0.5 + confidence / 2]
    )
    return float(low), float(high)
