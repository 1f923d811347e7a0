import json
import shutil

import keras
import keras_hub
import numpy as np
import pytest
from broken_runs import verify_last_epoch_is_repeated

from keras_speechssm.data.packing import PackedSequences
from keras_speechssm.data.token_store import open_tokens, write_token_store, write_tokens
from keras_speechssm.models.griffin.convert_recurrent_gemma import save_as_hugging_face
from keras_speechssm.models.griffin.griffin_backbone import GriffinBackbone
from keras_speechssm.models.speech_ssm.speech_ssm import SpeechSSM
from keras_speechssm.models.speech_transformer.speech_transformer import SpeechTransformer
from keras_speechssm.training.callbacks import read_metrics
from keras_speechssm.training.speech_lm import (
    NOT_DECAYED,
    SpeechLMTrainingConfig,
    make_model,
    train_speech_lm,
)
from keras_speechssm.training.trainer import make_optimizer

TINY = {
    "num_layers": 2,
    "hidden_dim": 16,
    "intermediate_dim": 24,
    "num_heads": 2,
    "attention_window": 8,
}


def train(token_folders, output_dir, **options):
    config = SpeechLMTrainingConfig(token_folders=token_folders, output_dir=output_dir, **options)
    return train_speech_lm(config)


def token_folder(folder, num_recordings=4, vocabulary=7):
    """Recordings that count up, each from its own number."""
    recordings = {str(n): (np.arange(60) + n) % vocabulary for n in range(num_recordings)}
    write_token_store(folder, recordings, vocabulary)
    return folder


def settings(**options):
    return {
        "model_config": TINY,
        "sequence_length": 16,
        "batch_size": 4,
        "gradient_accumulation_steps": 1,
        "steps_per_epoch": 10,
        "warmup_steps": 20,
        "learning_rate": 1e-2,
        "weight_decay": 0.01,
        **options,
    }


def read_rows(folders, sequence_length):
    source = open_tokens(folders)
    return PackedSequences(source.lengths, source.read, sequence_length)


def losses(folder):
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl")]


@pytest.mark.slow_to_compile("tensorflow")
def test_training_learns_resumes_and_writes_a_preset(tmp_path):
    folder = token_folder(tmp_path / "tokens")
    options = settings(validation_folders=[folder])
    run = tmp_path / "run"
    train([folder], run, total_steps=10, **options)
    model = train([folder], run, total_steps=40, **options)
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
    assert lines[-1]["val_loss"] < 0.5 * lines[0]["val_loss"]
    loaded = SpeechSSM.from_preset(str(run / "preset"))
    assert loaded.backbone.vocabulary_size == 7 and not loaded.backbone.use_rotary
    tokens = np.array([[1, 2, 3, 4]])
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(loaded(tokens)), keras.ops.convert_to_numpy(model(tokens))
    )


@pytest.mark.slow_to_compile
def test_the_baseline_trains_on_the_same_rows(tmp_path):
    folder = token_folder(tmp_path / "tokens")
    config = {
        "num_layers": 2,
        "hidden_dim": 16,
        "intermediate_dim": 48,
        "num_query_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    options = settings(model="speech_transformer", model_config=config, validation_folders=[folder])
    train([folder], tmp_path / "run", total_steps=30, **options)
    found = losses(tmp_path / "run")
    assert found[-1] < 0.5 * found[0]
    restored = SpeechTransformer.from_preset(str(tmp_path / "run" / "preset"))
    assert restored.max_length == 16
    assert restored.backbone.num_layers == 2
    options |= dict(model_config=None, preset=str(tmp_path / "run" / "preset"), sequence_length=24)
    longer = train([folder], tmp_path / "longer", total_steps=10, **options)
    assert longer.max_length == 24


def test_the_two_models_are_of_one_size():
    sizes = []
    for name in ("speech_ssm", "speech_transformer"):
        config = SpeechLMTrainingConfig(token_folders=["x"], output_dir="x", model=name)
        sizes.append(make_model(config, 512).backbone.count_params())
    assert abs(sizes[0] / sizes[1] - 1) < 1e-3


def test_folders_of_different_tokenizers_are_refused(tmp_path):
    folders = [token_folder(tmp_path / "a"), token_folder(tmp_path / "b", vocabulary=9)]
    with pytest.raises(ValueError, match="share one tokenizer"):
        train(folders, tmp_path / "run")
    with pytest.raises(ValueError, match="a vocabulary of 7, but validation_folders has 9"):
        train(folders[:1], tmp_path / "run", validation_folders=folders[1:])
    assert not (tmp_path / "run").exists()


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="token_folders is empty"):
        train([], tmp_path / "run")


