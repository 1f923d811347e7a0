"""The registry of presets, and how a name, folder or handle becomes a local folder.

A preset of one model is a KerasHub preset folder (`config.json`, `model.weights.h5`, ...). A
pipeline preset is a folder whose `config.json` names one subfolder for each part:

    {"pipeline": "SpeechContinuation",
     "parts": {"semantic_tokenizer": "semantic_tokenizer", "speech_lm": "speech_lm",
               "soundstorm": "soundstorm", "soundstream": "soundstream"}}

Presets contain JSON and HDF5 arrays only, and loading one executes nothing: Keras resolves
class names among the classes that are registered in this process, and nothing is unpickled.
"""

import copy
import hashlib
import json
import os
from pathlib import Path

from keras_speechssm.checks import first_line, nearest_name
from keras_speechssm.files import checksum, replace_folder, write_json

PARTS = ("semantic_tokenizer", "speech_lm", "soundstorm", "soundstream")
"""The parts of a pipeline preset."""

DEFAULT_PRESET = "speech_ssm_demo_en"
"""The trained preset that is distributed with the package."""

_PIPELINE = (
    "SpeechContinuation",
    "SemanticTokenizer",
    "SpeechSSM",
    "GriffinBackbone",
    "SoundStorm",
    "SoundStream",
)

PRESETS: dict[str, dict] = {
    "speech_ssm_demo_en": {
        "classes": _PIPELINE,
        "description": "A small SpeechSSM pipeline for English, trained from scratch.",
        "params": 22_162_389,
        "license": "Apache-2.0",
        "weights": True,
    },
    "semantic_tokenizer_600m": {
        "classes": ("SemanticTokenizer",),
        "description": "A semantic tokenizer of the size of USM's 0.6 B encoder.",
        "params": 686_000_000,
        "license": "Apache-2.0",
        "weights": False,
    },
    "soundstorm_600m": {
        "classes": ("SoundStorm",),
        "description": "SoundStorm of the size that SpeechSSM uses.",
        "params": 638_000_000,
        "license": "Apache-2.0",
        "weights": False,
    },
    "soundstream_16khz": {
        "classes": ("SoundStream",),
        "description": "SoundStream at 16 kHz and 50 frames per second, as SoundStorm uses it.",
        "params": 12_700_000,
        "license": "Apache-2.0",
        "weights": False,
    },
    "speech_ssm_2b": {
        "classes": ("SpeechSSM", "GriffinBackbone"),
        "description": "SpeechSSM of the size of RecurrentGemma-2B.",
        "params": 2_111_388_160,
        "license": "Apache-2.0",
        "weights": False,
    },
    "speech_ssm_9b": {
        "classes": ("SpeechSSM", "GriffinBackbone"),
        "description": "SpeechSSM of the size of RecurrentGemma-9B.",
        "params": 7_665_618_944,
        "license": "Apache-2.0",
        "weights": False,
    },
    "speech_transformer_2b": {
        "classes": ("SpeechTransformer",),
        "description": "The paper's baseline SpeechTransformer, of the size of Gemma-2B.",
        "params": 2_048_993_280,
        "license": "Apache-2.0",
        "weights": False,
    },
    "recurrent_gemma_2b_en": {
        "classes": ("GriffinBackbone",),
        "description": "Google's text model RecurrentGemma-2B; its license must be accepted.",
        "params": 2_682_862_080,
        "license": "Gemma",
        "weights": True,
        "handle": "kaggle://google/recurrentgemma/flax/2b",
    },
    "recurrent_gemma_2b_it_en": {
        "classes": ("GriffinBackbone",),
        "description": "RecurrentGemma-2B, tuned to instructions: what SpeechSSM starts from.",
        "params": 2_682_862_080,
        "license": "Gemma",
        "weights": True,
        "handle": "kaggle://google/recurrentgemma/flax/2b-it",
    },
    "recurrent_gemma_9b_en": {
        "classes": ("GriffinBackbone",),
        "description": "Google's text model RecurrentGemma-9B; its license must be accepted.",
        "params": 8_579_977_216,
        "license": "Gemma",
        "weights": True,
        "handle": "kaggle://google/recurrentgemma/flax/9b",
    },
    "recurrent_gemma_9b_it_en": {
        "classes": ("GriffinBackbone",),
        "description": "RecurrentGemma-9B, tuned to instructions.",
        "params": 8_579_977_216,
        "license": "Gemma",
        "weights": True,
        "handle": "kaggle://google/recurrentgemma/flax/9b-it",
    },
}
"""Name -> classes that load it, description, parameters, license, whether it has weights, and
the handle of a preset that is not distributed with the package."""

_HERE = Path(__file__).resolve().parent
# In a wheel the folder presets/ is inside the package, in a checkout next to it.
_PRESET_ROOTS = (_HERE / "presets", _HERE.parent / "presets")


