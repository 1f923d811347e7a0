import importlib

import pytest

from keras_speechssm.checks import check_at_least, check_between
from keras_speechssm.training.config import check_crops, check_model_config, check_schedule

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize("value", [1, 2.5, None])
def test_what_is_in_range_passes(value):
    check_at_least(1, steps=value)
    check_between(1, 3, share=value)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_what_is_not_is_named(value):
    with pytest.raises(ValueError, match=r"^steps is .*; expected 1 or more\.$"):
        check_at_least(1, seconds=2, steps=value)
    with pytest.raises(ValueError, match=r"^share is .*; expected 1 to 3\.$"):
        check_between(1, 3, share=value)


def test_a_warm_up_as_long_as_the_run_is_told(capsys):
    check_schedule(1e-3, total_steps=1000, steps_per_epoch=10, warmup_steps=999)
    assert not capsys.readouterr().err
    check_schedule(1e-3, total_steps=500, steps_per_epoch=10, warmup_steps=1000)
    assert "in 500 steps the learning rate does not reach its peak" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"crop_seconds": -1.0}, "crop_seconds is -1"),
        ({"crop_seconds": float("inf")}, "crop_seconds is inf"),
        ({"folder_weights": [1.0, 2.0]}, "2 numbers for 1 folders"),
        ({"folder_weights": [-1.0]}, r"folder_weights\[0\] is -1"),
        ({"folder_weights": [0.0]}, "all zero"),
        ({"validation_folders": ["no/such"]}, "no/such does not exist"),
    ],
)
def test_crops_that_cannot_be_cut_are_refused(tmp_path, options, message):
    fitting = dict(validation_folders=None, batch_size=1, crop_seconds=1.0, folder_weights=[2.0])
    check_crops([tmp_path], **fitting)
    with pytest.raises(ValueError, match=message):
        check_crops([tmp_path], **{**fitting, **options})


@pytest.mark.parametrize(
    ("name", "presets"),
    [
        ("codec", {}),
        ("tokenizer", {}),
        ("soundstorm", {"tokenizer_preset": "none", "codec_preset": "none"}),
    ],
)
def test_every_training_on_audio_looks_at_its_crops_first(tmp_path, name, presets):
    module = importlib.import_module(f"keras_speechssm.training.{name}")
    with pytest.raises(ValueError, match="crop_seconds is -1"):
        getattr(module, f"train_{name}")([tmp_path], tmp_path / "run", crop_seconds=-1.0, **presets)
    assert not (tmp_path / "run").exists()


def test_arguments_that_a_model_does_not_take_are_named():
    class Model:
        def __init__(self, width, sizes=(), **kwargs): ...

    check_model_config(None, Model)
    check_model_config({"width": 1, "dtype": "float32"}, Model, ("sizes",))
    with pytest.raises(ValueError, match="'depth', which is no argument of Model to be set here.$"):
        check_model_config({"depth": 1}, Model)
    with pytest.raises(ValueError, match="'kwargs'"):
        check_model_config({"kwargs": 1}, Model)
    with pytest.raises(ValueError, match="'sizes'.*; the data decide it"):
        check_model_config({"sizes": 1}, Model, ("sizes",))
