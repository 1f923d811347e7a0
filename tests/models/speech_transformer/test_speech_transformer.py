import json

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_speechssm.compilation import compile_inference
from keras_speechssm.models.preset_mixin import load_part
from keras_speechssm.models.speech_transformer.speech_transformer import SpeechTransformer

VOCABULARY, MAX_LENGTH = 11, 24


GEMMA_2 = {
    "use_post_ffw_norm": True,
    "use_post_attention_norm": True,
    "attention_logit_soft_cap": 5.0,
    "final_logit_soft_cap": 3.0,
}
SLIDING = {"use_sliding_window_attention": True, "sliding_window_size": 5}


def make_model(**options):
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.GemmaBackbone(
        vocabulary_size=VOCABULARY,
        num_layers=2,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=16,
        head_dim=4,
        **options,
    )
    return SpeechTransformer(backbone, max_length=MAX_LENGTH)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def whole(model):
    forward = compile_inference(model, lambda tokens: model(tokens))
    return lambda tokens: ops.convert_to_numpy(forward(ops.convert_to_tensor(tokens)))


def tokens_of(batch, time, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, (batch, time)).astype("int32")


@pytest.mark.parametrize(
    ("options", "kind"), [({}, "cache"), (GEMMA_2, "cache"), (SLIDING, "token_ids")]
)
def test_advance_in_chunks_gives_the_whole_models_logits(options, kind):
    model = make_model(**options)
    tokens = tokens_of(2, 10)
    assert kind in model.initial_state(2)
    first, state = model.advance(tokens[:, :4], model.initial_state(2))
    second, state = model.advance(tokens[:, 4:], state)
    found = np.concatenate([ops.convert_to_numpy(first), ops.convert_to_numpy(second)], axis=1)
    np.testing.assert_allclose(found, ops.convert_to_numpy(model(tokens)), atol=1e-5)
    assert ops.convert_to_numpy(state["length"]).tolist() == [10, 10]


@pytest.mark.slow_to_compile
@pytest.mark.parametrize("options", [{}, GEMMA_2], ids=["gemma", "gemma 2"])
def test_the_cache_gives_the_logits_of_keras_hub_s_gemma(options):
    """`gemma_cache` repeats KerasHub's decoder block; this fails if a release changes it."""
    model = make_model(**options)
    reference = keras_hub.models.GemmaCausalLM(preprocessor=None, backbone=model.backbone)
    tokens = tokens_of(2, 9)
    shape = [2, model.backbone.num_layers, 2, 9, 1, 4]
    cache = ops.zeros(shape, dtype="float32")
    expected, _, cache = reference.call_with_cache(tokens[:, :5], cache, 0)
    found, state = model.advance(tokens[:, :5], model.initial_state(2))
    np.testing.assert_allclose(*map(ops.convert_to_numpy, (found, expected)), atol=1e-5)
    for step in range(5, 9):
        token = tokens[:, step : step + 1]
        expected, _, cache = reference.call_with_cache(token, cache, step)
        found, state = model.advance(token, state)
        np.testing.assert_allclose(*map(ops.convert_to_numpy, (found, expected)), atol=1e-5)
    for index, layer in enumerate(state["cache"]):
        for kind, name in enumerate(("key", "value")):
            ours, theirs = layer[name][:, :9], cache[:, index, kind]
            np.testing.assert_allclose(*map(ops.convert_to_numpy, (ours, theirs)), atol=1e-5)


@pytest.mark.slow_to_compile
@pytest.mark.parametrize("options", [{}, SLIDING], ids=["cache", "read again"])
def test_padding_anywhere_does_not_advance_the_state(options):
    model = make_model(**options)
    tokens = tokens_of(2, 8)
    mask = np.array([[False, True, True, False, False, True, True, True], [True] * 5 + [False] * 3])
    logits, state = model.advance(tokens, model.initial_state(2), mask)
    more, _ = model.advance(tokens[:, :1], state)
    one_by_one, singles = model.initial_state(2), []
    for step in range(8):
        columns = slice(step, step + 1)
        single, one_by_one = model.advance(tokens[:, columns], one_by_one, mask[:, columns])
        singles.append(ops.convert_to_numpy(single))
    singles = np.concatenate(singles, axis=1)
    for row in range(2):
        alone = np.append(tokens[row, mask[row]], tokens[row, 0])[None]
        expected = ops.convert_to_numpy(model(alone))[0]
        found = ops.convert_to_numpy(logits)[row, mask[row]]
        np.testing.assert_allclose(found, expected[:-1], atol=1e-5)
        np.testing.assert_allclose(singles[row, mask[row]], expected[:-1], atol=1e-5)
        np.testing.assert_allclose(ops.convert_to_numpy(more)[row, 0], expected[-1], atol=1e-5)


