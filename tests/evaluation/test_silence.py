import numpy as np
import pytest

from keras_speechssm.evaluation.silence import silent_share


def test_share_of_each_stretch():
    tone = 0.3 * np.sin(np.arange(16000) * 0.2)
    quiet = np.zeros(16000)
    waveform = np.concatenate([tone, quiet, tone, tone])
    assert silent_share(waveform) == [pytest.approx(0.25)]
    assert silent_share(waveform, seconds=2.0) == [pytest.approx(0.5), pytest.approx(0.0)]


def test_level_is_relative_to_the_loud_parts():
    rng = np.random.default_rng(0)
    loud, soft = 0.1 * rng.normal(size=16000), 1e-4 * rng.normal(size=16000)
    assert silent_share(np.concatenate([loud, soft])) == [pytest.approx(0.5)]
    assert silent_share(soft) == [1.0]  # -80 dBFS: silent whatever it is compared with


def test_last_stretch_may_be_short_and_nothing_gives_nothing():
    assert len(silent_share(np.ones(40000), seconds=1.0)) == 3
    assert silent_share(np.zeros(100)) == []
