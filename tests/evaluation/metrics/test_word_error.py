import math

import pytest

from keras_speechssm.evaluation.metrics.word_error import (
    error_rate,
    mutual_word_error_rate,
    normalize_words,
    word_error_rate,
)

pytestmark = pytest.mark.any_backend

pytest.importorskip("rapidfuzz")


def test_errors_count_per_reference_item():
    references, hypotheses = [["a", "b", "c"], ["d"]], [["a", "c", "c", "e"], []]
    assert error_rate(references, hypotheses) == 3 / 4
    assert error_rate(references, references) == 0.0
    with pytest.raises(ValueError, match="2 references .4 items. and 1 hypotheses"):
        error_rate(references, [["a"]])
    with pytest.raises(ValueError, match="at least one reference item"):
        error_rate([[]], [["a"]])


def test_words_compare_without_case_punctuation_and_spelling():
    pytest.importorskip("whisper_normalizer")
    assert normalize_words("The COLOUR, um, isn't gray -- twenty-one!") == [
        *("the", "color", "is", "not", "gray", "21")
    ]
    assert word_error_rate(["It's a mill."], ["it is a MILL"]) == 0.0
    assert word_error_rate(["one long river"], ["one river"]) == 1 / 3


def test_disagreement_is_symmetric():
    pytest.importorskip("whisper_normalizer")
    first, second = ["the old man", "spoke"], ["the old woman sat", "spoke"]
    assert mutual_word_error_rate(first, second) == 2 / 4.5
    assert mutual_word_error_rate(second, first) == 2 / 4.5
    assert mutual_word_error_rate(first, first) == 0.0
    assert mutual_word_error_rate(["a word"], [""]) == 2.0
    assert math.isnan(mutual_word_error_rate([""], [""]))
