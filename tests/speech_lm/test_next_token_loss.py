import keras
import numpy as np
import pytest
from gradient import gradients

from keras_speechssm.speech_lm.next_token_loss import NextTokenCrossEntropy


@pytest.mark.parametrize("time", [1, 7])
def test_value_and_gradient_are_those_of_keras(time):
    rng = np.random.default_rng(0)
    logits = 4 * rng.normal(size=(3, time, 11)).astype("float32")
    tokens = rng.integers(0, 11, (3, time))
    weights = rng.uniform(size=(3, time)).astype("float32")

    found = []
    for loss in (
        NextTokenCrossEntropy(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ):

        def value(logits, loss=loss):
            return loss(tokens, logits, sample_weight=weights)

        (gradient,), _ = gradients(value, [logits])
        found.append((keras.ops.convert_to_numpy(value(logits)), gradient))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-6)


def test_survives_a_round_trip_of_its_config():
    loss = NextTokenCrossEntropy(reduction="sum")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(again, NextTokenCrossEntropy) and again.reduction == "sum"
