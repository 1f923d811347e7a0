import keras
import numpy as np
import pytest
from keras import ops

from keras_speechssm.models import SoundStorm
from keras_speechssm.models.soundstorm.decoding import (
    DecodingRequest,
    decode_levels,
    fill_most_confident,
    make_decode_pass,
    read_request,
)

LEVELS, CODES = 3, 7


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = SoundStorm(
        semantic_vocabulary_size=11,
        num_levels=LEVELS,
        codebook_size=CODES,
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
    )
    # Untrained heads are all but even; sharper ones make a choice depend on its inputs.
    model.level_heads.kernel.assign(model.level_heads.kernel * 15.0)
    return model


def tokens(*shape, high=11, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape)


def fill(logits, masked, num_remask, uniform=None, temperature=0.0, level=1):
    batch, frames, _ = logits.shape
    acoustic = np.full((batch, frames, LEVELS), CODES, "int32")
    uniform = np.zeros((batch, frames)) if uniform is None else uniform
    arrays = fill_most_confident(
        ops.convert_to_tensor(logits.astype("float32")),
        ops.convert_to_tensor(acoustic),
        ops.convert_to_tensor(masked),
        ops.convert_to_tensor(np.full((batch,), level, "int32")),
        ops.convert_to_tensor(np.array(num_remask, "int32")),
        ops.convert_to_tensor(uniform.astype("float32")),
        ops.convert_to_tensor(np.float32(temperature)),
        CODES,
    )
    return [ops.convert_to_numpy(array) for array in arrays]


def test_a_pass_keeps_the_most_confident_and_touches_nothing_else():
    logits = np.zeros((1, 5, CODES))
    logits[0, np.arange(5), [3, 1, 4, 1, 5]] = [0.1, 5.0, 1.0, 3.0, 2.0]
    masked = np.array([[True, True, True, False, True]])
    acoustic, remask = fill(logits, masked, [2])
    np.testing.assert_array_equal(acoustic[0, :, 1], [CODES, 1, CODES, CODES, 5])
    np.testing.assert_array_equal(remask[0], [True, False, True, False, False])
    assert (acoustic[0, :, [0, 2]] == CODES).all()


def test_samples_follow_the_softmax_at_a_temperature():
    frames = 20_000
    logits = np.tile(np.log([0.5, 0.25, 0.125, 0.125, 1e-9, 1e-9, 1e-9]), (1, frames, 1))
    uniform = np.random.default_rng(0).random((1, frames))
    everything = np.ones((1, frames), dtype=bool)
    for temperature in (1.0, 0.5):
        acoustic, _ = fill(logits, everything, [0], uniform, temperature)
        weights = np.array([0.5, 0.25, 0.125, 0.125, 0, 0, 0]) ** (1 / temperature)
        found = np.bincount(acoustic[0, :, 1], minlength=CODES) / frames
        np.testing.assert_allclose(found, weights / weights.sum(), atol=0.015)


def test_the_schedule_is_followed_level_by_level():
    # A stand-in for the model records what is hidden at each pass.
    seen = []

    def decode_pass(inputs, masked, counts, uniform, temperature):
        level = ops.convert_to_numpy(inputs["level"])
        acoustic = ops.convert_to_numpy(inputs["acoustic_tokens"])
        masked = ops.convert_to_numpy(masked)
        hidden = (acoustic == CODES).sum(axis=(0, 1))
        seen.append((int(level[0]), masked.sum(), hidden, float(temperature)))
        rank = np.cumsum(masked, axis=1) * masked
        keep = rank > ops.convert_to_numpy(counts)[:, None]
        acoustic = acoustic.copy()
        acoustic[keep, int(level[0])] = 1
        return acoustic, masked & ~keep

    content = np.ones((1, 10), dtype=bool)
    request = DecodingRequest(
        semantic_tokens=np.zeros((1, 5), "int32"),
        acoustic_tokens=np.full((1, 10, LEVELS), CODES, "int32"),
        padding_mask=content,
        content_mask=content,
        content_frames=slice(0, 10),
        batched=True,
        seeds=[0],
        iterations=(16, 1, 2),
        temperature=0.7,
        guidance_scales=(1.0, 1.0, 1.0),
    )
    result = decode_levels(decode_pass, request)
    assert (result == 1).all()
    assert [level for level, *_ in seen] == [0] * 16 + [1, 2, 2]
    by_hand = [10, 9, 9, 9, 9, 8, 8, 7, 7, 6, 5, 4, 3, 2, 1, 0]
    assert [count for level, count, *_ in seen if level == 0] == by_hand
    np.testing.assert_array_equal(seen[16][2], [0, 10, 10])
    np.testing.assert_allclose(
        [temperature for *_, temperature in seen], [0.7] * 15 + [0, 0, 0.7, 0]
    )


