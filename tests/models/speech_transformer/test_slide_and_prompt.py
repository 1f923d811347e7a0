import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_speechssm.models.speech_transformer.slide_and_prompt import SlideAndPrompt


class CountsUp:
    """Continues with the next numbers, and records its arguments."""

    max_length = 20

    def __init__(self):
        self.asked = []

    def stream(self, token_ids, num_tokens, seed, **sampling):
        assert token_ids.shape[1] + num_tokens <= self.max_length
        self.asked.append((token_ids.shape[1], num_tokens, seed, sampling))
        last = token_ids[:, -1:]
        for start in range(0, num_tokens, 7):
            steps = np.arange(start, min(start + 7, num_tokens))
            yield (last + 1 + steps).astype("int32")


def test_it_goes_on_from_the_end_without_a_gap():
    model = CountsUp()
    blocks = SlideAndPrompt(model, prompt_tokens=5).stream(
        np.array([[1, 2, 3], [101, 102, 103]]), block_size=8, num_tokens=60, seed=3, top_k=4
    )
    found = np.concatenate(list(blocks), axis=1)
    np.testing.assert_array_equal(found, [np.arange(4, 64), np.arange(104, 164)])
    assert [(prompt, new) for prompt, new, *_ in model.asked] == [(3, 17)] + [(5, 15)] * 3
    assert len({seed for *_, seed, _ in model.asked}) == 4
    assert all(sampling == {"top_k": 4} for *_, sampling in model.asked)


@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 50))
def test_blocks_of_any_size_hold_the_same_tokens(block_size, prompt, wanted):
    blocks = list(
        SlideAndPrompt(CountsUp(), prompt_tokens=4).stream(
            np.arange(prompt)[None], block_size=block_size, num_tokens=wanted, seed=0
        )
    )
    assert all(block.shape[1] == block_size for block in blocks[:-1])
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1)[0], prompt + np.arange(wanted))


def test_a_single_prompt_gives_blocks_without_a_batch_axis():
    model = SlideAndPrompt(CountsUp(), prompt_tokens=5)
    blocks = list(model.stream(np.array([1, 2, 3]), block_size=8, num_tokens=30, seed=3))
    np.testing.assert_array_equal(np.concatenate(blocks), np.arange(4, 34))


def test_without_a_number_it_has_no_end():
    stream = SlideAndPrompt(CountsUp(), prompt_tokens=4).stream(np.array([[0]]), block_size=3)
    assert [int(next(stream)[0, 0]) for _ in range(30)] == list(range(1, 91, 3))


@pytest.mark.parametrize("limit", [4, 3, 0])
def test_a_limit_without_room_is_refused(limit):
    with pytest.raises(ValueError, match="needs a limit above"):
        SlideAndPrompt(CountsUp(), limit=limit, prompt_tokens=4)
    with pytest.raises(ValueError, match="needs a limit above"):
        SlideAndPrompt(object())


def test_what_the_models_refuse_is_refused_at_once():
    extended = SlideAndPrompt(CountsUp(), prompt_tokens=4)
    for wrong in ({"block_size": 0}, {"num_tokens": 0}, {"num_tokens": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            extended.stream(np.array([[1]]), **wrong)
    for tokens in ([[[1]]], [[1.5]], [[]]):
        with pytest.raises(ValueError, match="token_ids"):
            extended.stream(np.array(tokens))
