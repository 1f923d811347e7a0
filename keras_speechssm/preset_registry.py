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

import json
import os
import warnings
from pathlib import Path

import keras

from keras_speechssm.preset_files import check_weight_files, first_line, replace_folder

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
    config = _read_config(folder)
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
    if Path(preset).is_dir() and not (Path(preset) / "config.json").is_file():
        return preset  # Flax and torch checkpoints have none.
    return resolve_preset(preset, part)


def stored_dtype(folder: str) -> str:
    """The dtype policy that a single model's preset folder was saved with."""
    config = _read_config(Path(folder)).get("config", {})
    return keras.dtype_policies.get(config.get("dtype")).name


def fetch_pipeline(preset: str) -> tuple[str, dict]:
    """The local folder of a pipeline preset, downloaded if need be, and its config.

    Raises:
        ValueError: the preset is unknown or no pipeline.
    """
    folder = _download(preset) if "://" in os.fspath(preset) else resolve_preset(preset)
    config = _read_config(Path(folder))
    if config.get("pipeline") != "SpeechContinuation":
        raise ValueError(
            f"Preset {preset!r} is no pipeline: it holds one model, or a config only. Load "
            "it with its class's from_preset."
        )
    return folder, config


def load_part(preset: str, part: str):
    """The model of one part of a pipeline, or of a preset of its own, of its config's class.

    Args:
        preset: name, folder or handle.
        part: one of `PARTS`.
    """
    path = Path(fetch_folder(preset, part))
    config = _read_config(path, "task.json" if (path / "task.json").is_file() else "config.json")
    name = config.get("registered_name")
    # Registered classes only: a name is looked up, never imported.
    found = keras.saving.get_registered_object(name) if isinstance(name, str) else None
    if getattr(found, "preset_part", None) != part:
        raise ValueError(f"The preset folder {str(path)!r} holds {name!r}, which is no {part}.")
    return found.from_preset(str(path))


def load_parts(preset: str, **parts: str | None) -> tuple[dict, dict]:
    """The four models of a pipeline by their parts' names, and its config.

    Args:
        preset: the pipeline's name, folder or handle.
        **parts: presets that give a part in place of the pipeline's own. `None` is none.

    Raises:
        ValueError: a preset is unknown or of another part, or the parts do not fit together:
            language model and SoundStorm need the tokenizer's vocabulary, SoundStorm the
            levels and codes of the SoundStream.
    """
    # First, since a name that is wrong costs nothing then.
    models = {part: load_part(given, part) for part, given in parts.items() if given}
    folder, config = fetch_pipeline(preset)
    models = {part: models.get(part) or load_part(folder, part) for part in PARTS}
    _check_fit(**models)
    return models, config


def _check_fit(semantic_tokenizer, speech_lm, soundstorm, soundstream) -> None:
    tokens = semantic_tokenizer.vocabulary_size
    levels = (soundstream.num_quantizers, soundstream.codebook_size)
    for name, found, expected, what in (
        ("speech_lm", speech_lm.backbone.vocabulary_size, tokens, "tokens"),
        ("soundstorm", soundstorm.semantic_vocabulary_size, tokens, "tokens"),
        ("soundstorm", soundstorm.num_levels, levels[0], "levels"),
        ("soundstorm", soundstorm.codebook_size, levels[1], "codes"),
    ):
        if found != expected:
            raise ValueError(
                f"The {name} is of {found} {what}, the others of {expected}: train it on theirs."
            )


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
            **kwargs: arguments that override the preset's config, such as `dtype`.

        Raises:
            ValueError: unknown preset, wrong kind of model, or a weight file that is
                missing, truncated or made for another config.
        """
        folder = fetch_folder(preset, cls.preset_part)
        if load_weights and "registered_name" in _read_config(Path(folder)):
            # Else a checkpoint of another library: its converter knows its files.
            check_weight_files(Path(folder))
        saved = _read_config(Path(folder)).get("config", {}).get("dtype")
        if kwargs.get("dtype") is None and _is_mixed(saved):
            # As KerasHub does with all other floats: it takes "mixed_bfloat16" for no dtype.
            kwargs["dtype"] = keras.config.dtype_policy()
        try:
            with warnings.catch_warnings():
                # Keras only warns when the file lacks some layers' weights.
                warnings.filterwarnings("error", message="Skipping nested container")
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
        # Keras would store Adam's moments too, twice the size of the weights.
        optimizer, self.optimizer = getattr(self, "optimizer", None), None
        try:
            with replace_folder(preset_dir) as partial:
                super().save_to_preset(str(partial), max_shard_size=max_shard_size)
        finally:
            self.optimizer = optimizer


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
    try:
        if scheme == "hf":
            from huggingface_hub import snapshot_download as download
        elif scheme == "kaggle":
            from kagglehub import model_download as download
        else:
            raise ValueError(f"Unknown scheme {scheme!r} in {handle!r}: use hf:// or kaggle://.")
        return download(name)
    except ImportError as error:
        raise ValueError(
            f"Loading {handle!r} needs {error.name}: pip install {error.name}."
        ) from None
    except OSError as error:
        raise ValueError(f"{handle!r} could not be downloaded: {first_line(error)}") from error


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


def _is_mixed(dtype) -> bool:
    """Whether a saved dtype is a policy of two dtypes, `mixed_bfloat16` or `mixed_float16`."""
    name = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
    return isinstance(name, str) and name.startswith("mixed_")


def _read_config(folder: Path, name: str = "config.json") -> dict:
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
