"""Transcript perplexity: how likely a text model finds what is said (paper, section 6.1).

The paper's PPL of 3.4 to 7.3 are nats a token, that is, the logarithm of a perplexity. Both
are reported here under names that cannot be confused, of the continuation only.
"""

from collections.abc import Sequence

import numpy as np

from keras_speechssm.evaluation.models.text_models import TextModel


def transcript_perplexity(texts: Sequence[str], model: TextModel) -> dict[str, float | str]:
    """Likelihood of transcripts under a text model.

    Args:
        texts: transcripts of continuations, without their prompts.
        model: from `open_text_model`.

    Returns:
        dict of `nll_nats_per_unit`, the mean over the texts of nats a unit (the paper's
        number, in Gemma's tokens); `perplexity_per_unit`, its exponential;
        `pooled_nll_nats_per_unit`, all nats by all units; `unit`, `num_units`, `num_texts`,
        `num_empty` (texts without a word, which count nowhere else), `text_model`.
        The likelihoods are NaN where all texts are empty.
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