@pytest.mark.slow_to_compile
@pytest.mark.parametrize("options", [{}, SLIDING], ids=["gemma", "sliding"])
def test_packed_documents_do_not_see_each_other(options):
    model = make_model(**options)
    tokens = tokens_of(1, 12)
    starts = np.isin(np.arange(12), (0, 5, 9))[None]
    real = np.arange(12)[None] < 11

    def logits(tokens, **masks):
        return ops.convert_to_numpy(model({"token_ids": tokens, **masks}))[0]

    packed = logits(tokens, reset_mask=starts)
    padded = logits(tokens, reset_mask=starts, padding_mask=real)
    for start, stop in ((0, 5), (5, 9), (9, 11)):
        alone = logits(tokens[:, start:stop])
        np.testing.assert_allclose(packed[start:stop], alone, atol=1e-5)
        np.testing.assert_allclose(padded[start:stop], alone, atol=1e-5)
    assert np.abs(packed[5:] - logits(tokens)[5:]).max() > 1e-3  # attended across before


def test_fit_packs_documents_on_gemma_and_separates_them_elsewhere(model):
    x, _, _ = model.preprocessor([[1, 2, 3], [4, 5, 6, 7]])
    assert "reset_mask" in x
    twist = SpeechTransformer(opt(), max_length=MAX_LENGTH)
    assert not twist.preprocessor.pack
    with pytest.raises(ValueError, match="packed documents apart on a OPTBackbone"):
        twist({"token_ids": tokens_of(1, 4), "reset_mask": np.ones((1, 4), bool)})


def test_greedy_generation_takes_the_argmax_of_whole_forwards(model, whole):
    prompt = tokens_of(2, 4)
    sequence = np.pad(prompt, ((0, 0), (0, 6)))
    for step in range(4, 10):
        sequence[:, step] = whole(sequence)[:, step - 1].argmax(axis=-1)
    generated = model.generate(prompt, 6, temperature=0.0)
    np.testing.assert_array_equal(generated, sequence[:, 4:])


def test_same_seed_same_tokens_whatever_the_blocks(model):
    prompt = tokens_of(1, 4)
    blocks = list(model.stream(prompt, block_size=3, num_tokens=10, seed=1))
    np.testing.assert_array_equal(
        np.concatenate(blocks, axis=1), model.generate(prompt, 10, seed=1)
    )


def test_score_is_the_log_likelihood_of_the_whole_forward(model, whole):
    tokens = tokens_of(2, 12)
    logits = whole(tokens)[:, :-1].astype("float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(log_probabilities, tokens[:, 1:, None], axis=-1)
    np.testing.assert_allclose(model.score(tokens), picked.sum(axis=(1, 2)), rtol=1e-5)


def test_more_tokens_than_it_holds_are_refused(model):
    with pytest.raises(ValueError, match="have 25 tokens; this SpeechTransformer supports 24"):
        model.generate(tokens_of(1, 5), 20)
    with pytest.raises(ValueError, match="would have 30 tokens"):
        model.score(tokens_of(1, 30))
    logits, _ = model.advance(tokens_of(1, 25), model.initial_state(1))
    assert np.isnan(ops.convert_to_numpy(logits)).all()


def test_fit_learns_a_constant(model):
    keras.utils.set_random_seed(0)
    fresh = SpeechTransformer.from_config(model.get_config())
    assert fresh.max_length == MAX_LENGTH
    fresh.compile(optimizer=keras.optimizers.Adam(1e-2))
    tokens = np.full((8, 9), 4, "int32")
    history = fresh.fit(tokens[:, :-1], tokens[:, 1:], epochs=20, verbose=0).history
    assert history["loss"][-1] < 0.3 * history["loss"][0]


def test_preset_round_trip(model, tmp_path):
    model.save_to_preset(str(tmp_path / "preset"))
    loaded = SpeechTransformer.from_preset(str(tmp_path / "preset"))
    changed = SpeechTransformer.from_preset(str(tmp_path / "preset"), dropout=0.1)
    assert (changed.max_length, changed.backbone.dropout) == (model.max_length, 0.1)
    for a, b in zip(changed.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert loaded.max_length == MAX_LENGTH
    tokens = tokens_of(1, 6)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(loaded(tokens)), ops.convert_to_numpy(model(tokens))
    )


def test_the_paper_s_preset_starts_from_kaggle_s_gemma(tmp_path, monkeypatch):
    text = make_model().backbone
    text.save_to_preset(str(tmp_path))  # the form of `kaggle://keras/gemma`
    monkeypatch.setattr("kagglehub.model_download", lambda name: str(tmp_path))
    model = SpeechTransformer.from_preset("speech_transformer_2b", seed=0)
    assert (model.max_length, model.backbone.vocabulary_size) == (16 * 60 * 25, 32768)
    for new, old in zip(model.backbone.weights[1:], text.weights[1:], strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (new, old)))
    again = SpeechTransformer.from_preset("speech_transformer_2b", seed=0, max_length=30)
    assert again.max_length == 30
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])
    half = SpeechTransformer.from_preset("speech_transformer_2b", dtype="bfloat16")
    assert half.backbone.compute_dtype == "bfloat16"
    with pytest.raises(ValueError, match="'max_lenght'.* Did you mean 'max_length'"):
        SpeechTransformer.from_preset("speech_transformer_2b", max_lenght=30)


