"""What is no waveform is refused in one clear line."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_speechssm.audio.io import to_mono_16khz
from keras_speechssm.checks import validate_waveform

pytestmark = pytest.mark.any_backend


def tone():
    return 0.5 * np.sin(2 * np.pi * 440.0 * np.arange(16_000) / 16_000).astype("f")


def test_validate_waveform():
    double = tone().astype("float64")
    assert validate_waveform(double).dtype == np.float32
    assert validate_waveform(np.stack([double, double])).shape == (2, 16_000)
    with pytest.raises(ValueError, match="int16"):
        validate_waveform((double * 32767).astype("int16"))
    with pytest.raises(ValueError, match=r"\(1, 1, 16000\)"):
        validate_waveform(double[None, None])
    with pytest.raises(ValueError, match="0.00 s"):
        validate_waveform(np.zeros(0, "float32"))
    with pytest.raises(ValueError, match="at least 3 s"):
        validate_waveform(double, min_seconds=3.0)
    with pytest.raises(ValueError, match=r"expected samples in \[-1, 1\]"):
        validate_waveform(double * 32768)
    with pytest.raises(ValueError, match="the second: .* NaN"):
        validate_waveform(double * np.nan, name="the second")
    with pytest.raises(ValueError, match="all silence"):
        validate_waveform(np.stack([double, 0 * double]), allow_silence=False)


def test_mono_conversion_refuses_other_shapes_and_rates():
    with pytest.raises(ValueError, match="positive rate"):
        to_mono_16khz(np.zeros((2, 2, 2)), 16_000)
    with pytest.raises(ValueError, match="positive rate"):
        to_mono_16khz(np.zeros(10), 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30_000), st.integers(1000, 192_000), st.integers(1, 6))
def test_resampled_length_for_any_rate(num_samples, rate, num_channels):
    samples = np.full((num_samples, num_channels), 0.1, "float32")
    waveform = to_mono_16khz(samples, rate)
    assert abs(len(waveform) - round(num_samples * 16_000 / rate)) <= 1
    assert waveform.dtype == np.float32 and np.abs(waveform).max(initial=0.0) <= 1.0
