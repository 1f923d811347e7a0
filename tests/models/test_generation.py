import keras
import numpy as np
import pytest
from keras import ops

from keras_speechssm.models.generation import (
    draw_uniforms,
    load_generation_state,
    sample_tokens,
    save_generation_state,
)

LOGITS = np.log(np.array([0.5, 0.2, 0.15, 0.1, 0.05], "float32"))


def draw_many(count=4000, temperature=1.0, top_k=None, top_p=None):
    """Fractions of the tokens over evenly spread uniform numbers."""
    uniform = (np.arange(count, dtype="float32") + 1) / count
    logits = np.repeat(LOGITS[None], count, axis=0)
    if top_p is not None:
        top_p = ops.convert_to_tensor(top_p, dtype="float32")
    tokens = sample_tokens(
        ops.convert_to_tensor(logits),
        ops.convert_to_tensor(uniform),
        ops.convert_to_tensor(temperature, dtype="float32"),
        top_k,
        top_p,
    )
    return np.bincount(ops.convert_to_numpy(tokens), minlength=5) / count


def test_samples_follow_the_distribution():
    np.testing.assert_allclose(draw_many(), np.exp(LOGITS), atol=1e-3)


def test_temperature_sharpens_to_the_likeliest_token():
    squared = np.exp(2 * LOGITS) / np.exp(2 * LOGITS).sum()
    np.testing.assert_allclose(draw_many(temperature=0.5), squared, atol=1e-3)
    np.testing.assert_array_equal(draw_many(temperature=0.0), [1, 0, 0, 0, 0])


def test_top_k_keeps_the_k_likeliest():
    np.testing.assert_allclose(draw_many(top_k=2), [5 / 7, 2 / 7, 0, 0, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1e-46, 1), (0.1, 1), (0.4999, 1), (0.5001, 2), (0.8499, 3), (0.8501, 4), (1.0, 5)],
)
def test_top_p_keeps_the_fewest_that_reach_it(top_p, kept):
    expected = np.where(np.arange(5) < kept, np.exp(LOGITS), 0)
    np.testing.assert_allclose(draw_many(top_p=top_p), expected / expected.sum(), atol=1e-3)


def test_impossible_tokens_are_never_drawn_at_the_ends_of_the_range():
    logits = ops.convert_to_tensor(np.array([[-1e30, 0.0, 0.0, -1e30]] * 2, "float32"))
    one = ops.convert_to_tensor(1.0, dtype="float32")
    ends = ops.convert_to_tensor(np.array([2.0**-24, 1.0], "float32"))
    assert ops.convert_to_numpy(sample_tokens(logits, ends, one)).tolist() == [1, 2]


def test_uniforms_depend_on_seed_session_and_token_only():
    whole = draw_uniforms(seed=3, batch_size=4, start=0, count=50)
    assert whole.shape == (50, 4) and whole.dtype == np.float32
    assert whole.min() > 0 and whole.max() <= 1
    np.testing.assert_array_equal(draw_uniforms(3, 4, 17, 20), whole[17:37])
    np.testing.assert_array_equal(draw_uniforms(3, 1, 0, 50), whole[:, :1])
    assert not np.array_equal(draw_uniforms(4, 4, 0, 50), whole)
    assert len(np.unique(whole)) > 190  # sessions do not share numbers


def test_uniforms_are_uniform():
    numbers = draw_uniforms(0, 1, 0, 20000)[:, 0]
    counts = np.histogram(numbers, bins=10, range=(0, 1))[0]
    assert abs(counts - 2000).max() < 200  # 4.7 standard deviations


def test_state_from_a_file_goes_on_to_the_same_tokens(model, tmp_path):
    state = model.start_generation(np.array([[1, 2, 3], [4, 5, 6]]), seed=5)
    expected, _ = model.continue_generation(state, 30)
    first, state = model.continue_generation(state, 11)
    save_generation_state(state, tmp_path / "state.npz")
    loaded = load_generation_state(model, tmp_path / "state.npz")
    assert (loaded.num_generated, loaded.seed) == (11, 5)
    rest, _ = model.continue_generation(loaded, 19)
    np.testing.assert_array_equal(np.concatenate([first, rest], axis=1), expected)


def test_going_on_from_a_state_leaves_it_as_it_was(model):
    state = model.start_generation(np.array([[1, 2, 3]]), seed=5)
    first, _ = model.continue_generation(state, 300)  # more than one block
    streamed = list(model.stream(state=state, block_size=100, num_tokens=300))
    again, _ = model.continue_generation(state, 300)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(np.concatenate(streamed, axis=1), first)


def test_state_of_another_model_is_refused(model, tmp_path):
    state = model.start_generation(np.array([[1, 2, 3]]), seed=5)
    smaller = state._replace(logits=state.logits[:, :5])
    save_generation_state(smaller, tmp_path / "state.npz")
    with pytest.raises(ValueError, match="does not fit this model"):
        load_generation_state(model, tmp_path / "state.npz")


@pytest.mark.parametrize("damage", ["cut", "text", "other arrays", "no array"])
def test_a_file_that_is_no_state_is_refused_in_one_line(model, tmp_path, damage):
    path = tmp_path / "state.npz"
    save_generation_state(model.start_generation(np.array([[1, 2, 3]]), seed=5), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.npz"]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("no arrays")
    elif damage == "no array":
        np.savez(path, leaf_0=1.0, num_generated=0, seed=0)
    else:
        np.savez(path, tokens=np.zeros(3))
    with pytest.raises(ValueError, match="is damaged or is not the state of a generation.$"):
        load_generation_state(model, path)


def test_state_is_a_structure_of_arrays_of_fixed_shapes(model):
    state = model.start_generation(np.array([[1, 2, 3]]), seed=0)
    _, later = model.continue_generation(state, 40)
    shapes = [tuple(leaf.shape) for leaf in keras.tree.flatten(state.model)]
    assert [tuple(leaf.shape) for leaf in keras.tree.flatten(later.model)] == shapes
    assert len(shapes) > 3


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="a mode of JAX")
def test_tokens_are_the_same_in_the_64_bit_mode_of_jax(model):
    import jax

    prompt, settings = np.array([[1, 2, 3]]), {"top_k": 5, "top_p": 0.9, "seed": 1}
    expected = model.generate(prompt, 20, **settings)
    with jax.enable_x64(True):
        found = model.generate(prompt, 20, **settings)
        score = model.score(prompt)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(score, model.score(prompt), rtol=1e-5)
