"""Confidence intervals of means and fractions."""

from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.99
"""Confidence level of the paper's tables 2 and 3."""


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> dict[str, float]:
    """Mean of independent values with Student's confidence interval.

    Args:
        values: Any number of values.
        confidence: Confidence level, between 0 and 1. Defaults to `0.99`.

    Returns:
        `mean`, `half_width` (half the width of the interval) and `num`. The half-width is NaN
        for fewer than two values, the mean for none.

    Example:

    ```python
    from keras_speechssm.evaluation.metrics.confidence_intervals import mean_interval

    mean_interval([3.1, 3.4, 2.9])["mean"]
    ```
    """
    from scipy import stats

    sample = np.asarray(list(values), "float64")
    if not len(sample):
        return {"mean": float("nan"), "half_width": float("nan"), "num": 0}
    half_width = float("nan")
    if len(sample) > 1:
        quantile = stats.t.ppf(0.5 + confidence / 2, len(sample) - 1)
        half_width = float(quantile * stats.sem(sample))
    return {"mean": float(sample.mean()), "half_width": half_width, "num": len(sample)}


def fraction_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> dict[str, float]:
    """Fraction of ones among independent zeros and ones, with Wilson's interval.

    Unlike Student's interval, Wilson's is not of width zero when all values are equal.

    Args:
        values: Zeros and ones.
        confidence: Confidence level, between 0 and 1. Defaults to `0.99`.

    Returns:
        `mean`, `low`, `high` and `num`; NaN but for `num` without values.
    """
    from scipy import stats

    num, ones = len(values), round(sum(values))
    if not num:
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "num": 0}
    interval = stats.binomtest(ones, num).proportion_ci(confidence, method="wilson")
    mean = ones / num
    # Rounding must not leave the fraction outside its own interval.
    low, high = min(mean, float(interval.low)), max(mean, float(interval.high))
    return {"mean": mean, "low": low, "high": high, "num": num}


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, num_samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean.

    Args:
        values: Independent values.
        confidence: Confidence level, between 0 and 1. Defaults to `0.95`.
        num_samples: Number of resamples. Defaults to `1000`.
        seed: Seed of the resamples. Defaults to `0`.

    Returns:
        Lower and upper end; NaN without values, and the value itself for a single one.
    """
    from scipy import stats

    values = np.asarray(list(values), "float64")
    if not len(values):
        return float("nan"), float("nan")
    if len(values) == 1:
        return float(values[0]), float(values[0])
    interval = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=num_samples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
