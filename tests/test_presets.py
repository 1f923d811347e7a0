"""Preset names and folders, loading errors, and atomic saving."""

import inspect
import json
from pathlib import Path

import h5py
import keras
import keras_hub
import numpy as np
import pytest
import yaml

from keras_speechssm import models
from keras_speechssm.models.preset_mixin import PresetMixin, load_part
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.presets import (
    PRESETS,
    fetch_pipeline,
    preset_names,
    resolve_preset,
    store_weights_as_float16,
)


@keras.saving.register_keras_serializable(package="keras_speechssm_tests")
class TinyBackbone(PresetMixin, keras_hub.models.Backbone):
    """Two dense layers: the least that can be saved."""

    preset_part = "soundstorm"

    def __init__(self, hidden_dim, dtype=None, **kwargs):
        self.dense = keras.layers.Dense(hidden_dim, dtype=dtype, name="dense")
        inputs = keras.Input((None, 3), name="audio_features")
        super().__init__(inputs=inputs, outputs=self.dense(inputs), dtype=dtype, **kwargs)
        self.hidden_dim = hidden_dim

    def get_config(self):
        return {**super().get_config(), "hidden_dim": self.hidden_dim}


@keras.saving.register_keras_serializable(package="keras_speechssm_tests")
class OtherBackbone(TinyBackbone):
    """A class that a TinyBackbone preset is not."""


def forward(model):
    return keras.ops.convert_to_numpy(model(np.ones((1, 2, 3), "float32")))


@pytest.fixture
def saved(tmp_path):
    model = TinyBackbone(4)
    model.save_to_preset(str(tmp_path / "tiny"))
    return model, tmp_path / "tiny"


def write_pipeline(folder, parts):
    folder.mkdir(exist_ok=True)
    config = {"pipeline": "SpeechContinuation", "parts": parts}
    (folder / "config.json").write_text(json.dumps(config))


def test_saved_model_loads_to_the_same_outputs(saved):
    model, folder = saved
    np.testing.assert_array_equal(forward(TinyBackbone.from_preset(folder)), forward(model))
    through_keras_hub = keras_hub.models.Backbone.from_preset(str(folder))
    np.testing.assert_array_equal(forward(through_keras_hub), forward(model))


def test_a_preset_holds_no_optimizer(tmp_path):
    model = TinyBackbone(4)
    model.compile("adam", "mse")
    model.fit(np.ones((2, 5, 3)), np.ones((2, 5, 4)), epochs=1, verbose=0)
    before = [np.array(v) for v in model.get_weights()]
    steps = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
    model.save_to_preset(str(tmp_path / "preset"))
    with h5py.File(tmp_path / "preset" / "model.weights.h5") as file:
        assert "optimizer" not in file
    # It trains on as if nothing had been saved.
    model.fit(np.ones((2, 5, 3)), np.ones((2, 5, 4)), epochs=1, verbose=0)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == steps + 1
    loaded = TinyBackbone.from_preset(str(tmp_path / "preset"))
    for kept, found in zip(before, loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, found)


def test_pipeline_folder_resolves_to_the_part(saved, tmp_path):
    model, folder = saved
    write_pipeline(tmp_path, {"soundstorm": "tiny"})
    assert resolve_preset(str(tmp_path), "soundstorm") == str(folder)
    np.testing.assert_array_equal(forward(TinyBackbone.from_preset(str(tmp_path))), forward(model))


def test_handles_pass_through():
    assert resolve_preset("hf://someone/speech_ssm", "speech_lm") == "hf://someone/speech_ssm"


@pytest.mark.parametrize("name", ["../tiny", "/etc", "..", "", 3, None])
def test_part_outside_the_preset_is_refused(tmp_path, name):
    write_pipeline(tmp_path / "pipeline", {"soundstorm": name})
    with pytest.raises(ValueError, match="does not name a folder for its part 'soundstorm'"):
        resolve_preset(str(tmp_path / "pipeline"), "soundstorm")


def test_part_whose_folder_is_missing(tmp_path):
    write_pipeline(tmp_path, {"soundstorm": "absent"})
    with pytest.raises(ValueError, match="the folder 'absent' of its part 'soundstorm' is missing"):
        resolve_preset(str(tmp_path), "soundstorm")


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_unknown_preset():
    with pytest.raises(ValueError) as error:
        TinyBackbone.from_preset("no_such_preset")
    assert "Unknown preset 'no_such_preset'" in one_line(error)
    with pytest.raises(ValueError, match="Did you mean 'soundstorm_600m'"):
        TinyBackbone.from_preset("soundstorm_60m")


