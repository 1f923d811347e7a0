import sys

import keras
import numpy as np
import pytest

from keras_speechssm.data.pitch import measure_pitch, measure_voice
from keras_speechssm.models.soundstream.source_filter_soundstream import SourceFilterSynthesis

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


@pytest.mark.parametrize("hum", [50.0, 60.0])
def test_hum_of_the_mains_is_no_voice(hum):
    pytest.importorskip("pyworld")
    time = np.arange(9600) / 16000
    waveform = 0.1 * glottal(220.0) + 0.02 * np.sin(2 * np.pi * hum * time)
    np.testing.assert_allclose(measure_pitch(waveform, HOP)[30:90], 220.0, rtol=0.02)


@pytest.mark.parametrize("pitch", [100.0, 180.0])
def test_measured_gains_are_those_of_the_synthesis(pitch):
    pytest.importorskip("pyworld")
    # A voice with formants and a tilt, in weaker noise, which is stronger above 6 kHz.
    bands = np.arange(80)
    pulses = -2.0 - 3.0 * bands / 80 + 0.7 * np.cos(bands / 80 * 12)
    noise = np.full(80, -4.5)
    true = np.tile(np.concatenate([pulses, noise]), (1, 300, 1)).astype("float32")
    layer = SourceFilterSynthesis(HOP)
    hertz = keras.ops.full((1, 300), pitch, "float32")
    pulse_gains, noise_gains = keras.ops.split(keras.ops.convert_to_tensor(true), 2, axis=-1)
    spectra = [
        layer._filtered(layer._pulse_train(hertz), pulse_gains),
        layer._filtered(layer._noise_frames(hertz), noise_gains),
    ]
    spectrum = tuple(a + b for a, b in zip(*spectra, strict=True))
    frames = keras.ops.irfft(spectrum, layer.fft_length)
    waveform = keras.ops.convert_to_numpy(layer._overlap_add(frames))[0]
    measured_pitch, measured = measure_voice(waveform, HOP)
    assert measured.shape == (300, 160) and measured.dtype == np.float32
    np.testing.assert_array_equal(measured_pitch, measure_pitch(waveform, HOP))
    np.testing.assert_allclose(measured_pitch[50:250], pitch, rtol=0.02)
    both = [np.logaddexp(2 * x[..., :80], 2 * x[..., 80:]) / 2 for x in (measured, true[0])]
    error = (both[0] - both[1])[50:250].mean(axis=0)
    # `LOUDER` is of speech, of which this is a rough copy.
    assert np.abs(error + 0.14).mean() < 0.1 and np.abs(error + 0.14).max() < 0.6
    assert measured[50:250, :40].mean() > measured[50:250, 80:120].mean() + 0.5


def test_gains_of_silence_and_of_less_than_a_hop_are_finite():
    pytest.importorskip("pyworld")
    pitch, gains = measure_voice(np.zeros(1600, "float32"), HOP)
    assert not pitch.any() and np.isfinite(gains).all() and gains.max() < -8.0
    pitch, gains = measure_voice(np.zeros(30, "float32"), HOP)
    assert pitch.shape == (0,) and gains.shape == (0, 160)


def test_without_pyworld_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyworld", None)
    with pytest.raises(ModuleNotFoundError, match="pyworld"):
        measure_pitch(np.zeros(1600, "float32"), HOP)
    with pytest.raises(ModuleNotFoundError, match="pyworld"):
        measure_voice(np.zeros(1600, "float32"), HOP)
