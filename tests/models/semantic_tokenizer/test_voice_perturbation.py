import numpy as np
import pytest
from keras import ops

from keras_speechssm.audio.mel import mel_centers, mel_filters
from keras_speechssm.models.semantic_tokenizer.log_mel_frames import HIGHEST, LOWEST
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer_pretraining import (
    VoicePerturbation,
)

NUM_MELS = 80


def tone_band(hertz):
    """The band nearest to a frequency."""
    return int(np.abs(mel_centers(NUM_MELS, LOWEST, HIGHEST) - hertz).argmin())


def test_centers_are_where_the_filters_peak():
    bins = mel_filters(20, 4096, 100.0, 7000.0).argmax(axis=0)
    np.testing.assert_allclose(mel_centers(20, 100.0, 7000.0), bins * 16000 / 4096, atol=2.0)


def test_a_tone_moves_by_a_factor_that_each_example_has_for_itself():
    hertz = (400.0, 1500.0)
    features = np.zeros((40, 3, 2 * NUM_MELS), "float32")
    for tone in hertz:
        features[:, :, tone_band(tone)] = features[:, :, NUM_MELS + tone_band(tone)] = 10.0
    moved = VoicePerturbation(NUM_MELS, max_warp=0.2, seed=0)(features, training=True)
    frames = ops.convert_to_numpy(moved).reshape(40, 6, NUM_MELS)
    np.testing.assert_array_equal(frames, frames[:, :1].repeat(6, axis=1))  # the same all along
    centers = mel_centers(NUM_MELS, LOWEST, HIGHEST)
    split = tone_band(800.0)
    factors = np.stack(
        [
            centers[frames[:, 0, :split].argmax(-1)] / centers[tone_band(hertz[0])],
            centers[split + frames[:, 0, split:].argmax(-1)] / centers[tone_band(hertz[1])],
        ]
    )
    assert 0.8 < factors.min() < 0.9 and 1.1 < factors.max() < 1.25
    assert len(np.unique(factors[1])) > 6  # of the nine that the bands tell apart
    # Both tones by the same factor, except for the bands' width.
    np.testing.assert_allclose(factors[0], factors[1], rtol=0.08)


def test_coloration_is_a_smooth_curve_of_its_own_for_each_example():
    features = np.zeros((300, 2, NUM_MELS), "float32")
    layer = VoicePerturbation(NUM_MELS, coloration=0.3, seed=1)
    curves = ops.convert_to_numpy(layer(features, training=True))
    np.testing.assert_array_equal(curves[:, 0], curves[:, 1])
    curves = curves[:, 0]
    # The bands' mean is the first term alone.
    assert abs(curves.mean(axis=1).std() - 0.3) < 0.04
    assert np.abs(np.diff(curves, axis=1)).max() < 0.15


def test_nothing_happens_outside_of_training():
    features = np.random.default_rng(0).normal(size=(2, 5, NUM_MELS)).astype("float32")
    layer = VoicePerturbation(NUM_MELS, 0.2, 0.3, seed=0)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(features, training=False)), features)
    none = VoicePerturbation(NUM_MELS)
    np.testing.assert_array_equal(ops.convert_to_numpy(none(features, training=True)), features)


def test_a_range_below_zero_is_refused():
    with pytest.raises(ValueError, match="at least 0, got -0.1 and 0.0"):
        VoicePerturbation(NUM_MELS, max_warp=-0.1)