@pytest.mark.parametrize("content", [None, "{", "[]", '{"registered_name": "os>system"}', "{}"])
def test_bad_config(saved, content):
    _, folder = saved
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(ValueError) as error:
        TinyBackbone.from_preset(str(folder))
    one_line(error)


def test_missing_weight_file(saved):
    _, folder = saved
    (folder / "model.weights.h5").unlink()
    with pytest.raises(ValueError) as error:
        TinyBackbone.from_preset(str(folder))
    assert "no weight file" in one_line(error)
    assert TinyBackbone.from_preset(str(folder), load_weights=False).hidden_dim == 4


@pytest.mark.parametrize("kept", [0, 100, -100])
def test_truncated_weight_file(saved, kept):
    _, folder = saved
    path = folder / "model.weights.h5"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError) as error:
        TinyBackbone.from_preset(str(folder))
    assert "truncated or not an HDF5 file" in one_line(error)


def test_weights_of_another_size(saved):
    _, folder = saved
    with pytest.raises(ValueError) as error:
        TinyBackbone.from_preset(str(folder), hidden_dim=5)
    assert "could not be loaded as TinyBackbone" in one_line(error)


def test_wrong_class(saved):
    _, folder = saved
    with pytest.raises(ValueError) as error:
        OtherBackbone.from_preset(str(folder))
    assert "TinyBackbone" in one_line(error)


def test_float16_weights_load_into_float32(saved):
    model, folder = saved
    store_weights_as_float16(folder)
    with h5py.File(folder / "model.weights.h5") as file:
        dtypes = []
        file.visititems(lambda _, item: dtypes.append(getattr(item, "dtype", None)))
    assert "float16" in dtypes and "float32" not in dtypes
    loaded = TinyBackbone.from_preset(str(folder))
    assert {str(w.dtype) for w in loaded.weights} == {"float32"}
    np.testing.assert_allclose(forward(loaded), forward(model), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("dtype", [None, "mixed_bfloat16"])
def test_a_model_of_mixed_precision_loads_with_the_current_policy(tmp_path, dtype):
    model = TinyBackbone(4, dtype="mixed_bfloat16")
    model.save_to_preset(str(tmp_path / "mixed"))
    loaded = TinyBackbone.from_preset(str(tmp_path / "mixed"), dtype=dtype)
    assert loaded.dense.dtype_policy.name == (dtype or "float32")
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_value_beyond_float16_stays_float32(saved):
    model, folder = saved
    kernel = np.full((3, 4), 1e6, "float32")
    model.dense.kernel.assign(kernel)
    model.save_to_preset(str(folder))
    store_weights_as_float16(folder)
    loaded = TinyBackbone.from_preset(str(folder))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(loaded.dense.kernel), kernel)


def test_only_language_models_are_quantized(saved):
    model = saved[0]
    with pytest.raises(ValueError, match="TinyBackbone cannot be quantized"):
        model.quantize("int8")
    assert model.dense.quantization_mode is None