@pytest.mark.any_backend
def test_stores_and_npy_folders_of_earlier_versions_give_the_same_rows(tmp_path):
    store, folder = token_folder(tmp_path / "store"), tmp_path / "npy"
    for number in range(4):
        write_tokens(folder / f"{number}.npy", (np.arange(60) + number) % 7)
    manifest = {"vocabulary_size": 7, "recordings": {str(number): 60 for number in range(4)}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    of_folder, of_store = (read_rows([path], 16) for path in (folder, store))
    for ours, theirs in zip(of_folder.batches(3)(0)[1:], of_store.batches(3)(0)[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    train([store, folder], tmp_path / "run", total_steps=10, **settings())
    assert len(losses(tmp_path / "run")) == 1


@pytest.mark.slow_to_compile
def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path):
    folder = token_folder(tmp_path / "tokens", num_recordings=16)
    for name, options in (
        ("large", {"batch_size": 8}),
        ("small", {"batch_size": 2, "gradient_accumulation_steps": 4}),
    ):
        options = settings(clip_norm=1e9, validation_folders=[folder], validation_steps=2) | options
        train([folder], tmp_path / name, total_steps=20, **options)
    large, small = losses(tmp_path / "large"), losses(tmp_path / "small")
    assert len(large) == len(small) == 2
    # The rows' weights differ from batch to batch, and so do the means by a little.
    np.testing.assert_allclose(small, large, rtol=0.02)


@pytest.mark.slow_to_compile
def test_averages_of_the_weights_are_validated_and_kept(tmp_path):
    folder = token_folder(tmp_path / "tokens")
    plain = settings(validation_folders=[folder], validation_steps=1)
    train([folder], tmp_path / "plain", total_steps=20, **plain)
    model = train([folder], tmp_path / "ema", total_steps=20, ema_momentum=0.98, **plain)
    # The training is the same, what is validated is not.
    np.testing.assert_allclose(losses(tmp_path / "ema"), losses(tmp_path / "plain"), rtol=1e-5)
    value = read_metrics(tmp_path / "ema" / "metrics.jsonl")[-1]["val_loss"]
    assert value > 1.02 * read_metrics(tmp_path / "plain" / "metrics.jsonl")[-1]["val_loss"]
    batch = read_rows([folder], 16).held_out_batches(4, 1)[0]
    found = model.evaluate(*batch[:2], sample_weight=batch[2], batch_size=4, verbose=0)
    assert np.ravel(found)[0] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.slow_to_compile
def test_presets_are_kept_on_the_way_and_change_nothing(tmp_path, momentum):
    folder = token_folder(tmp_path / "tokens")
    options = settings(ema_momentum=momentum, validation_folders=[folder])
    model = train([folder], tmp_path / "a", total_steps=30, **options)
    train([folder], tmp_path / "b", total_steps=30, keep_presets_every=15, **options)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    kept = sorted(path.name for path in (tmp_path / "b" / "presets").iterdir())
    assert kept == ["step-00000020", "step-00000030"]
    first, last = (SpeechSSM.from_preset(str(tmp_path / "b" / "presets" / name)) for name in kept)
    tokens = np.array([[1, 2, 3, 4]])
    # The last is the best here, and its averages where there are such.
    expected, found, early = (
        keras.ops.convert_to_numpy(each(tokens)) for each in (model, last, first)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(early - expected).max() > 1e-3


@pytest.mark.slow_to_compile
def test_averages_resume(tmp_path):
    folder = token_folder(tmp_path / "tokens")
    options = settings(validation_folders=[folder], validation_steps=1, ema_momentum=0.9)
    whole = train([folder], tmp_path / "run", total_steps=20, **options)
    log = read_metrics(tmp_path / "run" / "metrics.jsonl")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "epoch-00002")
    again = train([folder], tmp_path / "run", total_steps=20, **options)
    assert [line["val_loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")] == (
        pytest.approx([line["val_loss"] for line in log], rel=1e-5)
    )
    for a, b in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow_to_compile
def test_low_rank_training_from_a_preset_leaves_the_rest(tmp_path):
    folder = token_folder(tmp_path / "tokens")
    first = train([folder], tmp_path / "first", total_steps=10, **settings())
    options = settings(model_config=None, preset=str(tmp_path / "first" / "preset"), lora_rank=2)
    options |= dict(steps_per_epoch=5, ema_momentum=0.9, gradient_accumulation_steps=2)
    options |= dict(batch_size=2, validation_folders=[folder])
    tuned = train([folder], tmp_path / "tuned", total_steps=10, **options)
    verify_last_epoch_is_repeated(
        tmp_path / "tuned", lambda: train([folder], tmp_path / "tuned", total_steps=10, **options)
    )
    same = keras.ops.convert_to_numpy(first.backbone.token_embedding.embeddings)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(tuned.backbone.token_embedding.embeddings), same
    )
    loaded = SpeechSSM.from_preset(str(tmp_path / "tuned" / "preset"))
    tokens = np.array([[1, 2, 3, 4]])
    outputs = [keras.ops.convert_to_numpy(model(tokens)) for model in (first, tuned, loaded)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
    np.testing.assert_allclose(outputs[2], outputs[1], atol=1e-4)


@pytest.mark.slow_to_compile
def test_low_rank_training_from_a_text_model_learns_the_embeddings_too(tmp_path):
    """They are random, so low-rank changes of the rest would learn little."""
    folder = token_folder(tmp_path / "tokens")
    save_as_hugging_face(GriffinBackbone(11, **TINY), tmp_path / "text")
    options = settings(model_config=None, text_preset=str(tmp_path / "text"), lora_rank=2)
    start = make_model(SpeechLMTrainingConfig(token_folders=[folder], output_dir="x", **options), 7)
    options["steps_per_epoch"] = 5
    model = train([folder], tmp_path / "run", total_steps=10, **options)
    trained = {variable.path.split("/")[-1] for variable in model.trainable_variables}
    assert trained == {"embeddings", "lora_kernel_a", "lora_kernel_b"}
    resumed = train([folder], tmp_path / "run", total_steps=15, **options)
    values = [
        keras.ops.convert_to_numpy(m.backbone.token_embedding.embeddings)
        for m in (start, model, resumed)
    ]
    assert np.abs(values[2] - values[1]).max() > 1e-3
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "a", "text_preset": "b"}, "starts from one"),
        ({"model": "speech_rnn"}, "'speech_rnn'; expected speech_ssm or speech_tr"),
        ({"sequence_length": 1}, "sequence_length is 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"validation_steps": 0}, "validation_steps is 0"),
        ({"ema_momentum": 1.0}, "ema_momentum is 1.0"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"seed": -1}, "seed is -1"),
        ({"total_steps": 0}, "total_steps is 0"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"lora_rank": 2}, "lora_rank needs trained weights"),
        ({"learning_rate": -1.0}, "learning_rate is -1"),
        ({"preset": "speech_ssm_demo_em", "model_config": None}, "Unknown preset"),
        ({"keep_presets_every": 0}, "keep_presets_every is 0"),
        ({"model_config": {"num_layer": 2}}, "'num_layer', which is not one of its arguments"),
        ({"model_config": {"vocabulary_size": 7}}, "'vocabulary_size'"),
        ({"device_mesh": [3]}, "expected a multiple of 3|needs the backend jax|devices"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, message):
    folder = token_folder(tmp_path / "tokens")
    with pytest.raises(ValueError, match=message):
        train([folder], tmp_path / "run", **settings(**options))
    # Nothing was started, so the command can be corrected and run again in the same folder.
    assert not list((tmp_path / "run").glob("*")), list((tmp_path / "run").glob("*"))


