import itertools

import keras
import numpy as np
import pytest
from keras import ops

from keras_speechssm.compilation import compile_inference
from keras_speechssm.models.speech_ssm.speech_ssm import SpeechSSM
from keras_speechssm.models.speech_ssm.speech_ssm_preprocessor import SpeechSSMPreprocessor

VOCABULARY = 13


def tokens_of(batch, time, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, (batch, time)).astype("int32")


def log_softmax(logits):
    logits = logits.astype("float64")
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_advance_in_chunks_gives_the_whole_models_logits(model, whole):
    tokens = tokens_of(2, 20)
    advance = compile_inference(model, model.advance)
    state, chunks = model.initial_state(2), []
    for start, stop in itertools.pairwise([0, 1, 8, 13, 20]):
        logits, state = advance(ops.convert_to_tensor(tokens[:, start:stop]), state)
        chunks.append(ops.convert_to_numpy(logits))
    np.testing.assert_allclose(np.concatenate(chunks, axis=1), whole(tokens), atol=1e-5)


def test_logits_are_soft_capped(model):
    cap = model.backbone.logit_soft_cap
    assert cap == 30.0
    embedding = ops.convert_to_numpy(model.backbone.token_embedding.embeddings)
    hidden = 40 * np.random.default_rng(0).normal(size=(2, 3, 16)).astype("float32")
    expected = 30 * np.tanh(hidden @ embedding.T / 30)
    found = ops.convert_to_numpy(model.project(ops.convert_to_tensor(hidden)))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(hidden @ embedding.T).max() > 30


def test_greedy_generation_takes_the_argmax_of_whole_forwards(model, whole):
    prompt, num_tokens = tokens_of(2, 5), 15
    sequence = np.pad(prompt, ((0, 0), (0, num_tokens)))  # one shape, to compile it once
    for step in range(num_tokens):
        sequence[:, 5 + step] = whole(sequence)[:, 4 + step].argmax(axis=-1)
    generated = model.generate(prompt, num_tokens, temperature=0.0)
    assert generated.dtype == np.int32
    np.testing.assert_array_equal(generated, sequence[:, 5:])


def test_ragged_prompts_go_on_as_each_does_alone(model):
    tokens = tokens_of(2, 9)
    mask = np.array(
        [[False] * 4 + [True] * 5, [True, False, True, True, False, True, True, False, False]]
    )
    together = model.generate(tokens, 10, temperature=0.0, padding_mask=mask)
    for row in range(2):
        alone = model.generate(tokens[row, mask[row]][None], 10, temperature=0.0)
        np.testing.assert_array_equal(together[row], alone[0])


def test_prompts_longer_than_a_chunk(model, whole):
    tokens = tokens_of(1, 600)
    state = model.start_generation(tokens[:, :300], seed=0)
    expected = whole(tokens)[:, 299]
    np.testing.assert_allclose(ops.convert_to_numpy(state.logits), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("num_tokens", "block_sizes", "sampling"),
    [
        (260, (100, 400), {}),  # past the 256 tokens of one compiled block
        (40, (7, 60), {"temperature": 0.8, "top_k": 5, "top_p": 0.9}),
    ],
)
def test_same_seed_same_tokens_whatever_the_blocks(model, num_tokens, block_sizes, sampling):
    prompt = tokens_of(2, 4)
    expected = model.generate(prompt, num_tokens, seed=7, **sampling)
    for block_size in block_sizes:
        blocks = list(model.stream(prompt, block_size, num_tokens=num_tokens, seed=7, **sampling))
        assert all(block.shape[1] == block_size for block in blocks[:-1])
        np.testing.assert_array_equal(np.concatenate(blocks, axis=1), expected)
    other = model.generate(prompt, 20, seed=8, **sampling)
    assert not np.array_equal(other, expected[:, :20])


def test_no_seed_gives_other_tokens_each_time(model):
    prompt = tokens_of(1, 4)
    assert not np.array_equal(model.generate(prompt, 60), model.generate(prompt, 60))


