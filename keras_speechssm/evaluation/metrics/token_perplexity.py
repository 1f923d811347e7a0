"""Perplexity of held-out tokens, next to n-gram models of the same training tokens.

A language model that does not beat a trigram model has only learned which sounds follow each
other.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


class NGramModel:
    """An n-gram model with Witten-Bell interpolation down to the uniform distribution.

        p(w | h) = (count(h w) + kinds(h) p(w | h')) / (count(h) + kinds(h))

    where `kinds(h)` is the number of different tokens seen after history h, and h' is h without
    its oldest token. Tokens near the start of a document have shorter histories; no history
    crosses documents.

    Args:
        order: 1 for a unigram model, 3 for a trigram model.
        vocabulary_size: Number of tokens. `vocabulary_size ** order` must fit in 63 bits.

    Raises:
        ValueError: The order is below 1, or the numbers do not fit.

    Reference:
        - Witten and Bell 1991, "The zero-frequency problem", method C
        - Chen and Goodman 1999, section 2.5
    """

    def __init__(self, order: int, vocabulary_size: int):
        if order < 1 or order * np.log2(vocabulary_size) >= 63:
            raise ValueError(
                f"order is {order} with {vocabulary_size} tokens; expected at least 1, and "
                "vocabulary_size ** order below 2^63."
            )
        self.order = order
        self.vocabulary_size = vocabulary_size
        self._levels: list[tuple[np.ndarray, ...]] = []

    def fit(self, streams: Sequence[np.ndarray]) -> "NGramModel":
        """Count the n-grams of int (time,) streams and returns the model."""
        self._levels = []
        for length in range(1, self.order + 1):
            grams = [self._grams(stream, length) for stream in streams]
            ids, counts = np.unique(np.concatenate(grams), return_counts=True)
            histories, first = np.unique(ids // self.vocabulary_size, return_index=True)
            totals = np.add.reduceat(counts, first) if len(ids) else counts
            kinds = np.diff(np.append(first, len(ids)))
            self._levels.append((ids, counts, histories, totals, kinds))
        return self

    def log_probabilities(self, stream: np.ndarray) -> np.ndarray:
        """Natural logarithm of the probability of each token, float64 (time,)."""
        stream = np.asarray(stream, "int64")
        probability = np.full(len(stream), 1.0 / self.vocabulary_size)
        for length, (ids, counts, histories, totals, kinds) in enumerate(self._levels, start=1):
            grams = self._grams(stream, length)
            count = _look_up(ids, counts, grams)
            history = grams // self.vocabulary_size
            total = _look_up(histories, totals, history)
            kind = _look_up(histories, kinds, history)
            lower = probability[length - 1 :]
            mixed = (count + kind * lower) / np.maximum(total + kind, 1)
            # After an unseen history, the shorter history decides.
            probability[length - 1 :] = np.where(total > 0, mixed, lower)
        return np.log(probability)

    def _grams(self, stream: np.ndarray, length: int) -> np.ndarray:
        """The n-grams of a stream as numbers to the base `vocabulary_size`, oldest token first."""
        stream = np.asarray(stream, "int64")
        count = max(0, len(stream) - length + 1)
        grams = np.zeros(count, "int64")
        for position in range(length):
            grams = grams * self.vocabulary_size + stream[position : position + count]
        return grams


def check_vocabulary(model: Any, source: Any, name: str) -> None:
    """Refuse recordings whose tokens are not the model's.

    Args:
        model: A language model.
        source: Tokens with a `vocabulary_size`, from `open_tokens`.
        name: Name of the model for the message.

    Raises:
        ValueError: The vocabularies differ in size.
    """
    if model.backbone.vocabulary_size != source.vocabulary_size:
        raise ValueError(
            f"{name} has {model.backbone.vocabulary_size} tokens, but the recordings have "
            f"{source.vocabulary_size}. Tokenize them with the tokenizer of this model."
        )


def extend_max_length(model: Any, num_tokens: int) -> None:
    """Let a `SpeechTransformer` read beyond the length that it was trained on."""
    if hasattr(model, "max_length"):
        model.max_length = max(model.max_length, num_tokens)


def held_out_perplexity(model: Any, streams: Sequence[np.ndarray], batch_size: int = 8) -> float:
    """Compute the exponential of the mean negative log-likelihood per token.

    Each stream is read from its start. Its first token is not counted.

    Args:
        model: A `SpeechSSM` or `SpeechTransformer`. The latter's `max_length` is raised to the
            longest stream.
        streams: int (time,) each, of at least two tokens.
        batch_size: Number of streams read at once; affects the cost only. Defaults to `8`.
    """
    ordered = sorted(_scorable(streams), key=len)
    extend_max_length(model, len(ordered[-1]))
    total, count = 0.0, 0
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        lengths = np.array([len(stream) for stream in batch])
        mask = np.arange(lengths.max()) < lengths[:, None]
        tokens = np.zeros(mask.shape, "int32")
        tokens[mask] = np.concatenate(batch)
        total += model.log_probabilities(tokens, mask).sum(dtype="float64")
        count += int((lengths - 1).sum())
    return float(np.exp(-total / count))


def n_gram_perplexity(
    order: int,
    vocabulary_size: int,
    training_streams: Sequence[np.ndarray],
    streams: Sequence[np.ndarray],
) -> float:
    """Perplexity per token of an n-gram model, over the same tokens as `held_out_perplexity`."""
    n_gram = NGramModel(order, vocabulary_size).fit(training_streams)
    scores = [n_gram.log_probabilities(stream)[1:] for stream in _scorable(streams)]
    return float(np.exp(-np.concatenate(scores).mean()))


def compare_token_perplexity(
    model: Any,
    training_streams: Sequence[np.ndarray],
    held_out_streams: Sequence[np.ndarray],
    batch_size: int = 8,
) -> dict[str, float]:
    """Compare a model's held-out perplexity with a unigram and a trigram model's.

    Args:
        model: A `SpeechSSM` or `SpeechTransformer`.
        training_streams: int (time,) each; the n-gram models count them.
        held_out_streams: int (time,) each; all three models are measured on them.
        batch_size: Number of streams that the model reads at once. Defaults to `8`.

    Returns:
        Perplexities `model`, `unigram` and `trigram`, and `tokens`, the number of tokens that
        they are means of.
    """
    vocabulary_size = model.backbone.vocabulary_size
    arguments = (vocabulary_size, training_streams, held_out_streams)
    return {
        "model": held_out_perplexity(model, held_out_streams, batch_size),
        "unigram": n_gram_perplexity(1, *arguments),
        "trigram": n_gram_perplexity(3, *arguments),
        "tokens": float(sum(len(stream) - 1 for stream in _scorable(held_out_streams))),
    }


def _scorable(streams: Sequence[np.ndarray]) -> list[np.ndarray]:
    kept = [np.asarray(stream) for stream in streams if len(stream) > 1]
    if not kept:
        raise ValueError("No held-out stream has two tokens; use longer recordings.")
    return kept


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Values of `wanted` among the sorted `keys`; 0 where a key is missing."""
    if not len(keys):
        return np.zeros(len(wanted), "int64")
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
