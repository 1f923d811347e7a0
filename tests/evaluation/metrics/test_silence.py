import numpy as np
import pytest

from keras_speechssm.evaluation.metrics.silence import silence_fraction

pytestmark = pytest.mark.any_backend


def test_share_of_each_stretch():
    tone = 0.3 * np.sin(np.arange(16000) * 0.2)
    quiet = np.zeros(16000)
    waveform = np.concatenate([tone, quiet, tone, tone])
    assert silence_fraction(waveform) == [pytest.approx(0.25)]
    assert silence_fraction(waveform, seconds=2.0) == [pytest.approx(0.5), pytest.approx(0.0)]


def test_level_is_relative_to_the_loud_parts():
    rng = np.random.default_rng(0)
    loud, soft = 0.1 * rng.normal(size=16000), 1e-4 * rng.normal(size=16000)
    assert silence_fraction(np.concatenate([loud, soft])) == [pytest.approx(0.5)]
    assert silence_fraction(soft) == [1.0]  # -80 dBFS: silent whatever it is compared with


def test_last_stretch_may_be_short_and_nothing_gives_nothing():
    assert len(silence_fraction(np.ones(40000), seconds=1.0)) == 3
    assert silence_fraction(np.zeros(100)) == []