def test_sessions_of_a_batch_are_independent(model):
    prompts = tokens_of(2, 6)
    together = model.generate(prompts, 20, seed=1)
    other = model.generate(np.stack([prompts[0], prompts[0][::-1]]), 20, seed=1)
    np.testing.assert_array_equal(together[0], model.generate(prompts[:1], 20, seed=1)[0])
    np.testing.assert_array_equal(together[0], other[0])
    twice = model.generate(np.stack([prompts[0], prompts[0]]), 60, seed=1)
    assert not np.array_equal(twice[0], twice[1])


def test_stream_is_endless_and_goes_on_from_a_state(model):
    prompt = tokens_of(1, 4)
    blocks = list(itertools.islice(model.stream(prompt, 10, seed=3), 5))
    assert [block.shape for block in blocks] == [(1, 10)] * 5
    state = model.start_generation(prompt, seed=3)
    _, state = model.continue_generation(state, 20)
    rest = next(model.stream(state=state, block_size=30))
    np.testing.assert_array_equal(rest, np.concatenate(blocks[2:], axis=1))


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch runs eagerly")
def test_nothing_is_compiled_anew_as_audio_and_prompts_grow(model, monkeypatch):
    model.generate(tokens_of(1, 3), 5, seed=0)
    traces = []
    advance = model.backbone.advance
    monkeypatch.setattr(model.backbone, "advance", lambda *args: traces.append(1) or advance(*args))
    for prompt_length, num_tokens in ((4, 6), (100, 40), (270, 300)):
        model.generate(tokens_of(1, prompt_length), num_tokens, temperature=0.5, seed=1)
    list(model.stream(tokens_of(1, 8), 33, num_tokens=100, seed=1))
    assert traces == []
    model.generate(tokens_of(5, 3), 5, seed=0)  # another batch size: the counter works
    assert len(traces) > 0


def test_generation_sees_new_weights(model):
    prompt = tokens_of(1, 6)
    before = model.start_generation(prompt, seed=0).logits
    weight = model.backbone.final_norm.scale
    old = ops.convert_to_numpy(weight)
    weight.assign(old + 1.0)
    try:
        after = model.start_generation(prompt, seed=0).logits
    finally:
        weight.assign(old)
    assert np.abs(ops.convert_to_numpy(after) - ops.convert_to_numpy(before)).max() > 1e-2