@pytest.mark.any_backend
def test_a_run_goes_on_with_its_own_options_only(tmp_path):
    folder = token_folder(tmp_path / "tokens")
    train([folder], tmp_path / "run", total_steps=10, **settings())
    for options in ({"batch_size": 2}, {"ema_momentum": 0.5}, {"steps_per_epoch": 20}):
        with pytest.raises(ValueError, match=f"was started with {next(iter(options))} "):
            train([folder], tmp_path / "run", total_steps=20, **settings(**options))
    train([folder], tmp_path / "run", total_steps=20, **settings())


def test_averages_have_the_momentum_of_a_step():
    options = dict(token_folders=["x"], output_dir="x", ema_momentum=0.9)
    config = SpeechLMTrainingConfig(gradient_accumulation_steps=1, **options)
    assert make_optimizer(config).ema_momentum == pytest.approx(0.9)
    config = SpeechLMTrainingConfig(gradient_accumulation_steps=4, **options)
    assert make_optimizer(config).ema_momentum ** 4 == pytest.approx(0.9)


@pytest.mark.any_backend
def test_a_preset_of_another_vocabulary_is_refused(tmp_path):
    folder = token_folder(tmp_path / "tokens")
    train([folder], tmp_path / "run", total_steps=10, **settings())
    other = token_folder(tmp_path / "other", vocabulary=9)
    options = settings(model_config=None, preset=str(tmp_path / "run" / "preset"))
    with pytest.raises(ValueError, match="a vocabulary of 9, but preset .* has 7"):
        train([other], tmp_path / "second", **options)


