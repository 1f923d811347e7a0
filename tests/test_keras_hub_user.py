"""What a KerasHub user types first works: the blocks of the guide, and the forms of `fit`."""

import re
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
from tiny_models import shared_tiny_preset

from keras_speechssm.audio.io import read_audio
from keras_speechssm.models import (
    GriffinBackbone,
    SoundStorm,
    SpeechSSM,
    SpeechSSMPreprocessor,
    SpeechTransformer,
)

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "guides" / "keras_hub.md"
VOCABULARY = 12


def make_model(**options) -> SpeechSSM:
    keras.utils.set_random_seed(0)
    sizes = {"attention_window": 8, "use_rotary": False, "block_pattern": ("recurrent",)}
    model = SpeechSSM(GriffinBackbone(VOCABULARY, 1, 8, 8, 1, **sizes, **options))
    model.compile(optimizer=keras.optimizers.SGD(0.1), weighted_metrics=[])
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def transformer():
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.GemmaBackbone(VOCABULARY, 1, 1, 1, 8, 8, 8)
    model = SpeechTransformer(backbone, max_length=16)
    model.compile(optimizer=keras.optimizers.SGD(0.1), weighted_metrics=[])
    return model


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(0, VOCABULARY, (8, 12)).astype("int32")


@pytest.mark.slow_to_compile
def test_the_guide_runs(tmp_path, monkeypatch):
    preset = shared_tiny_preset()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "prompt.flac").symlink_to(ROOT / "examples" / "prompt.flac")
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    names = {}
    for block in blocks:
        code = block.replace('"speech_ssm_demo_en"', repr(preset))
        exec(compile(code, GUIDE.name, "exec"), names)
    assert "speech_ssm_2b" in SpeechSSM.presets
    assert isinstance(names["model"].preprocessor, SpeechSSMPreprocessor)
    assert names["model"].preprocessor.tokenizer is not None
    assert names["new_tokens"].shape == (2, 10)
    assert np.isfinite(names["history"].history["val_loss"]).all()
    assert len(names["history"].history["loss"]) == 2
    best = keras.saving.load_model("best.keras")
    found, expected = (m.preprocessor.tokenizer.codebook for m in (best, names["model"]))
    np.testing.assert_array_equal(found, expected)  # the trained tokenizer, not a new one
    for waveform in names["waveforms"]:
        np.testing.assert_array_equal(waveform, names["waveform"])


def test_generate_takes_what_generate_preprocess_returns(model, tokens):
    prompts = [tokens[0], tokens[1, :5]]
    inputs = SpeechSSMPreprocessor().generate_preprocess(prompts)
    expected = model.generate(prompts, 4, seed=0)
    np.testing.assert_array_equal(model.generate(inputs, 4, seed=0), expected)


def losses(x, **options):
    model = make_model()
    return model.fit(x, epochs=2, shuffle=False, verbose=0, **options).history["loss"]


