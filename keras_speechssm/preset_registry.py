"""Names of presets -> folders, and loading from them with errors of one clear line.

A preset of one model is a KerasHub preset folder (`config.json`, `model.weights.h5`,
...). A pipeline preset is a folder whose `config.json` names one sub-folder for each
part:

    {"pipeline": "SpeechContinuation",
     "parts": {"semantic_tokenizer": "semantic_tokenizer", "speech_lm": "speech_lm",
               "soundstorm": "soundstorm", "soundstream": "soundstream"}}

A preset holds JSON and HDF5 arrays only. Nothing in it is executed: Keras resolves
class names against the classes registered in this process, and no file is unpickled.
"""

import inspect
import json
import os
import warnings
from pathlib import Path

import keras
import keras_hub

from keras_speechssm.preset_files import (
    check_weight_files,
    first_line,
    is_being_written,
    replace_folder,
)

PARTS = ("semantic_tokenizer", "speech_lm", "soundstorm", "soundstream")
"""The parts of a pipeline preset."""

DEFAULT_PRESET = "speech_ssm_demo_en"
"""The trained preset that travels with the package."""

_HERE = Path(__file__).resolve().parent
# In a wheel the top-level presets/ lies inside the package; in a checkout beside it.
_PRESET_ROOTS = (_HERE / "presets", _HERE.parent / "presets")


def preset_names() -> list[str]:
    """Names of the presets that travel with the package, sorted."""
    return sorted(
        folder.name
        for root in _PRESET_ROOTS
        if root.is_dir()
        for folder in root.iterdir()
        if (folder / "config.json").is_file()
    )


def resolve_preset(preset: str, part: str | None = None) -> str:
    """The folder or handle that holds one model, or a whole pipeline.

    Args:
        preset: a name from `preset_names()`, a local folder, or an `hf://` or
            `kaggle://` handle (returned as it is).
        part: one of `PARTS`. A pipeline folder then gives its sub-folder for that
            part; any other folder is returned as it is. Defaults to `None`.

    Raises:
        ValueError: the preset is unknown, its `config.json` is missing or is not
            JSON, or the pipeline has no such part.
    """
    preset = os.fspath(preset)
    if "://" in preset:
        return preset
    folder = _find_folder(preset)
    config = read_json_file(folder)
    if part is None or "parts" not in config:
        return str(folder)
    name = config["parts"].get(part) if isinstance(config["parts"], dict) else None
    # A plain name only: a preset does not reach outside its own folder.
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"Preset {preset!r} names no folder for its part {part!r}.")
    if not (folder / name).is_dir():
        raise ValueError(f"Preset {preset!r} lacks the folder {name!r} of its part {part!r}.")
    return str(folder / name)


def fetch_folder(preset: str, part: str | None = None) -> str:
    """The local folder of a preset or of another library's checkpoint, downloaded if need be.

    Raises:
        ValueError: the preset is unknown, or the handle cannot be downloaded.
    """
    preset = os.fspath(preset)
    if "://" in preset:
        preset = _download(preset)
    bare = Path(preset).is_dir() and not (Path(preset) / "config.json").is_file()
    if bare and preset not in preset_names():
        return preset  # Flax and torch checkpoints have none.
    return resolve_preset(preset, part)


def stored_dtype(folder: str) -> str:
    """The dtype policy that a single model's preset folder was saved with."""
    config = read_json_file(Path(folder)).get("config", {})
    return keras.dtype_policies.get(config.get("dtype")).name


def fetch_pipeline(preset: str) -> tuple[str, dict]:
    """The local folder of a pipeline preset, downloaded if need be, and its config.

    Raises:
        ValueError: the preset is unknown or no pipeline.
    """
    folder = _download(preset) if "://" in os.fspath(preset) else resolve_preset(preset)
    config = read_json_file(Path(folder))
    if config.get("pipeline") != "SpeechContinuation":
        raise ValueError(
            f"Preset {preset!r} is no pipeline: it holds one model, or a config only, which is "
            "loaded by its class's from_preset, or put into a pipeline."
        )
    return folder, config


