"""Bad waveforms, tokens and options are refused in one clear line."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_speechssm.audio.io import to_mono_16khz
from keras_speechssm.checks import (
    check_at_least,
    check_between,
    nearest_name,
    token_array,
    waveform_array,
)

pytestmark = pytest.mark.any_backend


def tone():
    return 0.5 * np.sin(2 * np.pi * 440.0 * np.arange(16_000) / 16_000).astype("f")


def test_waveform_array():
    double = tone().astype("float64")
    assert waveform_array(double).dtype == np.float32
    assert waveform_array(np.stack([double, double])).shape == (2, 16_000)
    with pytest.raises(ValueError, match="int16"):
        waveform_array((double * 32767).astype("int16"))
    with pytest.raises(ValueError, match=r"\(1, 1, 16000\)"):
        waveform_array(double[None, None])
    with pytest.raises(ValueError, match="0.00 s"):
        waveform_array(np.zeros(0, "float32"))
    with pytest.raises(ValueError, match="at least 3 s"):
        waveform_array(double, min_seconds=3.0)
    with pytest.raises(ValueError, match=r"expected samples in \[-1, 1\]"):
        waveform_array(double * 32768)
    with pytest.raises(ValueError, match="the second: .* NaN"):
        waveform_array(double * np.nan, name="the second")
    with pytest.raises(ValueError, match="all silence"):
        waveform_array(np.stack([double, 0 * double]), allow_silence=False)
    with pytest.raises(ValueError, match="all silence"):  # an offset alone
        waveform_array(0.2 + 1e-4 * double, allow_silence=False)


def test_mono_conversion_refuses_other_shapes_and_rates():
    with pytest.raises(ValueError, match="at 1000 Hz or more"):
        to_mono_16khz(np.zeros((2, 2, 2)), 16_000)
    with pytest.raises(ValueError, match="at 1000 Hz or more"):
        to_mono_16khz(np.zeros(10), 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30_000), st.integers(1000, 192_000), st.integers(1, 6))
def test_resampled_length_for_any_rate(num_samples, rate, num_channels):
    samples = np.full((num_samples, num_channels), 0.1, "float32")
    waveform = to_mono_16khz(samples, rate)
    assert abs(len(waveform) - round(num_samples * 16_000 / rate)) <= 1
    assert waveform.dtype == np.float32 and np.abs(waveform).max(initial=0.0) <= 1.0


@pytest.mark.parametrize("dtype", ["uint16", "int64", "int32"])
def test_tokens_become_int32_and_keep_their_shape(dtype):
    for shape in ((3,), (2, 3)):
        found = token_array(np.full(shape, 5, dtype), vocabulary_size=6)
        assert found.dtype == np.int32 and found.shape == shape
    assert token_array([1, 2]).tolist() == [1, 2]
    assert token_array([], allow_empty=True).shape == (0,)


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (
            3,
            {},
            r"codes is int64 of shape \(\); expected integers of shape \(time,\) or \(batch, t",
        ),
        ([[[1]]], {}, r"shape \(1, 1, 1\)"),
        ([[1]], {"shapes": ("(time,)",)}, r"expected integers of shape \(time,\)."),
        ([0.5], {}, "codes is float64"),
        ([True], {}, "codes is bool"),
        ([], {}, r"codes is empty, shape \(0,\); expected at least one token."),
        ([0, -1], {}, r"ids from -1 to 0; expected 0 to 2147483647\."),
        ([0, 9], {"vocabulary_size": 9}, r"ids from 0 to 9; expected 0 to 8 \(a vocabulary of 9"),
        ([[1], [2, 3]], {}, "codes is not an array"),
        ([0], {"vocabulary_size": [9]}, r"vocabulary_size is \[9\]; expected an integer."),
    ],
)
def test_bad_tokens_get_one_line(tokens, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        token_array(tokens, "codes", **options)
    assert "\n" not in str(caught.value)


def test_tokens_are_not_checked_at_padding():
    tokens, mask = np.array([[7, 99]]), np.array([[True, False]])
    assert token_array(tokens, vocabulary_size=8, mask=mask).tolist() == [[7, 99]]
    with pytest.raises(ValueError, match="mask of tokens has shape"):
        token_array(tokens, mask=mask[0])


def test_options_out_of_range_are_named():
    check_at_least(1, steps=1, seconds=None)
    check_between(0, 1, share=0.5)
    for value in (0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"steps is {value}; expected 1 or more"):
            check_at_least(1, steps=value)
    with pytest.raises(ValueError, match="share is 1.5; expected 0 to 1"):
        check_between(0, 1, share=1.5)


@pytest.mark.parametrize("value", ["1", "a\nb", "x" * 99, [1], {}, np.ones((9, 9)), 1j])
@pytest.mark.parametrize("check", [(check_at_least, 1), (check_between, 0, 1)])
def test_options_that_are_no_number_are_refused_in_one_line(check, value):
    with pytest.raises(ValueError, match="steps is .*; expected") as caught:
        check[0](*check[1:], steps=value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 90


def test_the_nearest_name_is_offered():
    assert nearest_name("attention_windw", ["attention_window"]) == (
        " Did you mean 'attention_window'?"
    )
    assert nearest_name("xyz", ["attention_window"]) == ""
