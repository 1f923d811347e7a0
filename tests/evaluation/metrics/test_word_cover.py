import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_speechssm.evaluation.metrics.word_cover import mean_word_cover, shuffle_runs, word_cover

pytestmark = pytest.mark.any_backend

LEXICON = frozenset({("a", "b"), ("b", "c", "a"), ("c", "c"), ("a", "b", "c", "a")})


def best_cover(phonemes, words):
    """Tries every choice of where words begin."""
    if not phonemes:
        return 0
    options = [best_cover(phonemes[1:], words)]
    for word in words:
        if phonemes[: len(word)] == word:
            options.append(len(word) + best_cover(phonemes[len(word) :], words))
    return max(options)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), st.integers(1, 4))
def test_no_choice_of_words_covers_more(phonemes, min_phonemes):
    words = {word for word in LEXICON if len(word) >= min_phonemes}
    expected = best_cover(tuple(phonemes), words) / len(phonemes)
    assert word_cover(phonemes, LEXICON, min_phonemes) == pytest.approx(expected)


def test_words_do_not_overlap_and_short_ones_do_not_count():
    assert word_cover("abca", LEXICON, 2) == 1.0
    assert word_cover("abcab", LEXICON, 3) == 0.8
    assert word_cover("abab", LEXICON) == 0.0
    assert math.isnan(word_cover([], LEXICON))


def test_the_mean_counts_phonemes_not_sequences():
    assert mean_word_cover([tuple("abca"), tuple("a" * 12), ()], LEXICON) == 0.25
    assert math.isnan(mean_word_cover([()], LEXICON))


def test_shuffling_keeps_runs():
    tokens = np.array([1, 1, 1, 2, 2, 3, 4, 4])
    for seed in range(5):
        shuffled = shuffle_runs(tokens, np.random.default_rng(seed))
        assert np.array_equal(np.sort(shuffled), tokens)
        assert len(np.flatnonzero(np.diff(shuffled))) == 3
    orders = [shuffle_runs(tokens, np.random.default_rng(seed)).tolist() for seed in range(5)]
    assert any(one != other for one, other in product(orders, orders))
