"""Mel filters and log-mel spectra against librosa, and on each kind of array."""

import numpy as np
import pytest
from keras import ops

from keras_speechssm.audio.mel import log_mel, mel_centers, mel_filters, spectrogram


def noise(samples=16_000):
    return (0.1 * np.random.default_rng(0).normal(size=samples)).astype("float32")


@pytest.mark.parametrize(
    ("bands", "fft_length", "lowest", "highest"),
    [(80, 1024, 0.0, 8000.0), (40, 512, 60.0, 7800.0)],
)
def test_filters_are_librosa_s_with_slopes_in_mel(bands, fft_length, lowest, highest):
    librosa = pytest.importorskip("librosa")
    theirs = librosa.filters.mel(
        sr=16_000, n_fft=fft_length, n_mels=bands, fmin=lowest, fmax=highest, htk=True, norm=None
    )
    ours = mel_filters(bands, fft_length, lowest, highest)
    assert ours.dtype == np.float32 and ours.shape == (fft_length // 2 + 1, bands)
    np.testing.assert_allclose(ours, theirs.T, atol=0.015)
    frequencies = librosa.mel_frequencies(bands + 2, fmin=lowest, fmax=highest, htk=True)
    np.testing.assert_allclose(mel_centers(bands, lowest, highest), frequencies[1:-1], rtol=1e-4)


def test_spectrogram_is_librosa_s():
    librosa = pytest.importorskip("librosa")
    waveform = noise()
    theirs = librosa.stft(waveform, n_fft=512, hop_length=160, window=np.hanning(512), center=False)
    for power in (1.0, 2.0):
        found = spectrogram(waveform, 512, 160, power)
        np.testing.assert_allclose(found, np.abs(theirs.T) ** power, rtol=1e-3, atol=1e-4)


def test_log_mel_is_librosa_s():
    librosa = pytest.importorskip("librosa")
    waveform = noise()
    theirs = librosa.feature.melspectrogram(
        y=waveform,
        sr=16_000,
        n_fft=1024,
        hop_length=256,
        window=np.hanning(1024),
        center=False,
        n_mels=40,
        htk=True,
        norm=None,
    )
    found = log_mel(spectrogram(waveform, 1024, 256, power=2.0), 40, floor=1e-6)
    np.testing.assert_allclose(found, np.log(theirs.T + 1e-6), atol=0.02)


def test_arrays_and_tensors_give_the_same_in_each_form():
    spectrum = spectrogram(noise(2048), 256, 64).astype("float32")
    mel = spectrum @ mel_filters(12, 256, 100.0, 7000.0)
    for options, expected in (
        ({}, np.log(mel + 0.5)),
        ({"base": 10}, np.log10(mel + 0.5)),
        ({"clip": True}, np.log(np.maximum(mel, 0.5))),
    ):
        arguments = (12, 0.5, 100.0, 7000.0)
        found = log_mel(spectrum, *arguments, **options)
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        tensor = log_mel(ops.convert_to_tensor(spectrum), *arguments, **options)
        np.testing.assert_allclose(ops.convert_to_numpy(tensor), expected, atol=1e-4)


def test_a_recording_shorter_than_a_window_is_padded():
    assert spectrogram(noise(100), 256, 64).shape == (1, 129)
    assert spectrogram(noise(256 + 64), 256, 64).shape == (2, 129)


def test_filters_of_a_caller_are_its_own():
    filters = mel_filters(4, 64)
    filters[:] = 0.0
    assert mel_filters(4, 64).max() > 0.5
