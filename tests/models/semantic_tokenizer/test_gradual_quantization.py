import numpy as np
from gradient import gradients
from keras import ops

from keras_speechssm.layers.vector_quantizer import VectorQuantizer
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer_pretraining import (
    GradualQuantization,
)


def make_quantizer(fraction):
    layer = GradualQuantization(VectorQuantizer(codebook_size=8, seed=0), seed=0)
    layer.build((None, None, 3))
    layer.quantized_fraction.assign(fraction)
    return layer


def vectors(*shape):
    return np.random.default_rng(0).normal(size=(*shape, 3)).astype("float32")


def test_fraction_of_positions_is_quantized_in_training_only():
    x = vectors(4, 500)
    for fraction in (0.0, 0.3, 1.0):
        layer = make_quantizer(fraction)
        expected = ops.convert_to_numpy(layer.quantizer.decode(layer.quantizer.encode(x)))
        everything, _ = layer(x)
        np.testing.assert_allclose(ops.convert_to_numpy(everything), expected, atol=1e-5)
        found = ops.convert_to_numpy(layer(x, training=True)[0])
        unchanged = np.isclose(found, x, atol=1e-5).all(axis=-1)
        assert abs(unchanged.mean() - (1 - fraction)) < 0.05
        np.testing.assert_allclose(found[~unchanged], expected[~unchanged], atol=1e-5)


def test_commitment_pulls_with_the_fraction_of_its_force():
    x = vectors(2, 6)

    def pull(layer):
        # Not layer.losses: JAX's gradient runs in a scope that does not collect them.
        collected = []
        getattr(layer, "quantizer", layer).add_loss = collected.append

        def loss(x):
            layer(x, training=True)
            return collected.pop()

        return gradients(loss, [x])[0][0]

    plain = VectorQuantizer(codebook_size=8, seed=0)
    plain.build((None, None, 3))
    whole = pull(plain)
    assert np.abs(whole).max() > 0
    for fraction in (0.0, 0.25, 1.0):
        np.testing.assert_allclose(pull(make_quantizer(fraction)), fraction * whole, atol=1e-6)


def test_gradients_pass_straight_through_whatever_the_fraction():
    x, weights = vectors(2, 6), vectors(2, 6)[::-1].copy()
    constant = ops.convert_to_tensor(weights)
    for fraction in (0.0, 0.5, 1.0):
        layer = make_quantizer(fraction)
        (gradient,), _ = gradients(
            lambda x, layer=layer: ops.sum(layer(x, training=True)[0] * constant), [x]
        )
        np.testing.assert_allclose(gradient, weights, atol=1e-6)


def test_padding_is_not_seen():
    x, mask = vectors(1, 6), np.array([[True] * 4 + [False] * 2])
    x[0, 4:] = np.nan
    layer = make_quantizer(0.5)
    found, _ = layer(x, padding_mask=ops.convert_to_tensor(mask), training=True)
    found = ops.convert_to_numpy(found)
    assert np.isfinite(found).all() and not found[0, 4:].any()
    assert np.isfinite(ops.convert_to_numpy(layer.quantizer.codebook)).all()