def test_generate_fills_every_token_with_a_code(model):
    acoustic = model.generate(tokens(2, 6), seed=0)
    assert acoustic.shape == (2, 12, LEVELS) and acoustic.dtype == np.int32
    assert acoustic.min() >= 0 and acoustic.max() < CODES
    single = model.generate(tokens(2, 6)[0], seed=0)
    np.testing.assert_array_equal(single, acoustic[0])


@pytest.mark.slow_to_compile
def test_the_prompt_conditions_and_stays(model):
    prompt_semantic, prompt_acoustic = tokens(4, seed=1), tokens(8, LEVELS, high=CODES, seed=2)
    settings = dict(seed=0, iterations=(2, 1, 1), temperature=1.0, guidance_scale=1.0)
    request = read_request(
        model, tokens(1, 6), prompt_semantic, prompt_acoustic, None, None, **settings
    )
    run, windows = make_decode_pass(model), []

    def recorded(*arguments):
        acoustic, masked = run(*arguments)
        windows.append(ops.convert_to_numpy(acoustic))
        return acoustic, masked

    filled = decode_levels(recorded, request)
    assert len(windows) == 2 + 1 + 1
    for window in windows:
        np.testing.assert_array_equal(window[0, :8], prompt_acoustic)
    with_prompt = model.generate(tokens(1, 6), prompt_semantic, prompt_acoustic, **settings)
    assert with_prompt.shape == (1, 12, LEVELS)
    np.testing.assert_array_equal(filled[:, 8:], with_prompt)
    other = (prompt_acoustic + 3) % CODES
    assert (model.generate(tokens(1, 6), prompt_semantic, other, **settings) != with_prompt).any()


@pytest.mark.slow_to_compile
def test_guidance_draws_the_logits_away_from_those_without_words(model):
    semantic, content = tokens(2, 6), np.ones((2, 20), dtype=bool)
    prompt = tokens(4, seed=1), tokens(8, LEVELS, high=CODES, seed=2)
    window = np.concatenate([np.tile(prompt[0], (2, 1)), semantic], axis=1)

    def logits(semantic, acoustic, level):
        inputs = {
            "semantic_tokens": semantic.astype("int32"),
            "acoustic_tokens": acoustic.astype("int32"),
            "level": np.full((2,), level, "int32"),
            "padding_mask": content,
        }
        made = model({name: ops.convert_to_tensor(array) for name, array in inputs.items()})
        return ops.convert_to_numpy(made)

    def by_hand(scale):
        acoustic = np.full((2, 20, LEVELS), CODES)
        acoustic[:, :8] = prompt[1]
        scales = np.broadcast_to(scale, (LEVELS,))
        for level in range(LEVELS):
            seen = logits(window, acoustic, level)
            # The prompt's words are hidden too, its sound is not.
            hidden = logits(np.full_like(window, 11), acoustic, level)
            guided = hidden + scales[level] * (seen - hidden)
            acoustic[:, 8:, level] = guided.argmax(axis=-1)[:, 8:]
        return acoustic[:, 8:]

    settings = dict(iterations=(1, 1, 1), seed=0)
    results = {
        scale: model.generate(semantic, *prompt, guidance_scale=scale, **settings)
        for scale in (0.0, 1.0, 3.0, (3.0, 1.0, 0.0))
    }
    for scale, result in results.items():
        np.testing.assert_array_equal(result, by_hand(scale))
    assert (results[3.0] != results[1.0]).any() and (results[1.0] != results[0.0]).any()
    other = model.generate(tokens(2, 6, seed=9), *prompt, guidance_scale=0.0, **settings)
    np.testing.assert_array_equal(other, results[0.0])


