import sys

import numpy as np
import pytest

from keras_speechssm.data.pitch import measure_pitch

pytestmark = pytest.mark.any_backend

HOP = 80


def glottal(pitch: float, seconds: float = 0.6) -> np.ndarray:
    time = np.arange(int(16000 * seconds)) / 16000
    return sum(np.cos(2 * np.pi * n * pitch * time) / n for n in range(1, 12)).astype("float32")


@pytest.mark.parametrize("pitch", [80.0, 150.0, 320.0])
def test_pitch_of_a_tone_at_each_hop(pitch):
    pytest.importorskip("pyworld")
    measured = measure_pitch(0.2 * glottal(pitch), HOP)
    assert measured.shape == (120,) and measured.dtype == np.float32
    np.testing.assert_allclose(measured[30:90], pitch, rtol=0.02)


def test_silence_and_noise_have_no_pitch():
    pytest.importorskip("pyworld")
    assert not measure_pitch(np.zeros(1600, "float32"), HOP).any()


def test_without_pyworld_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyworld", None)
    with pytest.raises(ModuleNotFoundError, match="pyworld"):
        measure_pitch(np.zeros(1600, "float32"), HOP)
