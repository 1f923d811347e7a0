import dataclasses
import importlib

import pytest

from keras_speechssm.checks import check_at_least, check_between
from keras_speechssm.presets import PARTS
from keras_speechssm.training.config import (
    AudioTrainingConfig,
    TrainingConfig,
    check_model_config,
    demo_arguments,
)
from keras_speechssm.training.soundstorm import SoundStormTrainingConfig
from keras_speechssm.training.speech_lm import SpeechLMTrainingConfig

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize("value", [1, 2.5, None])
def test_what_is_in_range_passes(value):
    check_at_least(1, steps=value)
    check_between(1, 3, fraction=value)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_what_is_not_is_named(value):
    with pytest.raises(ValueError, match=r"^steps is .*; expected 1 or more\.$"):
        check_at_least(1, seconds=2, steps=value)
    with pytest.raises(ValueError, match=r"^fraction is .*; expected 1 to 3\.$"):
        check_between(1, 3, fraction=value)


def test_a_warm_up_as_long_as_the_run_gives_a_warning(caplog):
    TrainingConfig(output_dir="run", total_steps=1000, warmup_steps=999)
    assert not caplog.text
    TrainingConfig(output_dir="run", total_steps=500, warmup_steps=1000)
    assert "does not reach its peak in 500 steps" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"crop_seconds": -1.0}, "crop_seconds is -1"),
        ({"crop_seconds": float("inf")}, "crop_seconds is inf"),
        ({"validation_folders": ["no/such"]}, "no/such does not exist"),
        ({"audio_folders": []}, "audio_folders is empty"),
        ({"ema_momentum": 1.0}, "ema_momentum is 1.0"),
        ({"keep_presets_every": 0}, "keep_presets_every is 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    fitting = dict(output_dir=tmp_path / "run", audio_folders=[tmp_path])
    AudioTrainingConfig(**fitting)
    with pytest.raises(ValueError, match=message):
        AudioTrainingConfig(**{**fitting, **options})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], "2 numbers for 1 folders"),
        ([-1.0], r"folder_weights\[0\] is -1"),
        ([0.0], "all zero"),
    ],
)
def test_folder_weights_that_do_not_fit_are_refused(tmp_path, weights, message):
    module = importlib.import_module("keras_speechssm.training.codec")
    options = dict(output_dir=tmp_path / "run", audio_folders=[tmp_path])
    module.CodecTrainingConfig(folder_weights=[2.0], **options)
    with pytest.raises(ValueError, match=message):
        module.CodecTrainingConfig(folder_weights=weights, **options)


def test_a_run_keeps_its_fixed_options(tmp_path):
    config = TrainingConfig(output_dir=tmp_path, batch_size=4, model_config={"sizes": (1, 2)})
    config.check_resumed()
    assert not list(tmp_path.iterdir())
    config.save()
    dataclasses.replace(config, total_steps=20, learning_rate=1.0).check_resumed()
    with pytest.raises(ValueError, match="was started with batch_size 4"):
        dataclasses.replace(config, batch_size=8).check_resumed()


@pytest.mark.parametrize("part", PARTS)
def test_the_demo_gives_the_size_of_new_models(part):
    arguments = demo_arguments(part)
    assert arguments and not {"name", "dtype", "seed", "lru_width"} & set(arguments)


@pytest.mark.parametrize("name", ["config", "speech_lm", "soundstorm", "tokenizer", "codec"])
def test_every_option_has_a_help_text(name):
    module = importlib.import_module(f"keras_speechssm.training.{name}")
    for config in vars(module).values():
        if isinstance(config, type) and issubclass(config, TrainingConfig):
            texts = "\n".join(owner.__doc__ or "" for owner in config.__mro__)
            for field in dataclasses.fields(config):
                assert f"        {field.name}: " in texts, (config, field.name)


def test_arguments_that_a_model_does_not_take_are_named():
    class Model:
        def __init__(self, width, sizes=(), **kwargs): ...

    check_model_config(None, Model)
    check_model_config({"width": 1, "dtype": "float32"}, Model, ("sizes",))
    with pytest.raises(ValueError, match="'depth', which is not one of its arguments"):
        check_model_config({"depth": 1}, Model)
    with pytest.raises(ValueError, match="'kwargs'"):
        check_model_config({"kwargs": 1}, Model)
    with pytest.raises(ValueError, match="'sizes', which follows from the data"):
        check_model_config({"sizes": 1}, Model, ("sizes",))


STORE = dict(token_folders=["store"], output_dir="run")


def test_a_recipe_sets_options_and_explicit_ones_win():
    config = SpeechLMTrainingConfig.from_recipe("finetune", **STORE)
    assert (config.preset, config.lora_rank) == ("speech_ssm_demo_en", 8)
    assert (config.sequence_length, config.gradient_accumulation_steps) == (750, 1)
    config = SpeechLMTrainingConfig.from_recipe("finetune", **STORE, lora_rank=4, total_steps=9)
    assert (config.lora_rank, config.total_steps, config.sequence_length) == (4, 9, 750)
    assert SpeechLMTrainingConfig.from_recipe(None, **STORE) == SpeechLMTrainingConfig(**STORE)


def test_recipes_cover_what_the_documents_name():
    segments = ["paper-30s", "paper-4min", "paper-16min"]
    recipes = ["finetune", "paper", *segments, "paper-x", "demo"]
    assert sorted(SpeechLMTrainingConfig.recipes) == sorted(recipes)
    paper = SpeechLMTrainingConfig.from_recipe("paper", **STORE)
    assert paper.text_preset == "hf://google/recurrentgemma-2b-it" and paper.preset is None
    # 128 rows of 4 min per step, and 768,000 tokens of 16 min, as in the paper's appendix B.1.
    assert (paper.batch_size * paper.gradient_accumulation_steps, paper.sequence_length) == (
        128,
        5760,
    )
    long = SpeechLMTrainingConfig.from_recipe("paper-16min", **STORE)
    assert long.batch_size * long.gradient_accumulation_steps * long.sequence_length == 768_000
    assert SpeechLMTrainingConfig.from_recipe("demo", **STORE).preset is None


@pytest.mark.parametrize("name", SpeechLMTrainingConfig.recipes)
@pytest.mark.parametrize("start", ["preset", "text_preset"])
def test_an_explicit_start_replaces_that_of_a_recipe(name, start):
    config = SpeechLMTrainingConfig.from_recipe(name, **STORE, **{start: "mine"})
    assert [config.preset, config.text_preset].count(None) == 1
    assert getattr(config, start) == "mine"


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="recipe is 'paperr'; expected one of finetune, paper"):
        SpeechLMTrainingConfig.from_recipe("paperr", **STORE)


def test_soundstorm_has_a_recipe_to_fine_tune(tmp_path):
    config = SoundStormTrainingConfig.from_recipe(
        "finetune", audio_folders=[tmp_path], output_dir="run"
    )
    assert config.preset == config.tokenizer_preset == config.codec_preset == "speech_ssm_demo_en"
    assert config.total_steps < 1000 and config.learning_rate < 1e-3
