"""Held-out perplexity a token, next to n-gram models that saw the same tokens.

A language model that does not beat a trigram with back-off has learnt no more than which
sounds follow each other.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


class NGramModel:
    """An n-gram model, interpolated by Witten and Bell's rule down to the uniform one.

        p(w | h) = (count(h w) + kinds(h) p(w | h')) / (count(h) + kinds(h))

    where `kinds(h)` counts the different tokens seen after history h and h' is h without
    its oldest token. A token near the start of a document has the history it has; nothing
    is seen across documents.

    Args:
        order: int. 1 for a unigram model, 3 for a trigram model.
        vocabulary_size: int. `vocabulary_size ** order` must fit into 63 bits.

    Source: Witten and Bell 1991, "The zero-frequency problem", method C, in its
    interpolated form (Chen and Goodman 1999, section 2.5).
    """

    def __init__(self, order: int, vocabulary_size: int):
        if order < 1 or order * np.log2(vocabulary_size) >= 63:
            raise ValueError(
                f"order is {order} with {vocabulary_size} tokens; give at least 1, and so few "
                "that vocabulary_size ** order stays below 2^63."
            )
        self.order = order
        self.vocabulary_size = vocabulary_size
        self._levels = []

    def fit(self, streams: Sequence[np.ndarray]) -> "NGramModel":
        """Counts the n-grams of int (time,) streams; returns itself."""
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
            seen = total > 0  # an unseen history says nothing: the shorter one decides
            lower = probability[length - 1 :]
            mixed = (count + kind * lower) / np.maximum(total + kind, 1)
            probability[length - 1 :] = np.where(seen, mixed, lower)
        return np.log(probability)

    def _grams(self, stream: np.ndarray, length: int) -> np.ndarray:
        """The n-grams of a stream as numbers to the base `vocabulary_size`, oldest first."""
        stream = np.asarray(stream, "int64")
        count = max(0, len(stream) - length + 1)
        grams = np.zeros(count, "int64")
        for position in range(length):
            grams = grams * self.vocabulary_size + stream[position : position + count]
        return grams


def check_vocabulary(model: Any, source: Any, name: str) -> None:
    """Refuses recordings of other tokens than the model's: `ValueError`.

    Args:
        model: a language model.
        source: of tokens, from `open_tokens`.
        name: what to call the model.
    """
    if model.backbone.vocabulary_size != source.vocabulary_size:
        raise ValueError(
            f"{name} has {model.backbone.vocabulary_size} tokens, the recordings "
            f"{source.vocabulary_size}: tokenize them with its own tokenizer."
        )


def extend_max_length(model: Any, num_tokens: int) -> None:
    """Lets a `SpeechTransformer` read past the length that it was trained on."""
    if hasattr(model, "max_length"):
        model.max_length = max(model.max_length, num_tokens)


def held_out_perplexity(model: Any, streams: Sequence[np.ndarray], batch_size: int = 8) -> float:
    """exp of the mean negative log-probability a token, each stream read from its start.

    The first token of a stream, which nothing precedes, is not counted.

    Args:
        model: a `SpeechSSM` or `SpeechTransformer`. The latter's `max_length` is raised to the
            longest stream.
        streams: list of int (time,), each of at least two tokens.
        batch_size: int. Streams read side by side; changes the cost only.
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
    """Perplexity a token of an n-gram model, over the same tokens as `held_out_perplexity`."""
    n_gram = NGramModel(order, vocabulary_size).fit(training_streams)
    scores = [n_gram.log_probabilities(stream)[1:] for stream in _scorable(streams)]
    return float(np.exp(-np.concatenate(scores).mean()))


def evaluate_token_perplexity(
    model: Any,
    training_streams: Sequence[np.ndarray],
    held_out_streams: Sequence[np.ndarray],
    batch_size: int = 8,
) -> dict[str, float]:
    """The model's held-out perplexity next to a unigram and a trigram model's.

    Args:
        model: a `SpeechSSM` or `SpeechTransformer`.
        training_streams: list of int (time,), what the n-gram models count.
        held_out_streams: list of int (time,), what all three are judged on.
        batch_size: int. Streams that the model reads side by side.

    Returns:
        `{"model", "unigram", "trigram": perplexity, "tokens": tokens judged}`.
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
        raise ValueError("No held-out stream has two tokens or more: give longer recordings.")
    return kept


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Values of `wanted` among the sorted `keys`; 0 where a key is missing."""
    if not len(keys):
        return np.zeros(len(wanted), "int64")
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