def test_every_form_of_data_gives_the_same_losses(tokens):
    expected = losses(tokens[:, :-1], y=tokens[:, 1:], batch_size=4)
    batches = [tokens[:4], tokens[4:]]

    class Dataset(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return batches[index]

    assert losses(Dataset()) == pytest.approx(expected, rel=1e-5)
    endless = (batches[n % 2] for n in range(4))
    assert losses(endless, steps_per_epoch=2) == pytest.approx(expected, rel=1e-5)
    # Packing changes the order of the rows, and each has one position more, without a target.
    expected = losses(tokens[:, :-1], y=tokens[:, 1:], batch_size=8)
    assert losses(tokens, batch_size=8) == pytest.approx(expected, rel=1e-5)
    assert losses([list(row) for row in tokens], batch_size=8) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow_to_compile
def test_tf_data_and_grain_of_tokens(tokens):
    expected = losses(tokens[:, :-1], y=tokens[:, 1:], batch_size=4)
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices(tokens).batch(4)
    assert losses(dataset) == pytest.approx(expected, rel=1e-5)
    mapped = dataset.map(SpeechSSMPreprocessor())
    assert losses(mapped) == pytest.approx(expected, rel=1e-5)
    x, y, weights = next(
        iter(
            tf.data.Dataset.from_tensors(tf.ragged.constant([[1, 2, 3], [4, 5]])).map(
                SpeechSSMPreprocessor()
            )
        )
    )
    assert x["token_ids"].numpy().tolist() == [[1, 2], [4, 5]]
    assert y.numpy().tolist() == [[2, 3], [5, 0]]
    assert weights.numpy().tolist() == [[True, True], [True, False]]
    grain = pytest.importorskip("grain")
    dataset = grain.MapDataset.source(tokens).batch(4).repeat()  # Keras does not know its length
    assert losses(dataset, steps_per_epoch=2) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow_to_compile("tensorflow")
def test_rows_are_shuffled_as_the_seed_of_keras_says(tokens):
    def fit():
        model = make_model()
        return model.fit(tokens, batch_size=4, epochs=2, verbose=0).history["loss"]

    first = fit()
    assert fit() == first
    assert losses(tokens, batch_size=4) != pytest.approx(first, rel=1e-6)


def test_validation_split_takes_the_last_sequences(tokens):
    split = losses(tokens, batch_size=4, validation_split=0.5)
    assert split == losses(tokens[:4], batch_size=4, validation_data=tokens[4:])
    with pytest.raises(ValueError, match="leaves none to train or to validate on"):
        make_model().fit(tokens[:1], validation_split=0.5)


def test_validation_data_may_be_a_tuple_without_targets(model, tokens):
    options = {"batch_size": 8, "verbose": 0}
    found = model.fit(tokens, validation_data=(tokens, None), **options).history["val_loss"]
    assert found == [pytest.approx(model.evaluate(tokens, **options), rel=1e-5)]


def test_tf_data_without_batches_gets_one_line(model, tokens):
    tf = pytest.importorskip("tensorflow")
    with pytest.raises(ValueError, match="Batch the dataset") as caught:
        model.fit(tf.data.Dataset.from_tensor_slices(tokens))
    assert "\n" not in str(caught.value)


def test_mistakes_get_one_clear_line(model, tokens):
    for x, message in (
        (tokens + VOCABULARY, f"a vocabulary of {VOCABULARY}"),
        ([], "no sequences of at least two tokens"),
        (["speech.wav"], "got audio but has no tokenizer"),
        ([np.zeros(16000, "float32")], "got audio but has no tokenizer"),
        ({"token_ids": tokens, "reset_mask": tokens > 0}, r"'reset_mask'\] need targets"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            model.fit(x, verbose=0)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="got audio but has no tokenizer"):
        model.generate(np.zeros(16000, "float32"), num_tokens=3)
    with pytest.raises(ValueError, match="Batch the dataset"):
        model.fit((row for row in tokens), verbose=0)


def test_evaluate_takes_what_fit_takes(model, tokens):
    expected = model.evaluate(tokens[:, :-1], tokens[:, 1:], batch_size=4, verbose=0)
    assert model.evaluate(tokens, batch_size=4, verbose=0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "kind", ["model", pytest.param("transformer", marks=pytest.mark.slow_to_compile)]
)
def test_prompts_of_any_lengths_are_one_batch(kind, request, monkeypatch):
    model = request.getfixturevalue(kind)
    make_state, batches = model.initial_state, []
    monkeypatch.setattr(
        type(model), "initial_state", lambda self, size: batches.append(size) or make_state(size)
    )
    prompts, seeds = [[1, 2, 3, 4, 5], np.array([6, 7])], [3, 2**40]
    greedy = model.generate(prompts, num_tokens=4, temperature=0.0)
    sampled = model.generate(prompts, num_tokens=4, seed=seeds)
    streamed = model.stream(prompts, block_size=3, num_tokens=4, seed=seeds)
    np.testing.assert_array_equal(np.concatenate(list(streamed), axis=1), sampled)
    assert batches == [2, 2, 2]
    for prompt, seed, *rows in zip(prompts, seeds, greedy, sampled, strict=True):
        alone = model.generate(np.array(prompt), num_tokens=4, temperature=0.0)
        np.testing.assert_array_equal(rows[0], alone)
        alone = model.generate(np.array(prompt), num_tokens=4, seed=seed)
        np.testing.assert_array_equal(rows[1], alone)
    whole = model.generate(prompts, num_tokens=4, seed=seeds, strip_prompt=False)
    for found, prompt, new in zip(whole, prompts, sampled, strict=True):
        np.testing.assert_array_equal(found, [*prompt, *new])  # without padding
    for options, message in (
        ({"seed": [1]}, "seed has 1 numbers for 2 prompts"),
        ({"seed": [1, -1]}, "seed is -1"),
        ({"stop_token_ids": [3]}, "no token ends speech"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(prompts, num_tokens=4, **options)


def test_score_has_the_modes_of_keras_hub(model, tokens):
    mask = np.arange(12) >= np.array([[0], [3]])  # padding first
    targets = np.roll(tokens[:2], -1, axis=1)
    losses = model.score(tokens[:2], mask, scoring_mode="loss", target_ids=targets)
    logits = model.score(tokens[:2], mask, scoring_mode="logits")
    picked = np.take_along_axis(
        keras.ops.convert_to_numpy(keras.ops.log_softmax(logits)), targets[..., None], axis=-1
    )
    np.testing.assert_allclose(losses, np.where(mask, -picked[..., 0], 0), atol=1e-5)
    single = model.score(tokens[0], scoring_mode="loss", target_ids=targets[0])
    np.testing.assert_allclose(single, losses[0], atol=1e-5)
    np.testing.assert_allclose(-single[:-1].sum(), model.score(tokens[0]), rtol=1e-5)
    for options, message in (
        ({"scoring_mode": "nats"}, "expected 'logits', 'loss' or None"),
        ({"scoring_mode": "loss"}, "takes target_ids with scoring_mode='loss'"),
        ({"target_ids": targets}, "takes target_ids with scoring_mode='loss'"),
    ):
        with pytest.raises(ValueError, match=message):
            model.score(tokens[:2], **options)


def test_keras_hub_finds_the_model_of_a_preset(model, tokens, tmp_path):
    model.save_to_preset(str(tmp_path / "mine"))
    found = keras_hub.models.CausalLM.from_preset(str(tmp_path / "mine"))
    assert isinstance(found, SpeechSSM) and isinstance(found.preprocessor, SpeechSSMPreprocessor)
    np.testing.assert_allclose(found.score(tokens[:2]), model.score(tokens[:2]), rtol=1e-5)


def test_sizes_of_a_text_model_need_no_download():
    small = {"num_layers": 1, "hidden_dim": 2, "intermediate_dim": 2, "num_heads": 1}
    small |= {"lru_width": 2, "load_weights": False}
    found = GriffinBackbone.from_preset("recurrent_gemma_9b_it_en", **small)
    assert found.vocabulary_size == 256_000 and found.use_rotary
    assert found.attention_window == 2048
    model = SpeechSSM.from_text_preset("recurrent_gemma_2b_en", 12, **small)
    assert model.backbone.vocabulary_size == 12 and not model.backbone.use_rotary


def test_preprocessor_pads_prompts_and_strips_them(tmp_path):
    preprocessor = SpeechSSMPreprocessor(sequence_length=8)
    prompts = preprocessor.generate_preprocess([[1, 2, 3], [4]])
    assert prompts["token_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    stripped = preprocessor.generate_postprocess(prompts)
    assert [row.tolist() for row in stripped] == [[1, 2, 3], [4]]
    single = preprocessor.generate_preprocess(np.array([1, 2, 3]), sequence_length=2)
    assert preprocessor.generate_postprocess(single).tolist() == [2, 3]
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(preprocessor))
    assert again.sequence_length == 8 and again.pack and again.tokenizer is None


@pytest.mark.slow_to_compile
def test_tokenizer_is_in_the_preset_but_not_among_the_weights(tmp_path):
    preset = shared_tiny_preset()
    model = SpeechSSM.from_preset(preset)
    assert model.count_params() == SpeechSSM.from_preset(preset + "/speech_lm").count_params()
    model.save_to_preset(str(tmp_path / "mine"))
    loaded = SpeechSSM.from_preset(str(tmp_path / "mine"), use_rotary=False)
    waveform = read_audio(ROOT / "examples" / "prompt.flac", duration=1.0)
    expected = model.preprocessor.generate_preprocess(waveform)["token_ids"]
    found = loaded.preprocessor.generate_preprocess([waveform])["token_ids"][0]
    np.testing.assert_array_equal(found, expected)


def test_a_transformer_fits_tokens_too(transformer, tokens):
    history = transformer.fit([tokens[0], tokens[1, :5]], batch_size=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_rematerialization_changes_no_loss(tokens):
    def fit(**options):
        return make_model(**options).fit(tokens, batch_size=4, shuffle=False, epochs=2, verbose=0)

    expected = fit().history["loss"]
    assert fit(rematerialize=True).history["loss"] == pytest.approx(expected, rel=1e-5)
    assert GriffinBackbone(VOCABULARY, 1, 8, 8, 1, rematerialize=True).get_config()["rematerialize"]


def test_models_without_quantization_say_so():
    assert not SoundStorm.supports_quantization and SpeechSSM.supports_quantization
    sizes = dict(num_levels=1, codebook_size=4, num_layers=1, hidden_dim=8, num_heads=2)
    soundstorm = SoundStorm(semantic_vocabulary_size=4, intermediate_dim=8, **sizes)
    with pytest.raises(ValueError, match="SoundStorm cannot be quantized"):
        soundstorm.quantize("int8")
