import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from tiny_models import tiny_gemma

from keras_speechssm.evaluation.models.text_models import (
    TRIGRAM_VOCABULARY,
    KerasHubTextModel,
    TrigramTextModel,
)


@pytest.fixture(scope="module")
def trigram():
    pytest.importorskip("pocketsphinx")
    return TrigramTextModel()


def test_probabilities_of_all_known_words_sum_to_one(trigram):
    from pocketsphinx import get_model_path

    with open(get_model_path("en-us/cmudict-en-us.dict"), encoding="utf-8") as file:
        words = {line.split()[0].split("(")[0] for line in file} | {"<s>", "</s>"}
    for history in (["<s>"], ["the", "old"], ["of", "the"]):
        found = [trigram.log_probability(word, history) for word in words]
        known = [value for value in found if value is not None]
        assert np.exp(known).sum() == pytest.approx(1.0, abs=1e-3)
        assert len(known) == TRIGRAM_VOCABULARY


def test_order_matters_and_unknown_words_cost(trigram):
    text = "the old man went down to the river and looked at the water"
    nats, units = trigram.negative_log_likelihood(text)
    shuffled, _ = trigram.negative_log_likelihood(" ".join(reversed(text.split())))
    assert units == 13 and 3 < nats / units < 6 and shuffled > 1.5 * nats
    assert trigram.negative_log_likelihood("zxqv") == (pytest.approx(np.log(72546)), 1)
    assert trigram.negative_log_likelihood(" ") == (0.0, 0)
    assert trigram.negative_log_likelihood("The Old Man") == trigram.negative_log_likelihood(
        "the old man"
    )


class Numbers:
    """A tokenizer of numbers."""

    def __init__(self, start_token_id=1):
        if start_token_id is not None:
            self.start_token_id = start_token_id

    def __call__(self, text):
        return np.array([int(word) for word in text.split()], "int32")


class Preprocessor:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, *args, **kwargs):
        raise AssertionError("tokens were tokenized")


class CountingUp(keras.Model):
    """A bigram model: token t is followed by t + 1 with probability 0.9, else evenly."""

    def __init__(self, start_token_id=1):
        super().__init__()
        self.preprocessor = Preprocessor(Numbers(start_token_id))

    def call(self, inputs):
        likely = ops.one_hot((inputs["token_ids"] + 1) % 50, 50)
        return ops.log(0.9 * likely + 0.1 / 49 * (1.0 - likely))


@pytest.mark.parametrize("window", [4, 6, 1024])
def test_each_token_is_counted_once_in_windows_of_any_size(window):
    model = KerasHubTextModel(CountingUp(), window=window)
    text = " ".join(str(number) for number in (2, 3, 4, 9, 10, 11, 12, 13, 14, 20, 21))
    nats, units = model.negative_log_likelihood(text)
    # From the start token 1 on: nine steps of one, two jumps.
    assert units == 11
    assert nats == pytest.approx(-9 * np.log(0.9) - 2 * np.log(0.1 / 49), rel=1e-6)


def test_without_a_start_token_the_first_is_given():
    model = KerasHubTextModel(CountingUp(start_token_id=None))
    assert model.negative_log_likelihood("5 6") == (pytest.approx(-np.log(0.9), rel=1e-6), 1)
    assert model.negative_log_likelihood("5") == (0.0, 0)


def test_a_real_causal_lm_judges():
    backbone = tiny_gemma(50)
    real = keras_hub.models.GemmaCausalLM(backbone)
    real.preprocessor = Preprocessor(Numbers())
    nats, units = KerasHubTextModel(real, window=8).negative_log_likelihood("2 7 3")
    logits = real({"token_ids": np.array([[1, 2, 7]]), "padding_mask": np.ones((1, 3), "int32")})
    chances = keras.ops.convert_to_numpy(keras.ops.log_softmax(logits))[0]
    expected = -(chances[0, 2] + chances[1, 7] + chances[2, 3])
    assert units == 3 and nats == pytest.approx(float(expected), rel=1e-4)