def load_part(preset: str, part: str):
    """The model of one part of a pipeline, or of a preset of its own, of its config's class.

    Args:
        preset: name, folder or handle.
        part: one of `PARTS`.
    """
    path = Path(fetch_folder(preset, part))
    config = read_json_file(path, "task.json" if (path / "task.json").is_file() else "config.json")
    name = config.get("registered_name")
    # Registered classes only: a name is looked up, never imported.
    found = keras.saving.get_registered_object(str(name))
    if task := getattr(found, "preset_task", None):  # a bare backbone, as converted ones are
        found = keras.saving.get_registered_object(task)
    if getattr(found, "preset_part", None) != part:
        raise ValueError(f"The preset folder {str(path)!r} holds {name!r}, which is no {part}.")
    return found.from_preset(str(path))


class PresetMixin:
    """Gives a KerasHub model our preset names, clear errors and whole-or-nothing saving.

    Put it before the KerasHub base, and name the part of a pipeline that the class is:

    ```python
    class SoundStorm(PresetMixin, keras_hub.models.Backbone):
        preset_part = "soundstorm"
    ```
    """

    preset_part: str | None = None

    @classmethod
    def from_preset(cls, preset: str, load_weights: bool = True, **kwargs):
        """Builds the model from a preset, with its weights unless told otherwise.

        Args:
            preset: a preset's name, a folder (of this model, or of a pipeline that
                has it as a part), or an `hf://` or `kaggle://` handle.
            load_weights: bool. `False` gives fresh weights. Defaults to `True`.
            **kwargs: arguments that override the preset's config, such as `dtype`; a task
                takes its backbone's too.

        Raises:
            ValueError: unknown preset or argument, wrong kind of model, or a weight file that
                is missing, truncated or made for another config.
        """
        folder = fetch_folder(preset, cls.preset_part)
        if load_weights and "registered_name" in read_json_file(Path(folder)):
            # Else a checkpoint of another library: its converter knows its files.
            check_weight_files(Path(folder))
        saved = read_json_file(Path(folder)).get("config", {}).get("dtype")
        if kwargs.get("dtype") is None and _is_mixed(saved):
            # As KerasHub does with all other floats: it takes "mixed_bfloat16" for no dtype.
            kwargs["dtype"] = keras.config.dtype_policy()
        try:
            with warnings.catch_warnings():
                # Keras only warns when the file lacks some layers' weights.
                warnings.filterwarnings("error", message="Skipping nested container")
                kwargs = _with_changed_backbone(cls, folder, load_weights, kwargs)
                if "backbone" in kwargs:
                    return cls(**kwargs)
                return super().from_preset(folder, load_weights=load_weights, **kwargs)
        except UserWarning:
            raise ValueError(
                f"Preset {preset!r} could not be loaded as {cls.__name__}: "
                "its weight file does not fit its config."
            ) from None
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            reason = first_line(error)
            raise ValueError(
                f"Preset {preset!r} could not be loaded as {cls.__name__}: {reason}"
            ) from error

    def save_to_preset(self, preset_dir: str, max_shard_size: float = 10) -> None:
        """Writes the model as a preset folder, whole or not at all, without its optimizer.

        Args:
            preset_dir: the folder. One that exists keeps its other files.
            max_shard_size: largest weight file in GB. Defaults to `10`.
        """
        if is_being_written(preset_dir):  # a task's backbone, or a part of a pipeline
            self._save_bare(preset_dir, max_shard_size)
            return
        with replace_folder(preset_dir) as partial:
            self._save_bare(partial, max_shard_size)

    def quantize(self, mode=None, **kwargs) -> None:
        """As `keras.Model.quantize`, for the language models; see `GriffinBackbone.quantize`.

        Raises:
            ValueError: the model is another part of a pipeline. Keras would quantise some of
                its layers, and then not load the preset that it saves.
        """
        if self.preset_part != "speech_lm":
            raise ValueError(f"{type(self).__name__} cannot be quantised: the language models can.")
        super().quantize(mode, **kwargs)

    def _save_bare(self, folder, max_shard_size: float) -> None:
        """Without what is no part of the model: Adam's moments, a function as preprocessor."""
        bare: dict = {"optimizer": getattr(self, "optimizer", None)}
        if not isinstance(getattr(self, "preprocessor", None), keras.layers.Layer | None):
            bare["preprocessor"] = self.preprocessor
        try:
            for name in bare:
                setattr(self, name, None)
            super().save_to_preset(str(folder), max_shard_size=max_shard_size)
        finally:
            for name, value in bare.items():
                setattr(self, name, value)


