import numpy as np
import pytest

from keras_speechssm.models import speech_language_model as requests


def test_align_left_and_right_keep_order_and_pad_to_a_multiple():
    tokens = np.array([[0, 7, 0, 8, 9], [1, 2, 3, 4, 5]])
    mask = np.array([[False, True, False, True, True], [True] * 5])
    left, left_mask = requests.align(tokens, mask, "left", 4)
    assert left.tolist() == [[7, 8, 9, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 0, 0, 0]]
    assert left_mask.sum(axis=1).tolist() == [3, 5]
    right, right_mask = requests.align(tokens, mask, "right", 4)
    assert right.tolist() == [[0, 0, 0, 0, 0, 7, 8, 9], [0, 0, 0, 1, 2, 3, 4, 5]]
    assert right[right_mask].tolist() == [7, 8, 9, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("time", "expected"), [(1, 5), (5, 5), (6, 9)])
def test_align_with_extra_places(time, expected):
    tokens = np.ones((1, time), int)
    assert requests.align(tokens, tokens > 0, "left", 4, extra=1)[0].shape == (1, expected)


@pytest.mark.parametrize(
    ("token_ids", "mask", "message"),
    [
        ([1, 2, 3], None, r"shape \(3,\); give \(batch, time\)"),
        (np.zeros((1, 0), int), None, "token_ids is empty"),
        ([[0.5, 1.0]], None, "dtype float64; give integers"),
        ([[1, 2], [3]], None, "pad its rows to one length"),
        ([[1, 13]], None, "ids from 1 to 13; this model's vocabulary is 0 to 12"),
        ([[-1, 3]], None, "ids from -1 to 3"),
        ([[1, 2]], [[True]], "padding_mask has shape"),
        ([[1, 2], [3, 4]], [[True, True], [False, False]], "Prompt 1 of token_ids is empty"),
    ],
)
def test_bad_tokens_get_one_clear_line(token_ids, mask, message):
    with pytest.raises(ValueError, match=message) as caught:
        requests.read_tokens(token_ids, mask, 13)
    assert "\n" not in str(caught.value)


def test_padding_may_hold_any_ids():
    tokens, mask = requests.read_tokens([[99, 3]], [[False, True]], 13)
    assert tokens.tolist() == [[0, 3]] and mask.tolist() == [[False, True]]


@pytest.mark.parametrize("value", [0, -1, 2.5, "many", None])
def test_bad_counts(value):
    with pytest.raises(ValueError, match="num_tokens is"):
        requests.read_count("num_tokens", value)


@pytest.mark.parametrize("seed", [-1, 2**63, 0.5])
def test_bad_seeds(seed):
    with pytest.raises(ValueError, match="seed is"):
        requests.read_seed(seed)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ((-0.1, None, None), "temperature is -0.1"),
        ((float("nan"), None, None), "temperature is nan"),
        (("hot", None, None), "temperature is hot"),
        ((1.0, 0, None), "top_k is 0"),
        ((1.0, 14, None), "top_k is 14; give an integer from 1 to 13"),
        ((1.0, 1.5, None), "top_k is 1.5"),
        ((1.0, None, 0.0), "top_p is 0.0"),
        ((1.0, None, 1.1), "top_p is 1.1"),
    ],
)
def test_bad_sampling_arguments(sampling, message):
    with pytest.raises(ValueError, match=message):
        requests.check_sampling(*sampling, 13)
