import numpy as np
import pytest

pytest.importorskip("scipy")

from keras_speechssm.evaluation.metrics.confidence_intervals import (
    bootstrap_interval,
    fraction_interval,
    mean_interval,
)

pytestmark = pytest.mark.any_backend


def test_student_s_interval_by_hand():
    found = mean_interval([1.0, 2.0, 3.0], confidence=0.95)
    # t with two degrees of freedom at 97.5 % is 4.3027; the standard error is 1 / sqrt(3).
    assert found["mean"] == 2.0
    assert found["half_width"] == pytest.approx(4.3027 / np.sqrt(3), rel=1e-4)
    assert found["num"] == 3


def test_confidence_is_the_papers_unless_told_otherwise():
    # t with two degrees of freedom at 99.5 % is 9.9248.
    assert mean_interval([1.0, 2.0, 3.0])["half_width"] == pytest.approx(
        9.9248 / np.sqrt(3), rel=1e-4
    )


def test_a_share_of_few_is_not_sure():
    # Wilson's for none of n ends at z² / (n + z²); z at 99.5 % is 2.5758.
    found = fraction_interval([0.0] * 3)
    assert (found["mean"], found["low"], found["num"]) == (0.0, 0.0, 3)
    assert found["high"] == pytest.approx(2.5758**2 / (3 + 2.5758**2), rel=1e-4)
    assert fraction_interval([1.0] * 3)["low"] == pytest.approx(1 - found["high"])
    half = fraction_interval([0.0, 1.0] * 50, confidence=0.95)
    assert (half["low"], half["high"]) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert np.isnan(fraction_interval([])["mean"])


def test_too_few_values_have_no_width():
    assert np.isnan(mean_interval([4.0])["half_width"])
    assert np.isnan(mean_interval([])["mean"])
    assert np.isnan(bootstrap_interval([])[0])


def test_the_interval_covers_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        found = mean_interval(random.normal(3.0, 2.0, size=8), confidence=0.9)
        covered += abs(found["mean"] - 3.0) <= found["half_width"]
    assert 0.86 < covered / 500 < 0.94


def test_the_bootstrap_holds_the_mean_and_is_repeatable():
    values = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    low, high = bootstrap_interval(values)
    assert 0.0 <= low < np.mean(values) < high <= 1.0
    assert (low, high) == bootstrap_interval(values)
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