def _find_folder(preset: str) -> Path:
    for root in _PRESET_ROOTS:
        if Path(preset).name == preset and (root / preset / "config.json").is_file():
            return root / preset
    if Path(preset).is_dir():
        return Path(preset)
    known = ", ".join(preset_names()) or "none"
    raise ValueError(
        f"Unknown preset {preset!r}: give a preset's name ({known}), a folder, "
        "or an hf:// or kaggle:// handle."
    )


def _download(handle: str) -> str:
    """The local copy of an `hf://` or `kaggle://` pipeline preset."""
    scheme, name = handle.split("://", 1)
    if scheme not in ("hf", "kaggle"):
        raise ValueError(f"Unknown scheme {scheme!r} in {handle!r}: use hf:// or kaggle://.")
    try:
        if scheme == "hf":
            from huggingface_hub import snapshot_download as download
        else:
            from kagglehub import model_download as download
        return download(name)
    except ImportError as error:
        raise ValueError(
            f"Loading {handle!r} needs {error.name}: pip install {error.name}."
        ) from None
    except Exception as error:  # each hub has errors of its own, for a handle of a wrong form too
        raise ValueError(
            f"{handle!r} could not be downloaded: {first_line(error)} (Handles are as "
            "hf://google/recurrentgemma-2b-it and kaggle://google/recurrentgemma/flax/2b-it.)"
        ) from error


def begin_from_preset(cls, preset: str, **kwargs):
    """The model of a preset that training begins with, as `cls.from_preset` builds it.

    Presets without weights, such as those of the paper's sizes, give fresh ones.

    Args:
        cls: a class of `keras_speechssm.models`.
        preset: name, folder or handle.
        **kwargs: arguments that override the preset's config.
    """
    return cls.from_preset(preset, load_weights=has_weights(cls, preset), **kwargs)


def has_weights(cls, preset: str) -> bool:
    """Whether a preset of `cls` has weights, or is a config only; what a handle names has."""
    folder = resolve_preset(preset, cls.preset_part)
    return "://" in folder or any(Path(folder).glob("model*.weights.h5"))


def _with_changed_backbone(cls, folder: str, load_weights: bool, kwargs: dict) -> dict:
    """Arguments of a task whose backbone's config is changed, or `kwargs` as they are.

    KerasHub's tasks hand a `dtype` down to the backbone and drop what they do not know.
    """
    if not issubclass(cls, keras_hub.models.Task):
        return kwargs
    own = [*inspect.signature(cls).parameters, "compile", "name", "trainable"]
    changes = {name: value for name, value in kwargs.items() if name not in own}
    if not set(changes) - {"dtype"}:
        return kwargs
    known = inspect.signature(cls.backbone_cls).parameters
    if unknown := sorted(set(changes) - set(known)):
        raise ValueError(f"there is no argument {unknown[0]!r}.")
    path = Path(folder)
    saved = read_json_file(path, "task.json")["config"] if (path / "task.json").is_file() else {}
    left = ("preprocessor", "compile")
    kept = {name: saved[name] for name in own if name in saved and name not in left}
    given = {name: value for name, value in kwargs.items() if name in own}
    backbone = cls.backbone_cls.from_preset(folder, load_weights=load_weights, **changes)
    return {**kept, **given, "backbone": backbone}


def _is_mixed(dtype) -> bool:
    """Whether a saved dtype is a policy of two dtypes, `mixed_bfloat16` or `mixed_float16`."""
    name = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
    return isinstance(name, str) and name.startswith("mixed_")


def read_json_file(folder: Path, name: str = "config.json") -> dict:
    path = folder / name
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{str(folder)!r} is no preset: it has no {name}.") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{str(path)!r} must hold a JSON object.")
    return config