def presets_of(class_name: str) -> dict[str, dict]:
    """Returns the presets that a class loads: what the class attribute `presets` shows.

    Args:
        class_name: Name of a class, such as `"SpeechSSM"` or `"SpeechContinuation"`.

    Returns:
        Name of the preset -> `description`, `params` (number of parameters), `license`,
        `weights` (`False` for a configuration only) and, for a preset that has to be downloaded,
        `handle`.

    Example:

    ```python
    from keras_speechssm.presets import presets_of

    for name, preset in presets_of("SpeechSSM").items():
        print(name, preset["params"], preset["description"])
    ```
    """
    return {
        name: {key: copy.copy(value) for key, value in preset.items() if key != "classes"}
        for name, preset in PRESETS.items()
        if class_name in preset["classes"]
    }


def preset_names() -> list[str]:
    """Returns the names of the presets that are distributed with the package, sorted."""
    return sorted(
        folder.name
        for root in _PRESET_ROOTS
        if root.is_dir()
        for folder in root.iterdir()
        if (folder / "config.json").is_file()
    )


def resolve_preset(preset: str | os.PathLike, part: str | None = None) -> str:
    """Returns the folder or handle of one model, or of a whole pipeline.

    Args:
        preset: A name from `PRESETS`, a local folder, or an `hf://` or `kaggle://` handle
            (returned as it is).
        part: One of `PARTS`. A pipeline folder then gives its subfolder for that part; any
            other folder is returned as it is. Defaults to `None`.

    Raises:
        ValueError: If the preset is unknown, its `config.json` is missing or is not JSON, or the
            pipeline does not have the part.
    """
    preset = os.fspath(preset)
    if "://" in preset:
        return preset
    if handle := PRESETS.get(preset, {}).get("handle"):
        return handle
    folder = _find_folder(preset)
    config = read_json_file(folder)
    if part is None or "parts" not in config:
        return str(folder)
    name = config["parts"].get(part) if isinstance(config["parts"], dict) else None
    # Only a plain name: a preset must not reach outside its own folder.
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"Preset {preset!r} does not name a folder for its part {part!r}.")
    if not (folder / name).is_dir():
        raise ValueError(
            f"Preset {preset!r} is incomplete: the folder {name!r} of its part {part!r} is missing."
        )
    return str(folder / name)


def fetch_folder(preset: str | os.PathLike, part: str | None = None) -> str:
    """Returns the local folder of a preset or foreign checkpoint; downloads a handle.

    Args:
        preset: A name, a folder, or a handle, see `resolve_preset`. A folder may also contain a
            Flax or PyTorch checkpoint.
        part: One of `PARTS`, see `resolve_preset`. Defaults to `None`.

    Raises:
        ValueError: If the preset is unknown or cannot be downloaded.
    """
    preset = os.fspath(preset)
    preset = PRESETS.get(preset, {}).get("handle", preset)
    if "://" in preset:
        preset = _download(preset)
    foreign = Path(preset).is_dir() and not (Path(preset) / "config.json").is_file()
    if foreign and preset not in preset_names():
        return preset  # Flax and PyTorch checkpoints do not have a config.json.
    return resolve_preset(preset, part)


def fetch_pipeline(preset: str | os.PathLike) -> tuple[str, dict]:
    """Returns the local folder of a pipeline preset and its config; downloads a handle.

    Raises:
        ValueError: If the preset is unknown or is not a pipeline.
    """
    folder = _download(os.fspath(preset)) if "://" in os.fspath(preset) else resolve_preset(preset)
    if "://" in folder:
        folder = _download(folder)
    config = read_json_file(Path(folder))
    if config.get("pipeline") != "SpeechContinuation":
        raise ValueError(
            f"Preset {os.fspath(preset)!r} is not a pipeline: it holds a single model; load it "
            f"with `{_class_of(config)}.from_preset({os.fspath(preset)!r})`."
        )
    return folder, config


def _class_of(config: dict) -> str:
    """The class whose `from_preset` loads a model preset."""
    name = str(config.get("registered_name")).rpartition(">")[2]
    return {"GriffinBackbone": "SpeechSSM", "GemmaBackbone": "SpeechTransformer"}.get(name, name)


def _find_folder(preset: str) -> Path:
    for root in _PRESET_ROOTS:
        if Path(preset).name == preset and (root / preset / "config.json").is_file():
            return root / preset
    if Path(preset).is_dir():
        return Path(preset)
    names = sorted({*preset_names(), *PRESETS})
    raise ValueError(
        f"Unknown preset {preset!r}.{nearest_name(preset, names)} Expected a folder, an hf:// or "
        f"kaggle:// handle, or one of {', '.join(names)}."
    )


