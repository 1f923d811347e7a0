import numpy as np
import pytest
from keras import ops

from keras_speechssm.audio.mel import mel_filters
from keras_speechssm.models.semantic_tokenizer.log_mel_frames import POWER_FLOOR, LogMelFrames


def frames_of(waveform, layer=None):
    return ops.convert_to_numpy((layer or LogMelFrames(num_mels=20))(waveform[None]))[0]


def test_against_a_plain_dft():
    layer = LogMelFrames(num_mels=20)
    waveform = np.random.default_rng(0).normal(size=1280).astype("float32") * 0.1
    found = frames_of(waveform, layer).reshape(8, 20)
    mean, deviation = (ops.convert_to_numpy(w) for w in (layer.mean, layer.deviation))
    padded = np.pad(waveform.astype("float64"), 120)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    for frame in range(8):
        spectrum = np.fft.rfft(padded[160 * frame : 160 * frame + 400] * window, 512)
        mel = np.abs(spectrum) ** 2 @ mel_filters(20, 512, 60.0, 7800.0)
        expected = (np.log(mel + POWER_FLOOR) - mean) / deviation
        np.testing.assert_allclose(found[frame], expected, atol=1e-4)


def test_step_t_covers_its_own_640_samples():
    quiet = np.zeros(640 * 6, "float32")
    burst = quiet.copy()
    burst[640 * 3 + 130 : 640 * 4 - 130] = np.sin(np.arange(380))
    changed = np.abs(frames_of(burst) - frames_of(quiet)).max(axis=1) > 1e-3
    assert changed.tolist() == [False, False, False, True, False, False]


def test_a_tone_lights_up_its_band():
    tone = np.sin(2 * np.pi * 1000 * np.arange(640) / 16000).astype("float32")
    band = frames_of(tone).reshape(4, 20)[1].argmax()
    bin_of_1_kilohertz = mel_filters(20, 512, 60.0, 7800.0)[32]
    assert band == bin_of_1_kilohertz.argmax()


def test_adapt_normalizes_each_band():
    rng = np.random.default_rng(1)
    waveforms = rng.normal(size=(4, 6400)).astype("float32") * 0.1
    layer = LogMelFrames(num_mels=20)
    layer.adapt(waveforms)
    bands = ops.convert_to_numpy(layer(waveforms)).reshape(-1, 20)
    np.testing.assert_allclose(bands.mean(axis=0), 0.0, atol=1e-3)
    np.testing.assert_allclose(bands.std(axis=0), 1.0, atol=1e-3)


def test_half_steps_are_refused():
    with pytest.raises(ValueError, match="whole steps of 640 samples, got 1000"):
        frames_of(np.zeros(1000, "float32"))
