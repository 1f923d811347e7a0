"""Arguments of the language models: checked, converted, and KerasHub's spellings accepted."""

import keras
import keras_hub
import numpy as np
import pytest

from keras_speechssm.models.speech_language_model import (
    Sampling,
    align,
    read_count,
    read_prompts,
    read_sampler,
    read_seed,
)


def test_align_left_and_right_keep_order_and_pad_to_a_multiple():
    tokens = np.array([[0, 7, 0, 8, 9], [1, 2, 3, 4, 5]])
    mask = np.array([[False, True, False, True, True], [True] * 5])
    left, left_mask = align(tokens, mask, "left", 4)
    assert left.tolist() == [[7, 8, 9, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 0, 0, 0]]
    assert left_mask.sum(axis=1).tolist() == [3, 5]
    right, right_mask = align(tokens, mask, "right", 4)
    assert right.tolist() == [[0, 0, 0, 0, 0, 7, 8, 9], [0, 0, 0, 1, 2, 3, 4, 5]]
    assert right[right_mask].tolist() == [7, 8, 9, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("time", "expected"), [(1, 5), (5, 5), (6, 9)])
def test_align_with_extra_places(time, expected):
    tokens = np.ones((1, time), int)
    assert align(tokens, tokens > 0, "left", 4, extra=1)[0].shape == (1, expected)


@pytest.mark.parametrize(
    ("token_ids", "mask", "message"),
    [
        ([[[1]]], None, r"shape \(1, 1, 1\); expected integers of shape \(time,\) or \(batch"),
        (np.zeros((1, 0), int), None, "token_ids is empty"),
        ([], None, "token_ids is empty"),
        ([[0.5, 1.0]], None, "token_ids is float64 of shape"),
        ([[1, 2], [3]], None, "Pad its rows to one length"),
        ([[1, 13]], None, r"ids from 1 to 13; expected 0 to 12 \(a vocabulary of 13\)"),
        ([[-1, 3]], None, "ids from -1 to 3"),
        ([[1, 2]], [[True]], "mask of token_ids has shape"),
        ([[1, 2], [3, 4]], [[True, True], [False, False]], "Row 1 of token_ids is all padding"),
    ],
)
def test_bad_tokens_get_one_clear_line(token_ids, mask, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_prompts(token_ids, mask, 13)
    assert "\n" not in str(caught.value)


def test_padding_may_hold_any_ids():
    tokens, mask, batched = read_prompts([[99, 3]], [[False, True]], 13)
    assert tokens.tolist() == [[0, 3]] and mask.tolist() == [[False, True]] and batched
    tokens, mask, batched = read_prompts([99, 3], [False, True], 13)
    assert tokens.tolist() == [[0, 3]] and mask.tolist() == [[False, True]] and not batched


@pytest.mark.parametrize("value", [0, -1, 2.5, "many", None])
def test_bad_counts(value):
    with pytest.raises(ValueError, match="num_tokens is"):
        read_count("num_tokens", value)


@pytest.mark.parametrize("seed", [-1, 2**63, 0.5])
def test_bad_seeds(seed):
    with pytest.raises(ValueError, match="seed is"):
        read_seed(seed)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ((-0.1, None, None), "temperature is -0.1"),
        ((float("nan"), None, None), "temperature is nan"),
        (("hot", None, None), "temperature is 'hot'"),
        ((1.0, 0, None), "top_k is 0"),
        ((1.0, 14, None), "top_k is 14; expected an integer from 1 to 13"),
        ((1.0, 1.5, None), "top_k is 1.5"),
        ((1.0, None, 0.0), "top_p is 0.0"),
        ((1.0, None, 1.1), "top_p is 1.1"),
    ],
)
def test_bad_sampling_arguments(sampling, message):
    with pytest.raises(ValueError, match=message):
        Sampling(*sampling).check(13)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        ("greedy", Sampling(0.0)),
        ("random", Sampling(1.0)),
        (keras_hub.samplers.RandomSampler(temperature=0.7), Sampling(0.7)),
        ("top_k", Sampling(1.0, top_k=5)),
        (keras_hub.samplers.TopKSampler(k=3, temperature=0.5), Sampling(0.5, top_k=3)),
        (keras_hub.samplers.TopPSampler(p=0.8, k=7), Sampling(1.0, top_k=7, top_p=0.8)),
    ],
)
def test_keras_hub_s_samplers_are_settings(sampler, expected):
    assert read_sampler(sampler) == expected


