import math

import pytest

from keras_speechssm.evaluation.metrics.side_by_side import (
    judge_pairs,
    parse_verdict,
    truncate_to_shorter,
    win_rates,
)

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("My final verdict is tie: [[A=B]].", 0),
        ("first [[A>B]], no: [[b>>a]]", -2),
        ("[[A>>B]]", 2),
        ("[[B>A]]", -1),
        ("[[A>B]] and in the end [[A]]", None),
        ("[[A>B]], as [[1]] says", 1),
        ("A>B", None),
        ("", None),
        ("[[A>B]] or [[A=B]]: I will see. " + "Text A is fluent. " * 20, None),
    ],
)
def test_the_last_label_counts(reply, verdict):
    assert parse_verdict(reply) == verdict


def test_both_are_cut_to_the_shorter():
    assert truncate_to_shorter("a b c d", "x  y") == ("a b", "x y")
    assert truncate_to_shorter("a", "") == ("", "")


class Longer:
    """Prefers the text with the longer words; gives no verdict on some."""

    name = "longer"

    def __call__(self, text_a, text_b):
        if "?" in text_a + text_b:
            return "I cannot tell."
        a, b = len(text_a), len(text_b)
        return "[[A=B]]" if a == b else "[[A>B]]" if a > b else "[[B>A]]"


class FirstIsBest:
    name = "first"

    def __call__(self, text_a, text_b):
        return "[[A>>B]]"


def test_each_is_first_once_and_both_are_cut():
    games = judge_pairs(Longer(), ["aaaa a a", "a", "b"], ["b", "bb", "b b b"])
    assert games == [(1, 1), (-1, -1), (0, 0)]
    assert judge_pairs(Longer(), ["?"], ["b"]) == [(None, None)]


def test_only_what_is_of_long_form_is_cut():
    ours, theirs = ["aa a a", "aa a a"], ["aaaa", "aaaa"]
    assert judge_pairs(Longer(), ours, theirs, [True, False]) == [(-1, -1), (1, 1)]
    with pytest.raises(ValueError, match="pairs of texts"):
        judge_pairs(Longer(), ours, theirs, [True])


def test_who_says_nothing_loses_without_a_game():
    assert judge_pairs(FirstIsBest(), ["", "a", ""], ["b", " ", ""]) == [(-2, -2), (2, 2), (0, 0)]


def test_a_judge_who_likes_the_first_place_makes_no_winner():
    rates = win_rates(judge_pairs(FirstIsBest(), ["a"] * 4, ["b"] * 4))
    assert rates["win_rate"] == rates["win_rate_weighted"] == 50.0
    assert (rates["wins"], rates["ties"], rates["losses"]) == (4, 0, 4)


def test_rates_by_hand():
    games = [(2, 1), (0, 0), (-1, 0), (None, 1), (1, None)]
    rates = win_rates(games)
    assert rates["num_items"] == 3 and rates["num_dropped"] == 2
    assert rates["win_rate"] == pytest.approx(100 * (1 + 1 + 0.5 + 0.5 + 0 + 0.5) / 6)
    assert rates["win_rate_weighted"] == pytest.approx(100 * (3 + 1 + 1.5) / 8)
    assert rates["win_rate_without_ties"] == pytest.approx(100 * 2 / 3)
    assert (rates["wins"], rates["ties"], rates["losses"]) == (2, 3, 1)
    low, high = rates["interval_95"]
    assert low <= rates["win_rate"] <= high
    # Over items, not games: of each item's two games one is won.
    assert win_rates([(1, -1)] * 4)["interval_95"] == [50.0, 50.0]


def test_no_game_is_no_rate():
    assert math.isnan(win_rates([(None, None)])["win_rate"])
    assert math.isnan(win_rates([(0, 0)])["win_rate_without_ties"])
