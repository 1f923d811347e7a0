"""One system's measures over all items: means with confidence intervals, curves over time."""

from collections.abc import Callable
from itertools import zip_longest

import numpy as np

from keras_speechssm.evaluation.confidence import mean_interval, share_interval

FAILED_NON_SPEECH = 0.5
FAILED_REPETITION = 0.5
"""A minute has failed if more than this share of it is no speech, or repeats what was said."""

SCALARS = (
    "n_mos",
    "nll_nats_per_unit",
    "semantic_similarity",
    "speaker_similarity",
    "auto_bleu",
    "auto_bleu_arithmetic",
    "slamkit_auto_bleu",
    "repeated_4_grams",
    "words_per_minute",
    "word_confidence",
)
"""Measures that are one number an item."""


def summarise(items: dict[str, dict]) -> dict:
    """Means of what `measure_item` gives, with 99 % confidence intervals.

    Args:
        items: measures by item.

    Returns:
        dict: each of `SCALARS` as `mean_interval` gives it, `perplexity_per_unit` (the
        exponential of the mean likelihood), `pooled_nll_nats_per_unit`, `sc_l`, `n_mos_t` and
        `over_time` as lists of intervals (`share_interval`'s of `failed`), `num_items`,
        `num_without_words`, `seconds`.
    """
    rows = list(items.values())
    summary: dict = {"num_items": len(rows)}
    for name in SCALARS:
        summary[name] = mean_interval([row[name] for row in rows if row[name] is not None])
    units = sum(row["units"] for row in rows)
    nats = sum(row["nats"] for row in rows)
    summary["perplexity_per_unit"] = float(np.exp(summary["nll_nats_per_unit"]["mean"]))
    summary["pooled_nll_nats_per_unit"] = nats / units if units else float("nan")
    summary["num_without_words"] = sum(row["num_words"] == 0 for row in rows)
    summary["seconds"] = sum(row["seconds"] for row in rows)
    summary["sc_l"] = _curve([row["sc_l"] for row in rows])
    summary["n_mos_t"] = _curve([row["n_mos_t"] for row in rows])
    minutes = [row["over_time"] for row in rows]
    summary["over_time"] = {
        name: _curve([[minute[name] for minute in row] for row in minutes])
        for name in ("silent_share", "non_speech_share", "repeated_4_grams", "words")
    }
    failed = [list(map(has_failed, row)) for row in minutes]
    summary["over_time"]["failed"] = _curve(failed, share_interval)
    return summary


def has_failed(minute: dict) -> float:
    """1 if a minute says nothing, is mostly no speech or mostly repeats itself, else 0."""
    return float(
        minute["words"] == 0
        or minute["non_speech_share"] > FAILED_NON_SPEECH
        or minute["repeated_4_grams"] > FAILED_REPETITION
    )


def _curve(rows: list[list], interval: Callable = mean_interval) -> list[dict[str, float]]:
    """Interval at each place over the rows that reach it and have a value there."""
    columns = zip_longest(*rows)
    return [interval([value for value in column if value is not None]) for column in columns]
