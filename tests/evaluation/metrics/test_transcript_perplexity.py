import math

import pytest

from keras_speechssm.evaluation.metrics.transcript_perplexity import transcript_perplexity

pytestmark = pytest.mark.any_backend


class Model:
    name, unit = "letters", "word"

    def negative_log_likelihood(self, text):
        words = text.split()
        return float(sum(map(len, words))), len(words)


def test_nats_and_their_exponential_have_names_of_their_own():
    found = transcript_perplexity(["aa aaaa", "a", ""], Model())
    assert found["nll_nats_per_unit"] == 2.0  # the mean of 3 and 1
    assert found["perplexity_per_unit"] == pytest.approx(math.exp(2))
    assert found["pooled_nll_nats_per_unit"] == pytest.approx(7 / 3)
    assert (found["num_units"], found["num_texts"], found["num_empty"]) == (3, 3, 1)
    assert (found["unit"], found["text_model"]) == ("word", "letters")


def test_only_empty_texts_give_no_number():
    assert math.isnan(transcript_perplexity(["", " "], Model())["nll_nats_per_unit"])
