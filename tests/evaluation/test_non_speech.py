import pytest

from keras_speechssm.evaluation.non_speech import share_outside


def test_share_by_hand():
    turns = [(0.0, 30.0), (50.0, 70.0)]
    assert share_outside(turns, 90.0, 60.0) == pytest.approx([20 / 60, 20 / 30])
    assert share_outside([], 10.0, 60.0) == [1.0]
    assert share_outside(turns, 0.0, 60.0) == []