def test_score_is_the_log_likelihood_of_the_whole_forward(model, whole):
    tokens = tokens_of(2, 20)
    log_probabilities = log_softmax(whole(tokens)[:, :-1])
    picked = np.take_along_axis(log_probabilities, tokens[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(model.score(tokens), picked.sum(axis=1), rtol=1e-5)
    found = model.log_probabilities(tokens)
    np.testing.assert_array_equal(found[:, 0], 0)
    np.testing.assert_allclose(found[:, 1:], picked, atol=1e-5)


def test_score_is_blind_to_padding_anywhere(model):
    tokens = tokens_of(2, 12)
    mask = np.array([[True, False] * 6, [False] * 3 + [True] * 9])
    found = model.log_probabilities(tokens, mask)
    assert not found[~mask].any()
    for row in range(2):
        alone = model.log_probabilities(tokens[row, mask[row]][None])[0]
        np.testing.assert_allclose(found[row, mask[row]], alone, atol=1e-5)


def test_score_over_several_chunks(model, whole):
    tokens = tokens_of(1, 600)
    log_probabilities = log_softmax(whole(tokens)[:, :-1])
    picked = np.take_along_axis(log_probabilities, tokens[:, 1:, None], axis=-1)
    np.testing.assert_allclose(model.score(tokens)[0], picked.sum(), rtol=1e-5)
    assert model.score(tokens[:, :1])[0] == 0


def test_packed_documents_do_not_see_each_other(model, whole):
    tokens = tokens_of(1, 14)
    reset_mask = np.zeros((1, 14), bool)
    reset_mask[0, [0, 5]] = True
    packed = whole(tokens, reset_mask=reset_mask)
    np.testing.assert_allclose(packed[:, 5:], whole(tokens[:, 5:]), atol=1e-5)
    assert np.abs(packed[:, 5:] - whole(tokens)[:, 5:]).max() > 1e-3


def test_fit_learns_a_pattern(model):
    fresh = SpeechSSM.from_config(model.get_config())
    fresh.compile(
        optimizer=keras.optimizers.Adam(1e-2),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    starts = np.random.default_rng(0).integers(0, VOCABULARY, (32, 1))
    tokens = ((starts + 3 * np.arange(13)) % VOCABULARY).astype("int32")
    weights = np.ones((32, 12), "float32")
    history = fresh.fit(
        tokens[:, :-1], tokens[:, 1:], sample_weight=weights, batch_size=8, epochs=8, verbose=0
    ).history
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    generated = fresh.generate(tokens[:1, :4], 9, temperature=0.0)
    np.testing.assert_array_equal(generated, tokens[:1, 4:])


def fitted(model, inputs, targets, weights):
    """The weights after two steps on one batch, of a loss that is a sum over tokens."""
    fresh = SpeechSSM.from_config(model.get_config())
    fresh.set_weights(model.get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    fresh.compile(optimizer=keras.optimizers.SGD(0.01), loss=loss)
    fresh.fit(inputs, targets, sample_weight=weights, epochs=2, verbose=0)
    return fresh.get_weights()


@pytest.mark.slow_to_compile("tensorflow")
def test_fit_on_packed_documents_is_fit_on_each(model):
    lengths, tokens = (5, 9), tokens_of(2, 10)
    real = np.arange(9)[None] < np.array(lengths)[:, None]
    weights = real.astype("float32")
    apart = fitted(
        model, {"token_ids": tokens[:, :-1], "padding_mask": real}, tokens[:, 1:], weights
    )
    packed = {
        "token_ids": tokens[:, :-1][real][None],
        "reset_mask": np.isin(np.arange(14), [0, 5])[None],
    }
    together = fitted(model, packed, tokens[:, 1:][real][None], np.ones((1, 14), "float32"))
    packed["reset_mask"] = np.zeros((1, 14), bool)
    mixed = fitted(model, packed, tokens[:, 1:][real][None], np.ones((1, 14), "float32"))
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert max(np.abs(a - b).max() for a, b in zip(mixed, apart, strict=True)) > 1e-3


@pytest.mark.slow_to_compile
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_bfloat16_learns_and_generates(model, policy):
    config = {**model.backbone.get_config(), "dtype": policy}
    half = SpeechSSM(type(model.backbone).from_config(config))
    half.set_weights(model.get_weights())
    tokens = tokens_of(4, 13)
    # Not Adam's default of 0.999: in pure bfloat16 that is 1, and no weight moves.
    half.compile(optimizer=keras.optimizers.Adam(1e-2, beta_2=0.98))
    losses = half.fit(tokens[:, :-1], tokens[:, 1:], epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    state = half.start_generation(tokens[:1], seed=0)
    recurrent, keys = state.model[0]["rg_lru"]["recurrent"], state.model[1]["keys"]
    dtypes = [keras.backend.standardize_dtype(x.dtype) for x in (recurrent, keys, state.logits)]
    assert dtypes == ["float32", "bfloat16", "float32"]
    assert half.continue_generation(state, 9)[0].shape == (1, 9)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="reads JAX's trace")
def test_gates_recurrence_and_softmax_are_float32_in_bfloat16(model):
    import jax

    config = {**model.backbone.get_config(), "dtype": "bfloat16"}
    half = SpeechSSM(type(model.backbone).from_config(config))
    trace = jax.make_jaxpr(lambda tokens: half(tokens))(tokens_of(1, 9))
    found = {}
    for equation in equations(trace.jaxpr):
        found.setdefault(equation.primitive.name, set()).update(
            str(variable.aval.dtype)
            for variable in equation.outvars
            if "float" in str(variable.aval.dtype)  # the kernel's loops count in integers
        )
    # Gates are logistic, decays and softmax exponentials, the recurrence a scan.
    for name in ("logistic", "exp", "expm1", "scan", "reduce_max"):
        assert found[name] == {"float32"}, name
    assert "bfloat16" in found["dot_general"]


def equations(jaxpr):
    import jax

    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_preset_round_trip(model, tmp_path):
    model.save_to_preset(str(tmp_path / "preset"))
    loaded = SpeechSSM.from_preset(str(tmp_path / "preset"))
    tokens = tokens_of(1, 8)
    np.testing.assert_array_equal(
        loaded.generate(tokens, 5, seed=2), model.generate(tokens, 5, seed=2)
    )


def test_the_backbone_s_config_can_be_changed_as_a_preset_is_loaded(model, tmp_path):
    preset = str(tmp_path / "preset")
    model.save_to_preset(preset)
    changed = SpeechSSM.from_preset(preset, attention_window=2, dtype="float32")
    assert (changed.backbone.attention_window, model.backbone.attention_window != 2) == (2, True)
    for a, b in zip(changed.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    logits = [ops.convert_to_numpy(one(tokens_of(1, 12))) for one in (changed, model)]
    assert not np.allclose(*logits)
    deeper = SpeechSSM.from_preset(preset, load_weights=False, num_layers=7)
    assert deeper.backbone.num_layers == 7
    with pytest.raises(ValueError, match="GriffinBackbone has no argument 'window'"):
        SpeechSSM.from_preset(preset, window=2)
    with pytest.raises(ValueError, match="could not be loaded"):
        SpeechSSM.from_preset(preset, num_layers=7)


@pytest.mark.slow_to_compile
def test_what_is_optional_may_be_left_out(model):
    tokens = tokens_of(2, 9)
    mask = np.ones((2, 9), bool)
    whole = {"token_ids": tokens, "padding_mask": mask, "reset_mask": np.zeros((2, 9), bool)}
    for one in (model, model.backbone):
        expected = ops.convert_to_numpy(one(whole))
        for given in (tokens, {"token_ids": tokens}, {"token_ids": tokens, "padding_mask": mask}):
            np.testing.assert_allclose(ops.convert_to_numpy(one(given)), expected, atol=1e-5)
        inputs = keras.Input((None,), dtype="int32")
        found = keras.Model(inputs, one(inputs))(tokens)
        np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-5)


def test_arguments_of_every_task_are_taken(model, tmp_path):
    model.save_to_preset(str(tmp_path / "preset"))
    loaded = SpeechSSM.from_preset(str(tmp_path / "preset"), name="mine", trainable=False)
    assert loaded.name == "mine" and not loaded.trainable_variables
    changed = SpeechSSM.from_preset(str(tmp_path / "preset"), name="mine", attention_window=2)
    assert changed.name == "mine" and changed.backbone.attention_window == 2


def test_a_function_as_preprocessor_is_left_out_of_presets(model, tmp_path):
    task = SpeechSSM(model.backbone, preprocessor=lambda x: x)
    task.save_to_preset(str(tmp_path / "preset"))
    assert task.preprocessor is not None
    loaded = SpeechSSM.from_preset(str(tmp_path / "preset"))
    assert isinstance(loaded.preprocessor, SpeechSSMPreprocessor)


def test_a_preset_in_an_old_one_s_place_is_the_new_one(model, tmp_path):
    preset = str(tmp_path / "preset")
    model.save_to_preset(preset)
    config = {**model.backbone.get_config(), "attention_window": 2, "logit_soft_cap": None}
    backbone = type(model.backbone).from_config(config)
    backbone.save_to_preset(preset, max_shard_size=1e-5)  # in shards
    loaded = SpeechSSM.from_preset(preset)
    assert (loaded.backbone.attention_window, loaded.backbone.logit_soft_cap) == (2, None)
    for a, b in zip(loaded.get_weights(), backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_unknown_inputs_are_refused(model):
    with pytest.raises(ValueError, match="mask"):
        model({"token_ids": tokens_of(1, 4), "mask": np.ones((1, 4), bool)})


def test_bad_requests_are_refused_at_once(model):
    with pytest.raises(ValueError, match="expected 0 to 12"):
        model.generate([[99]], 5)
    with pytest.raises(ValueError, match="num_tokens is 0"):
        model.generate([[1]], 0)
    with pytest.raises(ValueError, match="either token_ids or state"):
        model.stream()
    with pytest.raises(ValueError, match="block_size is 0"):
        model.stream([[1]], block_size=0)  # before the first block is asked for
