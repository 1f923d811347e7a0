import itertools

import keras
import numpy as np
import pytest
from gradient import gradients
from keras import ops

from keras_speechssm.layers.residual_vector_quantizer import ResidualVectorQuantizer
from keras_speechssm.layers.vector_quantizer import VectorQuantizer


def to_numpy(x):
    return ops.convert_to_numpy(x)


def vectors(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def with_codebook(codes, **kwargs):
    layer = VectorQuantizer(len(codes), seed=0, **kwargs)
    layer.build((None, None, len(codes[0])))
    layer.codebook.assign(codes)
    return layer


def test_takes_the_nearest_code():
    layer = with_codebook([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    x = np.array([[[0.9, 0.2], [0.1, -0.2], [0.0, 1.6]]], "float32")
    quantized, indices = layer(x)
    assert to_numpy(indices).tolist() == [[1, 0, 2]]
    np.testing.assert_allclose(to_numpy(quantized)[0], [[1, 0], [0, 0], [0, 3]], atol=1e-6)
    np.testing.assert_allclose(to_numpy(layer.decode(indices)), to_numpy(quantized), atol=1e-6)
    assert not layer.losses


def test_gradient_goes_straight_through():
    layer = with_codebook(vectors(5, 2))
    weights = vectors(1, 4, 2, seed=1)
    x = vectors(1, 4, 2, seed=2)
    (gradient,), _ = gradients(lambda x: ops.sum(ops.multiply(layer(x)[0], weights)), [x])
    np.testing.assert_allclose(gradient, weights, atol=1e-6)


def test_commitment_loss_is_the_mean_squared_distance():
    layer = with_codebook([[0.0], [10.0]], commitment_weight=2.0)
    layer(np.array([[[1.0], [8.0]]], "float32"), training=True)
    assert float(to_numpy(sum(layer.losses))) == pytest.approx(2.0 * (1.0 + 4.0) / 2)


def test_codebook_follows_the_moving_average():
    layer = with_codebook([[0.0], [10.0]], decay=0.5)
    layer.code_usage.assign([4.0, 4.0])
    layer.code_sum.assign([[0.0], [40.0]])
    layer(np.array([[[1.0], [2.0], [9.0]]], "float32"), training=True)
    # usage: 2 + 1, 2 + 0.5; sum: 0 + 1.5, 20 + 4.5
    expected = [[1.5 / 3.0], [24.5 / 2.5]]
    np.testing.assert_allclose(to_numpy(layer.codebook), expected, atol=1e-5)


def test_a_frozen_layer_s_codes_stay():
    layer = with_codebook(vectors(5, 2))
    layer.trainable = False
    layer(vectors(1, 40, 2, seed=1), training=True)
    np.testing.assert_array_equal(to_numpy(layer.codebook), vectors(5, 2))
    assert not layer.losses


def test_training_goes_on_from_codes_of_elsewhere():
    """Those of another codec: the first step must not take them all for unused."""
    layer = with_codebook(vectors(5, 2))
    layer.set_codebook(vectors(5, 2, seed=3))
    layer(vectors(1, 4, 2, seed=1), training=True)
    moved = np.abs(to_numpy(layer.codebook) - vectors(5, 2, seed=3)).max()
    assert 0.0 < moved < 0.2


def test_first_batch_fills_the_codebook_and_training_fits_it():
    layer = VectorQuantizer(16, decay=0.8, seed=0)
    x = vectors(4, 64, 2)
    layer(x, training=True)
    codes, pool = to_numpy(layer.codebook), x.reshape(-1, 2)
    nearest = np.abs(codes[:, None] - pool[None]).sum(-1).min(1)
    np.testing.assert_allclose(nearest, 0.0, atol=1e-5)
    for _ in range(60):
        layer(x, training=True)
    error = np.mean((to_numpy(layer(x)[0]) - x) ** 2)
    # Four levels for each coordinate alone, placed best (Lloyd-Max), leave 0.1175.
    assert error < 0.1175
    assert len(np.unique(to_numpy(layer.encode(x)))) == 16


def test_blind_to_padding():
    x = vectors(2, 6, 3)
    mask = np.array([[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1]], bool)
    results = []
    for filler in (0.0, np.nan, 1e6):
        layer = VectorQuantizer(4, seed=3)
        y, _ = layer(np.where(mask[..., None], x, filler), padding_mask=mask, training=True)
        results.append((to_numpy(y), to_numpy(layer.codebook), to_numpy(sum(layer.losses))))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert np.all(results[0][0][~mask] == 0.0)


def test_a_batch_of_padding_alone_changes_nothing():
    layer = with_codebook(vectors(4, 3))
    before = to_numpy(layer.codebook)
    layer(vectors(1, 2, 3), padding_mask=np.zeros((1, 2), bool), training=True)
    np.testing.assert_array_equal(to_numpy(layer.codebook), before)


@pytest.mark.slow_to_compile
def test_residual_levels_refine():
    layer = ResidualVectorQuantizer(4, 32, quantizer_dropout=0.0, decay=0.8, seed=0)
    x = vectors(8, 64, 4)
    for _ in range(60):
        layer(x, training=True)
    quantized, indices = layer(x)
    assert to_numpy(indices).shape == (8, 64, 4)
    np.testing.assert_array_equal(to_numpy(layer.encode(x)), to_numpy(indices))
    np.testing.assert_allclose(to_numpy(layer.decode(indices)), to_numpy(quantized), atol=1e-5)
    errors = [np.mean((to_numpy(layer.decode(indices[..., :n])) - x) ** 2) for n in (1, 2, 3, 4)]
    assert all(b < 0.6 * a for a, b in itertools.pairwise(errors)), errors


def test_commitment_gradient_reaches_the_input_from_every_level():
    # encodec issue 25: without a stop-gradient the levels past the first cancel out.
    layer = ResidualVectorQuantizer(3, 8, quantizer_dropout=0.0, seed=0)
    layer.build((None, None, 2))
    for number, level in enumerate(layer.levels):
        level.codebook.assign(vectors(8, 2, seed=number))
    x = vectors(1, 5, 2, seed=9)
    residual, expected = x, 0.0
    for level in layer.levels:
        chosen = to_numpy(level.decode(level.encode(residual)))
        expected = expected + 2.0 * (residual - chosen) / x.size / 3
        residual = residual - chosen

    collected = []
    for level in layer.levels:
        level.add_loss = collected.append

    def loss(inputs):
        layer(inputs, training=True)
        return sum(collected)

    (gradient,), _ = gradients(loss, [x])
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.slow_to_compile
def test_quantizer_dropout_uses_the_first_levels_only():
    layer = ResidualVectorQuantizer(4, 8, quantizer_dropout=1.0, seed=0)
    layer.build((None, None, 2))
    for number, level in enumerate(layer.levels):
        level.codebook.assign(vectors(8, 2, seed=number))
    x = np.repeat(vectors(1, 3, 2, seed=9), 64, axis=0)
    codes = layer.encode(x[:1])
    partial = [to_numpy(layer.decode(codes[..., :n]))[0] for n in range(1, 5)]
    used = []
    for row in to_numpy(layer(x, training=True)[0]):
        used.append([n for n in range(4) if np.allclose(row, partial[n], atol=1e-5)])
    assert all(len(numbers) == 1 for numbers in used)
    assert {numbers[0] for numbers in used} == {0, 1, 2, 3}


@pytest.mark.parametrize("layer", [VectorQuantizer(8), ResidualVectorQuantizer(2, 8)])
def test_config_round_trip(layer):
    clone = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert clone.get_config() == layer.get_config()


def test_bad_arguments():
    with pytest.raises(ValueError, match="codebook_size is 1; expected at least 2"):
        VectorQuantizer(1)
    layer = ResidualVectorQuantizer(2, 8)
    layer.build((None, None, 3))
    with pytest.raises(ValueError, match="3 levels; expected 1 to 2"):
        layer.decode(np.zeros((1, 4, 3), "int32"))
