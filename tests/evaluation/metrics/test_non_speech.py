import pytest

from keras_speechssm.evaluation.metrics.silence import non_speech_fraction

pytestmark = pytest.mark.any_backend


def test_share_by_hand():
    turns = [(0.0, 30.0), (50.0, 70.0)]
    assert non_speech_fraction(turns, 90.0, 60.0) == pytest.approx([20 / 60, 20 / 30])
    assert non_speech_fraction([], 10.0, 60.0) == [1.0]
    assert non_speech_fraction(turns, 0.0, 60.0) == []
