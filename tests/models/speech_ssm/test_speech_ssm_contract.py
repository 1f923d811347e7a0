"""The sequence contract on the whole model, past its window of 6 tokens."""

import keras
import numpy as np
import pytest
from contract import verify_sequence_contract
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_speechssm.compilation import compile_inference
from keras_speechssm.models.generation import reorder_state

VOCABULARY, BATCH, TIME = 13, 2, 24


def tokens_of(batch, time, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, (batch, time)).astype("int32")


@pytest.fixture(scope="module")
def advance(model):
    """`model.advance` with NumPy tokens and masks, compiled for each length of chunk."""
    compiled = compile_inference(model, model.advance)

    def run(token_ids, state, *masks):
        arrays = [ops.convert_to_tensor(np.ascontiguousarray(x)) for x in (token_ids, *masks)]
        logits, state = compiled(arrays[0], state, *arrays[1:])
        return ops.convert_to_numpy(logits), state

    return run


@pytest.mark.slow
def test_sequence_contract(model):
    def call(x, padding_mask=None, reset_mask=None):
        return model({"token_ids": x, "padding_mask": padding_mask, "reset_mask": reset_mask})

    verify_sequence_contract(
        model,
        lambda rng, batch, time: rng.integers(0, VOCABULARY, (batch, time)).astype("int32"),
        call=call,
        block_sizes=((5, 3),),
        tolerance=1e-4,
    )


@st.composite
def masks(draw):
    """Padding to the left, to the right or anywhere, and documents that start anywhere."""
    bits = st.lists(st.booleans(), min_size=BATCH * TIME, max_size=BATCH * TIME)
    kind = draw(st.sampled_from(["none", "left", "right", "anywhere"]))
    lengths = np.array(draw(st.tuples(*[st.integers(1, TIME)] * BATCH)))[:, None]
    steps = np.arange(TIME)[None]
    padding = {
        "none": np.ones((BATCH, TIME), bool),
        "left": steps >= TIME - lengths,
        "right": steps < lengths,
        "anywhere": np.array(draw(bits)).reshape(BATCH, TIME),
    }[kind]
    starts = st.tuples(st.integers(0, BATCH - 1), st.integers(0, TIME - 1))
    reset = np.zeros((BATCH, TIME), bool)
    for row, step in draw(st.lists(starts, max_size=4)):
        reset[row, step] = True
    return padding, reset


@settings(max_examples=25, derandomize=True)
@given(cuts=st.lists(st.integers(1, 7), min_size=TIME, max_size=TIME), masks=masks())
def test_chunks_of_any_sizes_give_one_whole_forward(model, whole, advance, cuts, masks):
    tokens, (padding, reset) = tokens_of(BATCH, TIME), masks
    expected = whole(tokens, padding_mask=padding, reset_mask=reset)
    state, chunks, start = model.initial_state(BATCH), [], 0
    for size in cuts:
        part = np.s_[:, start : min(start + size, TIME)]
        if tokens[part].size:
            logits, state = advance(tokens[part], state, padding[part], reset[part])
            chunks.append(logits)
        start += size
    found = np.concatenate(chunks, axis=1)
    np.testing.assert_allclose(found[padding], expected[padding], atol=1e-4)


def test_rows_of_a_state_can_be_reordered_repeated_and_dropped(model, whole, advance):
    first, more = tokens_of(3, 11), tokens_of(4, 9, seed=1)
    order = [2, 0, 0, 1]
    _, state = advance(first, model.initial_state(3))
    logits, _ = advance(more, reorder_state(state, order))
    expected = whole(np.concatenate([first[order], more], axis=1))[:, 11:]
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    unchanged, _ = advance(more[:3], state)
    expected = whole(np.concatenate([first, more[:3]], axis=1))[:, 11:]
    np.testing.assert_allclose(unchanged, expected, atol=1e-4)


def test_beams_go_on_from_a_generation(model):
    state = model.start_generation(tokens_of(2, 9), seed=0)
    beams, logits = reorder_state((state.model, state.logits), [1, 1, 0])
    tokens, _ = model.continue_generation(
        state._replace(model=beams, logits=logits), 12, temperature=0.0
    )
    expected, _ = model.continue_generation(state, 12, temperature=0.0)
    np.testing.assert_array_equal(tokens, expected[[1, 1, 0]])


def test_repeated_rows_are_equal_rows(whole):
    row = tokens_of(1, TIME)
    found = whole(np.repeat(row, 3, axis=0))
    np.testing.assert_allclose(found, np.repeat(whole(row), 3, axis=0), atol=1e-5)


def test_state_of_a_model_has_the_batch_first(model):
    assert {leaf.shape[0] for leaf in keras.tree.flatten(model.initial_state(3))} == {3}