def test_what_a_hub_says_about_a_text_model_is_one_line(monkeypatch):
    def fail(name):
        raise RuntimeError("BackendError: no network\nmore")

    monkeypatch.setattr("kagglehub.model_download", fail)
    with pytest.raises(ValueError, match="starts from .*gemma_2b_en.* no network") as error:
        SpeechTransformer.from_preset("speech_transformer_2b")
    for advice in ("from_text_preset('hf://google/gemma-2b')", "load_weights=False"):
        assert advice in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="The text model 'no_such' could not be loaded"):
        SpeechTransformer.from_text_preset("no_such")

    def refuse(*arguments, **options):
        raise ConnectionError("HTTPSConnectionPool(host='a.com', port=443): Max retries exceeded")

    monkeypatch.setattr(keras_hub.models.Backbone, "from_preset", refuse)
    with pytest.raises(ValueError, match="'opt_125m_en' could not be loaded: there is no conn"):
        SpeechTransformer.from_text_preset("opt_125m_en")


def opt():
    return keras_hub.models.OPTBackbone(
        vocabulary_size=20,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        dropout=0.1,
        max_sequence_length=MAX_LENGTH,
    )


def llama():
    return keras_hub.models.LlamaBackbone(
        vocabulary_size=20,
        num_layers=1,
        num_query_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        num_key_value_heads=1,
    )


@pytest.mark.parametrize("make_text", [opt, llama])
def test_a_trained_twist_loads_again_by_every_road(make_text, tmp_path):
    """Hassid et al. 2023; OPT ties its embeddings, Llama does not."""
    keras.utils.set_random_seed(0)
    text = make_text()
    text.save_to_preset(str(tmp_path / "text"))
    model = SpeechTransformer.from_text_preset(
        str(tmp_path / "text"), vocabulary_size=VOCABULARY, max_length=MAX_LENGTH, seed=0
    )
    kept = [weight for weight in model.weights if "token_embedding" not in weight.path]
    old = [weight for weight in text.weights if "token_embedding" not in weight.path]
    for a, b in zip(kept, old, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (a, b)))
    parts = {"semantic_tokenizer": "semantic_tokenizer_600m", "speech_lm": "speech_lm"}
    config = json.dumps({"pipeline": "SpeechContinuation", "parts": parts})
    (tmp_path / "config.json").write_text(config)
    model.save_to_preset(str(tmp_path / "speech_lm"))
    model.save(tmp_path / "model.keras")
    for loaded in (
        SpeechTransformer.from_preset(str(tmp_path / "speech_lm")),
        SpeechTransformer.from_preset(str(tmp_path)),
        load_part(str(tmp_path), "speech_lm"),
        keras.saving.load_model(tmp_path / "model.keras"),
    ):
        assert type(loaded.backbone) is type(text) and loaded.max_length == MAX_LENGTH
        assert not loaded.preprocessor.pack
        for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    longer = SpeechTransformer.from_preset(str(tmp_path), max_length=30, dtype="bfloat16")
    assert (longer.max_length, longer.backbone.compute_dtype) == (30, "bfloat16")
    with pytest.raises(ValueError, match="has no argument 'drop_out'"):
        SpeechTransformer.from_preset(str(tmp_path), drop_out=0.5)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
# Keras' quantized embedding transposes with x.T on torch.
@pytest.mark.filterwarnings(r"ignore:[\s\S]*x.T:UserWarning")
@pytest.mark.any_backend
@pytest.mark.slow
def test_a_quantized_model_goes_to_disk_and_back(tmp_path):
    model, tokens = make_model(), tokens_of(2, 10)
    before = ops.convert_to_numpy(model(tokens))
    model.quantize("int8")
    expected = ops.convert_to_numpy(model(tokens))
    assert 0 < np.abs(expected - before).max() < 0.5
    model.save_to_preset(str(tmp_path / "preset"))
    loaded = SpeechTransformer.from_preset(str(tmp_path / "preset"))
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(tokens)), expected)
