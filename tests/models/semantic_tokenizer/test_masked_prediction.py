import keras
import numpy as np
import pytest
from keras import ops

from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer_pretraining import (
    MaskedPrediction,
    SpanMasking,
)


def test_spans_hide_only_real_positions_in_training():
    features = np.ones((64, 50, 3), "float32")
    real = np.arange(50)[None] < np.where(np.arange(64) % 2, 50, 30)[:, None]
    layer = SpanMasking(mask_start_rate=0.04, mask_span=10, seed=0)
    masked, mask = layer(features, ops.convert_to_tensor(real), training=True)
    masked, mask = ops.convert_to_numpy(masked), ops.convert_to_numpy(mask)
    assert not mask[~real].any()
    np.testing.assert_array_equal(masked[~mask], 1.0)
    assert abs(masked[mask].mean()) < 0.01 and 0.08 < masked[mask].std() < 0.12
    # A position is hidden unless none of the ten starts that reach it happened.
    assert abs(mask[real].mean() - (1 - 0.96**10)) < 0.06
    first, last = mask[:, 0].mean(), mask[1::2, 49].mean()
    assert 0.1 < first < 0.6 and 0.1 < last < 0.6


def test_spans_have_their_length():
    layer = SpanMasking(mask_start_rate=0.01, mask_span=7, seed=1)
    real = np.ones((20, 200), bool)
    _, mask = layer(np.zeros((20, 200, 1), "float32"), ops.convert_to_tensor(real), training=True)
    edges = np.diff(np.pad(ops.convert_to_numpy(mask).astype(int), ((0, 0), (1, 1))), axis=1)
    inner = [
        stop - start
        for row in edges
        for start, stop in zip(np.where(row == 1)[0], np.where(row == -1)[0], strict=True)
        if start > 0 and stop < 200
    ]
    assert inner and min(inner) == 7


def test_nothing_happens_outside_of_training():
    features = np.random.default_rng(0).normal(size=(2, 9, 3)).astype("float32")
    real = ops.ones((2, 9), dtype="bool")
    same, mask = SpanMasking(mask_start_rate=1.0)(features, real)
    np.testing.assert_array_equal(ops.convert_to_numpy(same), features)
    assert not ops.convert_to_numpy(mask).any()
    layer = MaskedPrediction(codebook_size=4)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(features, features, mask)), features)
    assert not layer.losses


def test_targets_are_the_nearest_codes_on_the_sphere():
    features = np.random.default_rng(2).normal(size=(2, 5, 6)).astype("float32")
    layer = MaskedPrediction(codebook_size=7, projection_dim=4, seed=0)
    layer(features, features, ops.ones((2, 5), dtype="bool"))
    projected = features @ ops.convert_to_numpy(layer.projection)
    projected /= np.linalg.norm(projected, axis=-1, keepdims=True)
    codes = ops.convert_to_numpy(layer.codes)
    codes = codes / np.linalg.norm(codes, axis=-1, keepdims=True)
    distances = np.linalg.norm(projected[..., None, :] - codes, axis=-1)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(layer.targets(features)), distances.argmin(axis=-1)
    )


def test_loss_is_the_cross_entropy_of_the_hidden_positions():
    rng = np.random.default_rng(3)
    x, features = rng.normal(size=(2, 2, 5, 6)).astype("float32")
    mask = np.zeros((2, 5), bool)
    mask[0, 1] = mask[1, 3] = True
    layer = MaskedPrediction(codebook_size=7, projection_dim=4, loss_weight=0.5, seed=0)
    layer(x, features, ops.convert_to_tensor(mask), training=True)
    logits = ops.convert_to_numpy(layer.head(x))
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    targets = ops.convert_to_numpy(layer.targets(features))
    expected = -np.mean([np.log(chances[b, t, targets[b, t]]) for b, t in ((0, 1), (1, 3))])
    (loss,) = layer.losses
    np.testing.assert_allclose(float(ops.convert_to_numpy(loss)), 0.5 * expected, rtol=1e-4)


def test_the_random_quantizer_is_frozen():
    layer = MaskedPrediction(codebook_size=4, seed=0)
    layer.build((None, None, 3), (None, None, 6))
    assert [w.path.split("/")[-2] for w in layer.trainable_weights] == ["head", "head"]


def test_configs_and_errors():
    for layer in (SpanMasking(0.1, 3, seed=1), MaskedPrediction(5, 3, 0.2, seed=2)):
        assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()
    with pytest.raises(ValueError, match="mask_span at least 1, got 0.1 and 0"):
        SpanMasking(0.1, 0)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        MaskedPrediction(1)
    assert keras.saving.get_registered_object("keras_speechssm>SpanMasking") is SpanMasking
