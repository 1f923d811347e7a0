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

import hashlib
import json
import os
from pathlib import Path

import h5py
import keras

from keras_speechssm.checks import first_line
from keras_speechssm.files import checksum, replace_folder, write_json

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


def has_weights(cls, preset: str) -> bool:
    """Whether a preset of `cls` has weights, or is a config only; what a handle names has."""
    folder = resolve_preset(preset, cls.preset_part)
    return "://" in folder or any(Path(folder).glob("model*.weights.h5"))


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


def store_weights_as_float16(folder: str | os.PathLike) -> None:
    """Rewrites the weight files below `folder` with float32 arrays as float16.

    Halves the size on disk; models load them into their own dtype. An array with a
    value beyond float16's range stays float32.
    """
    for path in sorted(Path(folder).rglob("*.weights.h5")):
        partial = path.with_name(f".{path.name}.partial")
        with h5py.File(path, "r") as source, h5py.File(partial, "w") as target:
            _copy_as_float16(source, target)
        os.replace(partial, path)


def _copy_as_float16(source: h5py.Group, target: h5py.Group) -> None:
    for key, value in source.attrs.items():
        target.attrs[key] = value
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            _copy_as_float16(item, target.create_group(name))
            continue
        data = item[()]
        if item.dtype == "float32" and abs(data).max(initial=0.0) < 6.5e4:
            data = data.astype("float16")
        copy = target.create_dataset(name, data=data)
        for key, value in item.attrs.items():
            copy.attrs[key] = value


def save_parts(
    folder: str | os.PathLike, models: dict, config: dict, metadata: dict | None = None
) -> None:
    """Writes a pipeline preset, whole or not at all, its weights as float16.

    Args:
        folder: where to. Other files of an existing folder are kept.
        models: part -> model; each is saved to the sub-folder of its part's name.
        config: further entries of `config.json`.
        metadata: content of `metadata.json`. Defaults to `None`: no such file.
    """
    with replace_folder(folder) as partial:
        for part, model in models.items():
            model.save_to_preset(str(partial / part))
        store_weights_as_float16(partial)
        config = {"parts": {part: part for part in models}, **config}
        write_json(partial / "config.json", config)
        if metadata is not None:
            write_json(partial / "metadata.json", metadata)


def check_weight_files(folder: Path) -> None:
    """Raises one clear `ValueError` for a weight file that is missing or cut short."""
    paths = sorted(folder.glob("*.weights.h5"))
    if not any(path.name.startswith("model") for path in paths):
        raise ValueError(
            f"{str(folder)!r} has no weight file (model.weights.h5): fetch the preset "
            "again, or pass load_weights=False for fresh weights."
        )
    for path in paths:
        try:
            h5py.File(path, "r").close()
        except OSError as error:
            raise ValueError(
                f"The weight file {str(path)!r} is truncated or no HDF5 file "
                f"({first_line(error)}): fetch the preset again."
            ) from None


def fingerprint(folder: str | os.PathLike) -> str:
    """What tells a preset's weights and configs from others, wherever the folder lies."""
    files = [p for p in Path(folder).rglob("*") if p.suffix in (".h5", ".json")]
    of_model = sorted(p for p in files if p.name != "metadata.json")
    lines = [f"{path.relative_to(folder).as_posix()} {checksum(path)}" for path in of_model]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
