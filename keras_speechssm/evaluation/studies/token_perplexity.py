"""Held-out perplexity of a language model's tokens, next to n-gram models."""

from collections.abc import Sequence
from pathlib import Path

from keras_speechssm.data.token_store import open_tokens
from keras_speechssm.evaluation.metrics.token_perplexity import (
    check_vocabulary,
    compare_token_perplexity,
)
from keras_speechssm.models.preset_mixin import load_part
from keras_speechssm.presets import DEFAULT_PRESET


def evaluate_language_model(
    training_folders: Sequence[str | Path],
    held_out_folders: Sequence[str | Path],
    *,
    preset: str = DEFAULT_PRESET,
    batch_size: int = 8,
) -> dict[str, float]:
    """Compare the perplexity of the language model with a unigram and a trigram model's.

    Args:
        training_folders: Folders or stores of tokens that the n-gram models count.
        held_out_folders: Folders or stores of tokens that all three are measured on.
        preset: Preset of a `SpeechSSM`, a `SpeechTransformer`, or a pipeline.
        batch_size: Number of recordings that the model reads at once.

    Returns:
        Perplexities per token `model`, `unigram` and `trigram`, and `tokens`, their number.
    """
    sources = [open_tokens(folders) for folders in (training_folders, held_out_folders)]
    model = load_part(preset, "speech_lm")
    for source in sources:
        check_vocabulary(model, source, preset)
    training, held_out = (
        [source.read(number) for number in range(len(source.lengths))] for source in sources
    )
    return compare_token_perplexity(model, training, held_out, batch_size)
