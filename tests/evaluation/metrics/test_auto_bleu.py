import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_speechssm.evaluation.metrics.repetition import auto_bleu, self_overlap, slamkit_auto_bleu

pytestmark = pytest.mark.any_backend


def test_definitions_differ_on_the_the_the():
    words = "the the the".split()
    assert auto_bleu(words, geometric=True) == 0.0
    assert auto_bleu(words, geometric=False) == 0.5
    assert slamkit_auto_bleu(words) == 1.0


def test_by_hand():
    words = "a b c a b d".split()
    assert self_overlap(words, 1) == pytest.approx(4 / 6)  # a, b, a, b
    assert self_overlap(words, 2) == pytest.approx(2 / 5)  # "a b" twice
    assert auto_bleu(words, geometric=True) == pytest.approx((4 / 6 * 2 / 5) ** 0.5)
    assert auto_bleu(words, geometric=False) == pytest.approx((4 / 6 + 2 / 5) / 2)
    assert slamkit_auto_bleu(words) == pytest.approx(2 / 5)


def test_nothing_repeats_in_a_short_or_new_text():
    assert auto_bleu([]) == auto_bleu(["one"]) == auto_bleu("all of it is new".split()) == 0.0
    assert slamkit_auto_bleu(["one"]) == 0.0


def counted_one_by_one(items, n):
    grams = [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]
    hits = [
        any(grams[j] == grams[i] and abs(i - j) >= n for j in range(len(grams)))
        for i in range(len(grams))
    ]
    return sum(hits) / len(hits) if hits else 0.0


@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(1, 4))
def test_overlap_is_that_of_counting_one_by_one(items, n):
    assert self_overlap(items, n) == pytest.approx(counted_one_by_one(items, n))