def _download(handle: str) -> str:
    """Returns the local copy of what an `hf://` or `kaggle://` handle names."""
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
    except Exception as error:  # Each hub has its own errors, for malformed handles as well.
        raise ValueError(
            f"{handle!r} could not be downloaded: {first_line(error)} (Examples of handles: "
            "hf://google/recurrentgemma-2b-it and kaggle://google/recurrentgemma/flax/2b-it.)"
        ) from error


def has_weights(cls, preset: str | os.PathLike) -> bool:
    """Returns whether a preset of `cls` includes weights. Handles are assumed to."""
    folder = resolve_preset(preset, cls.preset_part)
    return "://" in folder or any(Path(folder).glob("model*.weights.h5"))


def stored_dtype(folder: str | os.PathLike) -> str:
    """Returns the name of the dtype policy that a model's preset folder was saved with."""
    import keras

    config = read_json_file(Path(folder)).get("config", {})
    return keras.dtype_policies.get(config.get("dtype")).name


def read_json_file(folder: Path, name: str = "config.json") -> dict:
    """Returns the content of a JSON file of a preset.

    Raises:
        ValueError: If the file is missing, damaged, or not a JSON object.
    """
    path = folder / name
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{str(folder)!r} is not a preset: it does not have a {name}.") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{str(path)!r} must contain a JSON object.")
    return config


def store_weights_as_float16(folder: str | os.PathLike) -> None:
    """Rewrites the float32 arrays of the weight files below `folder` as float16.

    This halves the size on disk. Models load the arrays into their own dtype. An array with a
    value beyond the range of float16 stays float32.
    """
    import h5py

    for path in sorted(Path(folder).rglob("*.weights.h5")):
        partial = path.with_name(f".{path.name}.partial")
        with h5py.File(path, "r") as source, h5py.File(partial, "w") as target:
            _copy_as_float16(source, target)
        os.replace(partial, path)


def _copy_as_float16(source, target) -> None:
    for key, value in source.attrs.items():
        target.attrs[key] = value
    for name, item in source.items():
        if not hasattr(item, "dtype"):  # a group
            _copy_as_float16(item, target.create_group(name))
            continue
        data = item[()]
        if item.dtype == "float32" and abs(data).max(initial=0.0) < 6.5e4:
            data = data.astype("float16")
        dataset = target.create_dataset(name, data=data)
        for key, value in item.attrs.items():
            dataset.attrs[key] = value


def save_parts(
    folder: str | os.PathLike, models: dict, config: dict, metadata: dict | None = None
) -> None:
    """Writes a pipeline preset atomically, with its weights as float16.

    Args:
        folder: Path of the folder. Other files of an existing folder are kept.
        models: Part -> model. Each model is saved to the subfolder named after its part.
        config: Further entries of `config.json`.
        metadata: Content of `metadata.json`. Defaults to `None`: the file is not written.
    """
    with replace_folder(folder) as partial:
        for part, model in models.items():
            model.save_to_preset(str(partial / part))
        store_weights_as_float16(partial)
        config = {"parts": {part: part for part in models}, **config}
        write_json(partial / "config.json", config)
        if metadata is not None:
            write_json(partial / "metadata.json", metadata)


def check_weight_files(folder: Path, preset: str | None = None) -> None:
    """Raises one clear `ValueError` if a weight file is missing or truncated.

    Args:
        folder: Folder of a model preset.
        preset: What the user passed to `from_preset`. Defaults to `None`: the folder.
    """
    import h5py

    paths = sorted(Path(folder).glob("*.weights.h5"))
    if not any(path.name.startswith("model") for path in paths):
        if preset in PRESETS and not PRESETS[preset]["weights"]:
            text = any(name.startswith("Speech") for name in PRESETS[preset]["classes"])
            raise ValueError(
                f"Preset {preset!r} is a configuration without trained weights. Use "
                f"`from_preset({preset!r}, load_weights=False)` for random weights"
                f"{', or `from_text_preset(...)` to start from a text model' if text else ''}."
            )
        raise ValueError(
            f"{str(folder)!r} has no weight file (model.weights.h5). Download the preset again, or "
            "use `load_weights=False` for random weights."
        )
    for path in paths:
        try:
            h5py.File(path, "r").close()
        except OSError as error:
            raise ValueError(
                f"The weight file {str(path)!r} is truncated or not an HDF5 file "
                f"({first_line(error)}). Download the preset again."
            ) from None


def fingerprint(folder: str | os.PathLike) -> str:
    """Returns a checksum of the weights and configs of a preset, wherever the folder is."""
    files = [p for p in Path(folder).rglob("*") if p.suffix in (".h5", ".json")]
    of_model = sorted(p for p in files if p.name != "metadata.json")
    lines = [f"{path.relative_to(folder).as_posix()} {checksum(path)}" for path in of_model]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