def test_failed_save_leaves_the_old_preset(saved, monkeypatch):
    model, folder = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(keras.saving, "save_weights", fail)
    with pytest.raises(OSError, match="disk full"):
        TinyBackbone(7).save_to_preset(str(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(OSError, match="disk full"):
        model.save_to_preset(str(folder.parent / "new"))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tiny"]


def test_save_keeps_the_folder_s_other_files(saved):
    model, folder = saved
    (folder / "README.md").write_text("card")
    model.save_to_preset(str(folder))
    assert (folder / "README.md").read_text() == "card"


def test_fetch_pipeline_refuses_a_single_model(saved):
    with pytest.raises(ValueError) as error:
        fetch_pipeline(str(saved[1]))
    assert "is not a pipeline" in one_line(error)
    assert "TinyBackbone.from_preset(" in str(error.value)


def test_fetch_pipeline_downloads_a_handle(tmp_path, monkeypatch):
    write_pipeline(tmp_path, {"soundstorm": "tiny"})
    asked = []
    monkeypatch.setattr(
        "kagglehub.model_download", lambda name: asked.append(name) or str(tmp_path)
    )
    folder, config = fetch_pipeline("kaggle://someone/speech/keras/demo")
    assert (folder, asked) == (str(tmp_path), ["someone/speech/keras/demo"])
    assert config["parts"] == {"soundstorm": "tiny"}
    with pytest.raises(ValueError, match="Unknown scheme 'ftp'"):
        fetch_pipeline("ftp://someone/speech")


@pytest.mark.parametrize(
    "error", [ValueError("Invalid model handle: foo"), RuntimeError("BackendError: no such model")]
)
def test_what_a_hub_says_is_one_line_with_an_example(monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr("kagglehub.model_download", fail)
    with pytest.raises(ValueError, match="could not be downloaded: .*flax/2b-it") as found:
        fetch_pipeline("kaggle://foo")
    assert str(error) in one_line(found)


def test_load_part_takes_the_class_from_the_folder(saved, tmp_path):
    write_pipeline(tmp_path, {"soundstorm": "tiny", "speech_lm": "tiny"})
    assert type(load_part(str(tmp_path), "soundstorm")) is TinyBackbone
    with pytest.raises(ValueError, match="TinyBackbone', not a speech_lm"):
        load_part(str(tmp_path), "speech_lm")


def test_load_part_downloads_a_handle(saved, tmp_path, monkeypatch):
    write_pipeline(tmp_path, {"soundstorm": "tiny", "speech_lm": "tiny"})
    monkeypatch.setattr("kagglehub.model_download", lambda name: str(tmp_path))
    assert type(load_part("kaggle://someone/speech/keras/demo", "soundstorm")) is TinyBackbone


def test_a_model_s_class_finds_it_in_a_pipeline_behind_a_handle(saved, tmp_path, monkeypatch):
    write_pipeline(tmp_path, {"soundstorm": "tiny"})
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name: str(tmp_path))
    found = TinyBackbone.from_preset("hf://someone/speech")
    np.testing.assert_array_equal(found.get_weights()[0], saved[0].get_weights()[0])


def test_the_registry_lists_each_preset_that_is_distributed():
    assert set(preset_names()) <= set(PRESETS)
    for name in set(PRESETS) - set(preset_names()):
        assert PRESETS[name]["weights"] and PRESETS[name]["handle"]
    local = preset_names()
    for name in local:
        folder = Path(resolve_preset(name))
        assert any(folder.rglob("*.weights.h5")) == PRESETS[name]["weights"]
        card = (folder / "README.md").read_text(encoding="utf-8")
        metadata = yaml.safe_load(card.split("---\n")[1])
        assert metadata["license"] == PRESETS[name]["license"].lower()
        assert metadata["library_name"] == "keras-hub" and "speech" in metadata["tags"]
        assert metadata["pipeline_tag"] in ("audio-to-audio", "feature-extraction")
        assert PRESETS[name].get("handle", "") in card
        if (folder / "metadata.json").is_file():
            counts = json.loads((folder / "metadata.json").read_text())["parameters"].values()
            assert sum(counts) == PRESETS[name]["params"]
        elif PRESETS[name]["params"] > 1e9:
            assert f"{PRESETS[name]['params']:,} parameters" in card
        else:
            assert f"{PRESETS[name]['params'] / 1e6:g} M parameters" in card


def test_classes_show_the_presets_that_they_load():
    assert list(models.SpeechSSM.presets) == [
        "speech_ssm_demo_en",
        "speech_ssm_2b",
        "speech_ssm_9b",
    ]
    assert "recurrent_gemma_2b_it_en" in models.GriffinBackbone.presets
    for name in models.__all__:
        presets = getattr(getattr(models, name), "presets", None)
        if presets is not None:
            for preset in presets.values():
                assert {"description", "params", "license", "weights", "handle"} <= set(preset)
    demo, paper = models.SpeechSSM.presets["speech_ssm_demo_en"], models.SpeechSSM.presets
    assert demo["handle"] is None and paper["speech_ssm_2b"]["handle"].startswith("kaggle://")
    assert list(SpeechContinuation.presets) == [
        "speech_ssm_demo_en",
        "speech_ssm_2b_paper",
        "speech_ssm_2b_s3",
    ]
    models.SpeechSSM.presets.clear()
    models.SpeechSSM.presets["speech_ssm_2b"]["params"] = 0
    assert models.SpeechSSM.presets["speech_ssm_2b"]["params"] == 2_111_388_160


def test_a_preset_that_has_to_be_downloaded_resolves_to_its_handle():
    handle = "kaggle://google/recurrentgemma/flax/2b-it"
    assert resolve_preset("recurrent_gemma_2b_it_en", "speech_lm") == handle


def test_a_configuration_without_weights_says_what_to_do():
    with pytest.raises(ValueError, match="'soundstorm_600m' is a config.*load_weights=") as error:
        models.SoundStorm.from_preset("soundstorm_600m")
    one_line(error)
    with pytest.raises(ValueError, match="'semantic_tokenizer_600m' is a configuration"):
        models.SemanticTokenizer.from_preset("speech_ssm_2b_paper")  # one part of it
    with pytest.raises(ValueError, match="Use `SoundStorm.from_preset"):  # the class that it fits
        models.SpeechSSM.from_preset("soundstorm_600m")


@pytest.mark.parametrize("cls", ["SpeechSSM", "GriffinBackbone"])
def test_offline_a_text_model_is_named_with_what_to_type_instead(monkeypatch, cls):
    def fail(name):
        raise ConnectionError("no network\nmore")

    monkeypatch.setattr("kagglehub.model_download", fail)
    with pytest.raises(ValueError, match="kaggle://.*/2b-it', which could not .* no conn") as error:
        getattr(models, cls).from_preset("speech_ssm_2b")
    for advice in (
        "Preset 'speech_ssm_2b' starts from the weights of the text model ",
        "from_text_preset('hf://google/recurrentgemma-2b-it')",
        "from_preset('speech_ssm_2b', load_weights=False)",
    ):
        assert advice in one_line(error)
    with pytest.raises(ValueError, match="is downloaded from 'kaggle://.*/2b'.*no conn") as error:
        models.GriffinBackbone.from_preset("recurrent_gemma_2b_en")
    assert "from_preset('hf://google/recurrentgemma-2b')" in one_line(error)


@pytest.mark.parametrize(
    "arguments",
    [
        {"preset": "speech_ssm_2b_paper"},
        {"speech_lm": "speech_ssm_2b"},
        {"soundstorm": "soundstorm_600m"},
    ],
)
def test_a_pipeline_does_not_speak_with_an_untrained_preset(arguments):
    """And downloads no text model for it."""
    name = next(iter(arguments.values()))
    with pytest.raises(ValueError, match=f"{name!r} has no trained speech weights") as error:
        SpeechContinuation.from_preset(**arguments)
    assert "load_weights=False" in one_line(error)


def test_a_part_may_be_a_distributed_preset(tmp_path):
    write_pipeline(tmp_path, {"soundstorm": "soundstorm_600m", "speech_lm": "speech_ssm_2b_paper"})
    assert resolve_preset(tmp_path, "soundstorm") == resolve_preset("soundstorm_600m")
    with pytest.raises(ValueError, match="'speech_ssm_2b_paper' of its part .* is missing"):
        resolve_preset(tmp_path, "speech_lm")


PUBLIC_MODELS = [
    getattr(models, name)
    for name in models.__all__
    if isinstance(getattr(models, name), type) and issubclass(getattr(models, name), PresetMixin)
]


@pytest.mark.parametrize("cls", [*PUBLIC_MODELS, models.SpeechSSMPreprocessor])
def test_a_misspelled_constructor_argument_gets_the_nearest_name(cls):
    name = list(inspect.signature(cls.__init__).parameters)[1]
    wrong = f"{name[:-1]}_{name[-1]}"
    with pytest.raises(ValueError, match=f"{cls.__name__} has no argument '{wrong}'. Did you") as e:
        cls(**{wrong: 3})
    assert f"Did you mean {name!r}?" in one_line(e)


def test_arguments_of_a_base_class_and_of_older_configs_are_known():
    assert TinyBackbone(4, name="tiny").name == "tiny"
    assert OtherBackbone(hidden_dim=4, trainable=False).trainable is False
    with pytest.raises(ValueError, match="SourceFilter.* no argument 'num_quantizer'. Did you"):
        models.SourceFilterSoundStream(num_quantizer=3)
    config = {**TinyBackbone(4).get_config(), "dropped_in_a_later_version": 1}
    assert TinyBackbone.from_config(config).hidden_dim == 4


def test_a_misspelled_argument_gets_the_nearest_name(saved):
    with pytest.raises(ValueError, match="no argument 'hiden_dim'. Did you mean 'hidden_dim'"):
        TinyBackbone.from_preset(str(saved[1]), hiden_dim=4)
    with pytest.raises(ValueError, match="'load_weight'. Did you mean 'load_weights'"):
        TinyBackbone.from_preset(str(saved[1]), load_weight=False)