@pytest.mark.parametrize("sampler", ["beam", "warm", "Greedy", 3, "contrastive"])
def test_other_samplers_are_refused_in_one_line(sampler):
    with pytest.raises(ValueError, match="'greedy', 'random', 'top_k' and 'top_p'") as caught:
        read_sampler(sampler)
    assert "\n" not in str(caught.value)
    named = {"beam": "BeamSampler", "contrastive": "ContrastiveSampler"}
    assert named.get(sampler, repr(sampler)) in str(caught.value)


def test_a_compiled_sampler_is_the_default_of_generate(model):
    prompt = np.array([[1, 2, 3]])
    greedy = model.generate(prompt, 12, temperature=0.0)
    sampled = model.generate(prompt, 12, seed=1)
    assert not np.array_equal(greedy, sampled)
    try:
        model.compile(sampler="greedy")
        np.testing.assert_array_equal(model.generate(prompt, 12, seed=1), greedy)
        np.testing.assert_array_equal(next(model.stream(prompt, 12, seed=1)), greedy)
        np.testing.assert_array_equal(model.generate(prompt, 12, 1.0, seed=1), sampled)
    finally:
        model.compile()
    np.testing.assert_array_equal(model.generate(prompt, 12, seed=1), sampled)


def test_a_compiled_model_is_cloned_as_keras_hub_s_are(model):
    try:
        model.compile(loss="mse", sampler="top_p")
        clone = keras.models.clone_model(model)
    finally:
        model.compile()
    assert not isinstance(clone, type(model)) and clone.loss == "mse"
    assert clone.output.shape == model.output.shape


def test_a_single_prompt_needs_no_batch_axis(model):
    prompt = np.array([1, 2, 3])
    expected = model.generate(prompt[None], 12, seed=1)[0]
    np.testing.assert_array_equal(model.generate(prompt, 12, seed=1), expected)
    blocks = list(model.stream(prompt, 5, seed=1, num_tokens=12))
    np.testing.assert_array_equal(np.concatenate(blocks), expected)
    np.testing.assert_array_equal(
        model.log_probabilities(prompt), model.log_probabilities(prompt[None])[0]
    )
    assert model.score(prompt).shape == ()
    assert model.score(prompt) == model.score(prompt[None])[0]


def test_lengths_and_prompts_as_keras_hub_counts_them(model):
    prompt = np.array([[1, 2, 3], [4, 5, 0]])
    mask = np.array([[True, True, True], [True, True, False]])
    expected = model.generate(prompt, 7, seed=1, padding_mask=mask)
    whole = model.generate(prompt, max_length=10, seed=1, padding_mask=mask, strip_prompt=False)
    np.testing.assert_array_equal(whole, np.concatenate([prompt, expected], axis=1))
    with pytest.raises(ValueError, match="max_length is 3, but the longest prompt has 3 tokens"):
        model.generate(prompt, max_length=3)
    for both in ({}, {"num_tokens": 2, "max_length": 9}):
        with pytest.raises(ValueError, match="either num_tokens or max_length"):
            model.generate(prompt, **both)


def test_keras_seed_decides_where_none_is_given(model):
    def draw():
        return model.generate(np.array([[1, 2, 3]]), 12)

    keras.utils.set_random_seed(7)
    first, second = draw(), draw()
    keras.utils.set_random_seed(7)
    np.testing.assert_array_equal(draw(), first)
    np.testing.assert_array_equal(draw(), second)
    assert not np.array_equal(first, second)


def test_fit_without_targets_or_preprocessor_says_what_to_pass(model):
    preprocessor, model.preprocessor = model.preprocessor, None
    try:
        for x in (np.array([[1, 2, 3]]), {"token_ids": np.array([[1, 2, 3]])}):
            with pytest.raises(ValueError, match=r"y=tokens\[:, 1:\]"):
                model.fit(x)
    finally:
        model.preprocessor = preprocessor
