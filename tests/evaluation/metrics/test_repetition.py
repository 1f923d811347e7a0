import math

import pytest

from keras_speechssm.evaluation.metrics.repetition import (
    entropy,
    repeated_fraction,
    repetition_over_time,
)

pytestmark = pytest.mark.any_backend


def test_a_loop_repeats_and_a_text_does_not():
    assert repeated_fraction(list("abcdefgh")) == 0.0
    assert repeated_fraction(list("abcd" * 5)) == pytest.approx(13 / 17)  # four kinds in 17
    assert repeated_fraction(list("abc")) == repeated_fraction([]) == 0.0


def test_entropy_by_hand():
    assert entropy(["a", "b"]) == pytest.approx(math.log(2))
    assert entropy(["a", "a", "a"]) == entropy([]) == 0.0


def test_each_stretch_is_judged_by_itself():
    items = list("abcde") + list("xxxxxx")
    times = [float(i) for i in range(5)] + [60.0 + i for i in range(6)]
    first, second, third = repetition_over_time(items, times, 60.0, end=130.0)
    assert first == {"repeated_fraction": 0.0, "num": 5}
    assert second["repeated_fraction"] == pytest.approx(2 / 3) and second["num"] == 6
    assert third == {"repeated_fraction": 0.0, "num": 0}


def test_items_without_times_are_refused():
    with pytest.raises(ValueError, match="2 items, 1 times"):
        repetition_over_time(["a", "b"], [0.0], 60.0, end=60.0)
