import types

import numpy as np
import pytest
from tiny_models import tiny_gemma

from keras_speechssm.evaluation.metrics.token_perplexity import (
    NGramModel,
    compare_token_perplexity,
    held_out_perplexity,
    n_gram_perplexity,
)
from keras_speechssm.models import SpeechTransformer


def test_unigram_by_hand():
    # Counts: 0 three times, 1 once; 2 kinds after the empty history; uniform 1/4.
    probabilities = np.exp(
        NGramModel(1, 4).fit([np.array([0, 0, 1, 0])]).log_probabilities([0, 1, 3])
    )
    np.testing.assert_allclose(probabilities, [3.5 / 6, 1.5 / 6, 0.5 / 6])


def test_bigram_by_hand():
    # Bigrams 0>0, 0>1, 1>0. After 0: 2 seen, 2 kinds; after 1: 1 seen, 1 kind.
    model = NGramModel(2, 4).fit([np.array([0, 0, 1, 0])])
    unigram = np.array([3.5, 1.5, 0.5, 0.5]) / 6
    found = np.exp(model.log_probabilities(np.array([1, 0, 1, 1, 3, 2])))
    expected = [
        unigram[1],
        (1 + unigram[0]) / 2,
        (1 + 2 * unigram[1]) / 4,
        (0 + unigram[1]) / 2,
        (0 + unigram[3]) / 2,
        unigram[2],  # nothing was ever seen after 3
    ]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_of_all_tokens_sum_to_one(order):
    random = np.random.default_rng(0)
    model = NGramModel(order, 5).fit([random.integers(0, 4, 40), random.integers(0, 4, 30)])
    for history in ([0, 1], [3, 3], [4, 0], [4, 4]):
        streams = [np.array([*history, token]) for token in range(5)]
        last = [np.exp(model.log_probabilities(stream))[-1] for stream in streams]
        np.testing.assert_allclose(sum(last), 1.0)


def test_n_grams_do_not_reach_across_documents():
    apart = NGramModel(2, 4).fit([np.array([0, 1]), np.array([2, 3])])
    joined = NGramModel(2, 4).fit([np.array([0, 1, 2, 3])])
    stream = np.array([1, 2])
    assert joined.log_probabilities(stream)[1] > apart.log_probabilities(stream)[1]


def test_streams_shorter_than_the_order():
    model = NGramModel(3, 4).fit([np.array([0]), np.array([0, 1])])
    assert np.isfinite(model.log_probabilities(np.array([1]))).all()


def test_a_trigram_learns_what_a_unigram_cannot():
    stream = np.tile([0, 1, 2, 0, 2, 1], 200)
    assert n_gram_perplexity(3, 3, [stream], [stream]) < 1.1
    np.testing.assert_allclose(n_gram_perplexity(1, 3, [stream], [stream]), 3.0, rtol=1e-2)


def test_too_large_orders_are_refused():
    with pytest.raises(ValueError, match="below 2\\^63"):
        NGramModel(5, 32768)


class Halves:
    """A model that gives every token but the first the probability 1/2."""

    backbone = types.SimpleNamespace(vocabulary_size=4)

    def __init__(self):
        self.shapes = []

    def log_probabilities(self, tokens, mask):
        self.shapes.append(tokens.shape)
        scores = np.where(mask, np.log(0.5), 0.0)
        scores[:, 0] = 0
        return scores


def test_held_out_perplexity_by_hand():
    model = Halves()
    streams = [np.zeros(5, int), np.zeros(1, int), np.zeros(3, int), np.zeros(2, int)]
    np.testing.assert_allclose(held_out_perplexity(model, streams, batch_size=2), 2.0)
    assert model.shapes == [(2, 3), (1, 5)]  # sorted by length; one token alone has no history


def test_a_transformer_reads_past_the_length_that_it_was_trained_on():
    backbone = tiny_gemma(8)
    streams = [np.random.default_rng(0).integers(0, 8, length) for length in (9, 30, 4)]
    found, expected = (
        held_out_perplexity(SpeechTransformer(backbone, max_length=length), streams)
        for length in (10, 40)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_evaluation_counts_the_same_tokens_for_all():
    training = [np.array([0, 1, 0, 1, 0, 1, 0, 1])]
    result = compare_token_perplexity(Halves(), training, [np.array([0, 1, 0, 1])])
    np.testing.assert_allclose(result["model"], 2.0)
    assert result["tokens"] == 3
    assert result["trigram"] < result["unigram"]


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="two tokens"):
        held_out_perplexity(Halves(), [np.zeros(1, int)])