def test_a_preset_of_the_paper_s_size_starts_from_its_text_model(tmp_path, monkeypatch):
    """With new embeddings for the tokens of the data, whatever their number."""
    text = GriffinBackbone(11, **TINY)
    save_as_hugging_face(text, tmp_path)
    monkeypatch.setattr("kagglehub.model_download", lambda name: str(tmp_path))
    config = SpeechLMTrainingConfig(
        token_folders=["x"], output_dir="x", preset="speech_ssm_2b", dtype="mixed_bfloat16"
    )
    backbone = make_model(config, 7).backbone
    assert (backbone.vocabulary_size, backbone.use_rotary) == (7, False)
    assert backbone.dtype_policy.name == "mixed_bfloat16"
    for new, old in zip(backbone.weights[1:], text.weights[1:], strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (new, old)))


def test_the_recipe_is_the_papers():
    config = SpeechLMTrainingConfig(token_folders=["x"], output_dir="x")
    optimizer = make_optimizer(config, NOT_DECAYED)
    assert optimizer.weight_decay == 0.6 and optimizer.beta_2 == 0.98
    assert config.batch_size * config.gradient_accumulation_steps == 128
    assert config.total_steps == 100_000 and config.warmup_steps == 1000
    assert config.learning_rate == 5e-4 and config.final_learning_rate == 1 / 20


@pytest.mark.parametrize(
    ("recipe", "tokens", "sequences"),
    [
        ("paper-30s", 750, 512),
        ("paper-4min", 5760, 128),
        ("paper-16min", 24_000, 32),
        ("paper-x", 24_000, 32),
    ],
)
def test_the_recipes_have_the_papers_segments(recipe, tokens, sequences):
    config = SpeechLMTrainingConfig.from_recipe(recipe, token_folders=["x"], output_dir="x")
    assert config.sequence_length == tokens
    assert config.batch_size * config.gradient_accumulation_steps == sequences
    assert config.total_steps == 100_000 and config.text_preset


@pytest.mark.slow_to_compile
def test_twist_trains_on_rows_of_one_recording(tmp_path):
    backbone = keras_hub.models.OPTBackbone(7, 1, 2, 8, 16, max_sequence_length=16)
    SpeechTransformer(backbone, max_length=16).save_to_preset(str(tmp_path / "twist"))
    folder = token_folder(tmp_path / "tokens")
    options = settings(model="speech_transformer", validation_folders=[folder], total_steps=5)
    options |= dict(model_config=None, preset=str(tmp_path / "twist"))
    train([folder], tmp_path / "run", **options)
    assert np.isfinite(losses(tmp_path / "run")).all()
