"""Transcript perplexity: how probable a text model finds what is said (paper, section 6.1)."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def transcript_perplexity(texts: Sequence[str], model: Any) -> dict[str, float | str]:
    """Likelihood of transcripts under a text model.

    The paper's "PPL" of 3.4 to 7.3 are nats per token, the logarithm of a perplexity. Both are
    reported here, under unambiguous names.

    Args:
        texts: Transcripts of continuations, without their prompts.
        model: A `TextModel`.

    Returns:
        `nll_nats_per_unit`, the mean over the texts of nats per unit (the paper's number, in
        Gemma's tokens); `perplexity_per_unit`, its exponential; `pooled_nll_nats_per_unit`, all
        nats divided by all units; `unit`, `num_units`, `num_texts`, `text_model`; and
        `num_empty`, texts without a word, which do not count otherwise. The likelihoods are NaN
        if all texts are empty.
    """
    counted = [model.negative_log_likelihood(text) for text in texts]
    rates = [nats / units for nats, units in counted if units]
    units = sum(units for _, units in counted)
    mean = float(np.mean(rates)) if rates else float("nan")
    return {
        "nll_nats_per_unit": mean,
        "perplexity_per_unit": float(np.exp(mean)),
        "pooled_nll_nats_per_unit": sum(n for n, _ in counted) / units if units else float("nan"),
        "unit": model.unit,
        "num_units": units,
        "num_texts": len(texts),
        "num_empty": len(texts) - len(rates),
        "text_model": model.name,
    }
