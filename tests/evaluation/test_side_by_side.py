import math

import pytest

from keras_speechssm.evaluation.side_by_side import (
    TEMPLATE,
    parse_verdict,
    play_games,
    truncate_to_shorter,
    win_rates,
)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("My final verdict is tie: [[A=B]].", 0),
        ("first [[A>B]], no: [[b>>a]]", -2),
        ("[[A>>B]]", 2),
        ("[[B>A]]", -1),
        ("[[A>B]] and in the end [[A]]", None),
        ("A>B", None),
        ("", None),
    ],
)
def test_the_last_label_counts(reply, verdict):
    assert parse_verdict(reply) == verdict


def test_the_template_holds_both_texts_and_the_papers_criteria():
    filled = TEMPLATE.format(text_a="alpha", text_b="beta {x}")
    assert filled.index("alpha") < filled.index("beta {x}")
    for word in ("Fluency", "Coherence", "Logicality", "Interestingness", "[[B>>A]]"):
        assert word in filled


def test_both_are_cut_to_the_shorter():
    assert truncate_to_shorter("a b c d", "x  y") == ("a b", "x y")
    assert truncate_to_shorter("a", "") == ("", "")


class Longer:
    """Prefers the longer text; says nothing where one is empty."""

    name = "longer"

    def __call__(self, text_a, text_b):
        if not text_a or not text_b:
            return "I cannot tell."
        sizes = (len(text_a), len(text_b))
        return (
            "[[A=B]]" if sizes[0] == sizes[1] else f"[[{'A>B' if sizes[0] > sizes[1] else 'B>>A'}]]"
        )


class FirstIsBest:
    name = "first"

    def __call__(self, text_a, text_b):
        return "[[A>>B]]"


def test_each_is_first_once():
    games = play_games(Longer(), ["aaaa", "a", "a"], ["b", "bb", "b"], truncate=False)
    assert games == [(1, 2), (-2, -1), (0, 0)]
    assert play_games(Longer(), ["", "a"], ["b", "b b"]) == [(None, None), (0, 0)]


def test_a_judge_who_likes_the_first_place_makes_no_winner():
    rates = win_rates(play_games(FirstIsBest(), ["a"] * 4, ["b"] * 4))
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


def test_no_game_is_no_rate():
    assert math.isnan(win_rates([(None, None)])["win_rate"])
    assert math.isnan(win_rates([(0, 0)])["win_rate_without_ties"])