def test_same_seed_same_tokens(model):
    def generate(**arguments):
        return model.generate(tokens(1, 20), iterations=(4, 1, 1), **arguments)

    keras.utils.set_random_seed(2)
    drawn = generate()
    keras.utils.set_random_seed(2)
    np.testing.assert_array_equal(generate(), drawn)
    first = generate(seed=5)
    np.testing.assert_array_equal(generate(seed=5), first)
    assert (generate(seed=6) != first).any()
    assert (generate() != generate()).any()
    greedy = generate(temperature=0.0, seed=5)
    np.testing.assert_array_equal(generate(temperature=0.0, seed=6), greedy)


@pytest.mark.parametrize(("seeds", "guidance_scale"), [(7, 1.0), ([7, 8, 9], 1.0), (7, 2.0)])
def test_a_batch_is_its_examples_one_by_one(model, seeds, guidance_scale):
    semantic, prompt = tokens(3, 6), (tokens(4, seed=1), tokens(8, LEVELS, high=CODES, seed=2))
    padding_mask = np.arange(6)[None, :] < np.array([[6], [4], [1]])
    settings = dict(iterations=(4, 1, 1), pad_to=12, guidance_scale=guidance_scale)
    together = model.generate(semantic, *prompt, seed=seeds, padding_mask=padding_mask, **settings)
    for row, length in enumerate((6, 4, 1)):
        alone = model.generate(
            semantic[row, :length], *prompt, seed=np.broadcast_to(seeds, 3)[row], **settings
        )
        np.testing.assert_array_equal(together[row, : 2 * length], alone)
        assert not together[row, 2 * length :].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(semantic_tokens=np.zeros((0,), "int32")), "at least one token"),
        (dict(semantic_tokens=np.zeros((1, 2, 3), "int32")), "semantic_tokens must be"),
        (dict(semantic_tokens=np.zeros((4,))), "must be integers"),
        (dict(semantic_tokens=np.array([0, 11])), r"0 \.\. 10 .*got 0 \.\. 11"),
        (dict(semantic_tokens=np.array([-1, 3])), r"got -1 \.\. 3"),
        (dict(prompt_semantic=tokens(4)), "pass both or neither"),
        (
            dict(prompt_semantic=tokens(4), prompt_acoustic=tokens(7, 3, high=7)),
            r"\(8, 3\) \(frames, levels\)",
        ),
        (
            dict(prompt_semantic=tokens(4), prompt_acoustic=tokens(8, 2, high=7)),
            r"\(8, 3\) \(frames, levels\)",
        ),
        (
            dict(prompt_semantic=tokens(4), prompt_acoustic=tokens(2, 8, 3, high=7)),
            "both with a batch axis",
        ),
        (
            dict(prompt_semantic=tokens(2, 4), prompt_acoustic=tokens(2, 8, 3, high=7)),
            "each of 1 examples",
        ),
        (
            dict(prompt_semantic=tokens(4), prompt_acoustic=np.full((8, 3), 7)),
            "prompt_acoustic must be in",
        ),
        (
            dict(prompt_semantic=np.full((4,), 11), prompt_acoustic=tokens(8, 3, high=7)),
            "prompt_semantic must be in",
        ),
        (dict(iterations=(4, 1)), "each of the 3 levels"),
        (dict(iterations=(4, 0, 1)), "positive number"),
        (dict(iterations=(4, 0.5, 1)), "iterations is 0.5; expected an integer"),
        (dict(seed=0.5), "seed is 0.5; expected an integer"),
        (dict(temperature="1"), "temperature must be .*, got '1'"),
        (dict(temperature=-1.0), "temperature"),
        (dict(temperature=float("nan")), "temperature"),
        (dict(guidance_scale=-1.0), "guidance_scale"),
        (dict(guidance_scale=float("nan")), "guidance_scale"),
        (dict(guidance_scale=1e39), "guidance_scale"),
        (dict(guidance_scale=[2.0, 1.0, -1.0]), "guidance_scale must be .*, got -1.0"),
        (dict(guidance_scale=[2.0, 1.0]), "each of the 3 levels, got 2"),
        (dict(seed=[1, 2]), "each of the 1 examples"),
        (dict(pad_to=3), "pad_to=3"),
        (dict(pad_to=[9]), r"pad_to is \[9\]; expected an integer"),
        (dict(padding_mask=np.ones((5,), bool)), "padding_mask must be bool"),
    ],
)
def test_bad_requests_get_one_clear_line(model, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        model.generate(**{"semantic_tokens": tokens(4), **arguments})
    assert "\n" not in str(error.value)
