"""The registry of presets, and how a name, folder or handle becomes a local folder.

A preset of one model is a KerasHub preset folder (`config.json`, `model.weights.h5`, ...). A
pipeline preset is a folder whose `config.json` names one subfolder for each part:

    {"pipeline": "SpeechContinuation",
     "parts": {"semantic_tokenizer": "semantic_tokenizer", "speech_lm": "speech_lm",
               "soundstorm": "soundstorm", "soundstream": "soundstream"}}

Instead of a subfolder, a part may name a preset of one model that is distributed with the package.

Presets contain JSON and HDF5 arrays only, and loading one executes nothing: Keras resolves
class names among the classes that are registered in this process, and nothing is unpickled.
"""

import copy
import hashlib
import json
import os
import re
from pathlib import Path

from keras_speechssm.checks import first_line, nearest_name, shown
from keras_speechssm.files import checksum, replace_folder, write_json

PARTS = ("semantic_tokenizer", "speech_lm", "soundstorm", "soundstream")
"""The parts of a pipeline preset with a SoundStorm."""

S3_GEN_PARTS = ("semantic_tokenizer", "speech_lm", "s3_gen")
"""The parts of a pipeline preset with an S3Gen, which replaces SoundStorm and the codec."""

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
        "description": "A small SpeechSSM pipeline for English, trained on simple stories.",
        "params": 25_614_058,
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
        "description": "The paper's SpeechSSM-2B before training: RecurrentGemma-2B-IT with new "
        "embeddings.",
        "params": 2_111_388_160,
        "license": "Gemma",
        "weights": False,
        "handle": "kaggle://google/recurrentgemma/flax/2b-it",
        "other_handle": "hf://google/recurrentgemma-2b-it",
    },
    "speech_ssm_9b": {
        "classes": ("SpeechSSM", "GriffinBackbone"),
        "description": "The paper's SpeechSSM-9B before training: RecurrentGemma-9B-IT with new "
        "embeddings.",
        "params": 7_665_618_944,
        "license": "Gemma",
        "weights": False,
        "handle": "kaggle://google/recurrentgemma/flax/9b-it",
        "other_handle": "hf://google/recurrentgemma-9b-it",
    },
    "speech_transformer_2b": {
        "classes": ("SpeechTransformer",),
        "description": "The paper's baseline SpeechTransformer before training: Gemma-2B with new "
        "embeddings, for 16 minutes.",
        "params": 2_048_993_280,
        "license": "Gemma",
        "weights": False,
        "handle": "kaggle://keras/gemma/keras/gemma_2b_en/3",
        "other_handle": "hf://google/gemma-2b",
    },
    "speech_ssm_2b_paper": {
        "classes": ("SpeechContinuation",),
        "description": "A pipeline of the paper's sizes: `semantic_tokenizer_600m`, "
        "`speech_ssm_2b`, `soundstorm_600m` and `soundstream_16khz`.",
        "params": 3_448_088_160,
        "license": "Apache-2.0",
        "weights": False,
    },
    "speech_ssm_2b_s3": {
        "classes": ("SpeechContinuation",),
        "description": "A pipeline of open parts and their sizes: `S3Tokenizer`, SpeechSSM-2B for "
        "its 6,561 tokens, and `S3Gen`.",
        "params": 2_308_299_445,
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
        "other_handle": "hf://google/recurrentgemma-2b",
        "sizes": "speech_ssm_2b",
    },
    "recurrent_gemma_2b_it_en": {
        "classes": ("GriffinBackbone",),
        "description": "RecurrentGemma-2B, tuned to instructions: what SpeechSSM starts from.",
        "params": 2_682_862_080,
        "license": "Gemma",
        "weights": True,
        "handle": "kaggle://google/recurrentgemma/flax/2b-it",
        "other_handle": "hf://google/recurrentgemma-2b-it",
        "sizes": "speech_ssm_2b",
    },
    "recurrent_gemma_9b_en": {
        "classes": ("GriffinBackbone",),
        "description": "Google's text model RecurrentGemma-9B; its license must be accepted.",
        "params": 8_579_977_216,
        "license": "Gemma",
        "weights": True,
        "handle": "kaggle://google/recurrentgemma/flax/9b",
        "other_handle": "hf://google/recurrentgemma-9b",
        "sizes": "speech_ssm_9b",
    },
    "recurrent_gemma_9b_it_en": {
        "classes": ("GriffinBackbone",),
        "description": "RecurrentGemma-9B, tuned to instructions.",
        "params": 8_579_977_216,
        "license": "Gemma",
        "weights": True,
        "handle": "kaggle://google/recurrentgemma/flax/9b-it",
        "other_handle": "hf://google/recurrentgemma-9b-it",
        "sizes": "speech_ssm_9b",
    },
}
"""Name -> classes that load it, description, number of parameters, license, and:

- `weights`: whether its weights are trained. Without a `handle`, a preset that is not trained is a
  configuration only.
- `handle`: where the weights are downloaded from. If the preset is not trained, they are those of
  a text model, and all but the embeddings of its tokens are used.
- `other_handle`: the same model on the other hub.
- `sizes`: of a text model that is not distributed with the package, the preset that has its sizes,
  apart from the vocabulary and the rotary positions.
"""

_HERE = Path(__file__).resolve().parent
# In a wheel the folder presets/ is inside the package, in a checkout next to it.
_PRESET_ROOTS = (_HERE / "presets", _HERE.parent / "presets")


def presets_of(class_name: str) -> dict[str, dict]:
    """Returns the presets that a class loads: what the class attribute `presets` shows.

    Args:
        class_name: Name of a class, such as `"SpeechSSM"` or `"SpeechContinuation"`.

    Returns:
        Name of the preset -> `description`, `params` (number of parameters), `license`,
        `weights` (whether they are trained), `handle` (where the weights are downloaded from, or
        `None`) and, with a handle, `other_handle` (the same model on another hub).

    Example:

    ```python
    from keras_speechssm.presets import presets_of

    for name, preset in presets_of("SpeechSSM").items():
        print(name, preset["params"], preset["description"])
    ```
    """
    return {
        name: {
            **{k: copy.copy(v) for k, v in preset.items() if k not in ("classes", "sizes")},
            "handle": preset.get("handle"),
        }
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
    if handle := _handle_of(preset):
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
        if name in preset_names() and "parts" not in read_json_file(_find_folder(name)):
            return str(_find_folder(name))
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
    if handle := _handle_of(preset):
        other = PRESETS[preset]["other_handle"]
        preset = _download(
            handle,
            f"Preset {preset!r} is downloaded from ",
            f"Use from_preset({other!r}), or a folder of the checkpoint.",
        )
    elif "://" in preset:
        preset = _download(preset)
    foreign = Path(preset).is_dir() and not (Path(preset) / "config.json").is_file()
    if foreign and preset not in preset_names():
        return preset  # Flax and PyTorch checkpoints do not have a config.json.
    return resolve_preset(preset, part)


def pipeline_parts(config: dict) -> tuple[str, ...]:
    """Returns the names of the parts that the `config.json` of a pipeline preset has."""
    parts = config.get("parts")
    return S3_GEN_PARTS if isinstance(parts, dict) and "s3_gen" in parts else PARTS


def fetch_pipeline(preset: str | os.PathLike) -> tuple[str, dict]:
    """Returns the local folder of a pipeline preset and its config; downloads a handle.

    Raises:
        ValueError: If the preset is unknown or is not a pipeline.
    """
    folder = fetch_folder(preset)
    config = read_json_file(Path(folder))
    if config.get("pipeline") != "SpeechContinuation":
        raise ValueError(
            f"Preset {os.fspath(preset)!r} is not a pipeline: it holds a single model; load it "
            f"with `{_class_of(config)}.from_preset({os.fspath(preset)!r})`."
        )
    return folder, config


def registered_name(preset: str | os.PathLike) -> str | None:
    """Returns the name in `PRESETS` of a name, or of the folder of a distributed preset."""
    path = Path(preset)
    if os.fspath(preset) in PRESETS:
        return os.fspath(preset)
    return path.name if path.name in PRESETS and path.parent in _PRESET_ROOTS else None


def is_trained(preset: str | os.PathLike) -> bool:
    """Returns whether the weights of a preset are trained. Folders and handles are assumed to be.

    The built-in presets of the paper's sizes are not.
    """
    name = registered_name(preset)
    return name is None or PRESETS[name]["weights"]


def check_trained(preset: str | os.PathLike) -> None:
    """Raises `ValueError` if a preset is one to train and not to speak with."""
    if not is_trained(preset):
        raise ValueError(
            f"Preset {registered_name(preset)!r} has no trained speech weights: train it first, or "
            "use `load_weights=False` for random weights."
        )


def fetch_text_model(preset: str | os.PathLike) -> str | None:
    """Downloads the text model that a preset starts from.

    Args:
        preset: A name, or the folder of a distributed preset.

    Returns:
        The local folder of the text model, or `None` if the preset does not start from one.

    Raises:
        ValueError: If the text model cannot be downloaded.
    """
    name = registered_name(preset)
    if name is None or _handle_of(name) or not (handle := PRESETS[name].get("handle")):
        return None
    return _download(
        handle,
        f"Preset {name!r} starts from the weights of the text model ",
        f"Use from_text_preset({PRESETS[name]['other_handle']!r}) or from_text_preset(folder) for "
        f"another copy of it, or from_preset({name!r}, load_weights=False) for random weights.",
    )


def _handle_of(preset: str) -> str | None:
    """The handle of a preset that is not distributed with the package in any form."""
    registered = PRESETS.get(preset, {})
    return None if preset in preset_names() else registered.get("handle")


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


def _download(
    handle: str,
    prefix: str = "",
    advice: str = "(Examples of handles: hf://google/recurrentgemma-2b-it and "
    "kaggle://google/recurrentgemma/flax/2b-it.)",
) -> str:
    """Returns the local copy of what an `hf://` or `kaggle://` handle names.

    Args:
        handle: The handle.
        prefix: What the error message starts with.
        advice: What it ends with.
    """
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
            f"{prefix}{handle!r}{', which' if prefix else ''} could not be downloaded: "
            f"{hub_reason(error)}. {advice}"
        ) from error


def hub_reason(error: Exception) -> str:
    """Return what a hub's error means, without the address of each request that failed."""
    names = {base.__name__ for base in type(error).__mro__}
    if names & {"ConnectionError", "ConnectError", "LocalEntryNotFoundError"}:
        return "there is no connection to the hub"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "GatedRepoError" in names or status == 403:
        return (
            "access is refused; accept the license on the page of the model, log in with "
            "`hf auth login` or `kagglehub.login()`, and try again"
        )
    return first_line(error).rstrip(".")


def has_weights(cls, preset: str | os.PathLike) -> bool:
    """Returns whether `cls.from_preset` finds weights: in the preset, or of its text model.

    Handles are assumed to have weights.
    """
    if "://" in os.fspath(preset) or _handle_of(os.fspath(preset)):
        return True
    folder = fetch_folder(preset, cls.preset_part)
    name = registered_name(folder)
    if name and PRESETS[name].get("handle"):
        return True
    files = ("model*.weights.h5", "*.safetensors", "pytorch_model.bin", "*.pt")
    return any(any(Path(folder).glob(name)) for name in files)


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
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as JSON: {first_line(error).rstrip('.')}."
        ) from None
    if not isinstance(config, dict):
        raise ValueError(f"{str(path)!r} must contain a JSON object.")
    return config


def read_section(config: dict, name: str) -> dict:
    """Returns a section of a preset's config, or an empty one if it does not have it.

    Raises:
        ValueError: If the section is not a JSON object.
    """
    section = config.get(name, {})
    if not isinstance(section, dict):
        raise ValueError(f"{name!r} of the preset is {shown(section)}; expected a JSON object.")
    return section


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


_SMALL = 2**20
"""Bytes that an array of a weight file may have without being stored as such."""


def check_weight_files(folder: Path) -> int:
    """Raises one clear `ValueError` if a weight file of a model preset cannot be used.

    Returns:
        The number of values in the weight files.
    """
    import h5py

    num_values = 0

    def count(name, item):
        nonlocal num_values
        if isinstance(item, h5py.Dataset):
            stored = item.id.get_storage_size()
            if item.external or item.is_virtual or item.nbytes > 100 * stored + _SMALL:
                raise OSError(f"{name} has {item.nbytes} bytes, but {stored} are in the file")
            num_values += item.size

    paths = sorted(Path(folder).glob("*.weights.h5"))
    if not any(path.name.startswith("model") for path in paths):
        if (name := registered_name(folder)) is not None:
            model = _class_of(read_json_file(Path(folder)))
            raise ValueError(
                f"Preset {name!r} is a configuration without trained weights. Use "
                f"`{model}.from_preset({name!r}, load_weights=False)` for random weights."
            )
        raise ValueError(
            f"{str(folder)!r} has no weight file (model.weights.h5). Download the preset again, or "
            "use `load_weights=False` for random weights."
        )
    for path in paths:
        try:
            with h5py.File(path, "r") as file:
                file.visititems(count)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"The weight file {str(path)!r} is truncated or not an HDF5 file "
                f"({first_line(error)}). Download the preset again."
            ) from None
    return num_values


def upload_preset(uri: str, preset: str | os.PathLike, license: str | None = None) -> None:
    """Uploads a pipeline or a model to Hugging Face or Kaggle, with a model card.

    `from_preset(uri)` loads it from there. A `README.md` in the folder, or on Hugging Face, is kept
    as it is. If there is none, one is written into the folder: complete it with the data and the
    limits of your model. `keras_hub.upload_preset` takes no pipelines, and removes a folder's own
    card when it uploads to a new repository.

    Log in first, with `hf auth login` or `kagglehub.login()`.

    Args:
        uri: `hf://user/name` or `kaggle://user/model/framework/variation`.
        preset: Folder that `save_to_preset` has written.
        license: License of the weights as Hugging Face spells it, such as `"apache-2.0"`, or
            `"gemma"` for a model that started from Gemma or RecurrentGemma. Defaults to `None`:
            that of the folder's card or `metadata.json`, or `"unknown"`.

    Raises:
        ValueError: If the address or the folder is not one of these, a weight file is missing or
            damaged, or the hub refuses the upload.

    Example:

    ```python
    import keras_speechssm

    keras_speechssm.upload_preset("hf://user/my-voice", "mine")  # doctest: +SKIP
    speech = keras_speechssm.SpeechContinuation.from_preset("hf://user/my-voice")  # doctest: +SKIP
    ```
    """
    scheme, _, handle = uri.partition("://")
    depths = {"hf": (0, 1), "kaggle": (3,)}
    if handle.count("/") not in depths.get(scheme, ()) or not all(handle.split("/")):
        raise ValueError(
            f"Cannot upload to {uri!r}; expected hf://user/name or "
            "kaggle://user/model/framework/variation."
        )
    folder = _find_folder(os.fspath(preset))
    is_pipeline = "parts" in read_json_file(folder)
    parts = [folder]
    if is_pipeline:
        parts = [resolve_preset(folder, part) for part in pipeline_parts(read_json_file(folder))]
    for part in parts:
        check_weight_files(Path(part))
    license = license or _license_of(folder)
    try:
        if scheme == "hf":
            import huggingface_hub

            repository = huggingface_hub.create_repo(handle, exist_ok=True).repo_id
            if not huggingface_hub.file_exists(repository, "README.md"):
                _write_card(folder, uri, license)
            huggingface_hub.upload_folder(repo_id=repository, folder_path=folder)
        else:
            import kagglehub

            _write_card(folder, uri, license)
            name = {"apache-2.0": "Apache 2.0", "unknown": None}.get(license, license)
            kagglehub.model_upload(handle, str(folder), license_name=name)
    except ImportError as error:
        raise ValueError(
            f"Uploading to {uri!r} needs {error.name}: pip install {error.name}."
        ) from None
    except Exception as error:  # Each hub has its own errors.
        raise ValueError(
            f"{os.fspath(preset)!r} could not be uploaded to {uri!r}: {hub_reason(error)}."
        ) from error


def _license_of(folder: Path) -> str:
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if found := re.match(r"---\n(?:.*\n)*?license: *(\S+)\n(?:.*\n)*?---\n", text):
        return found[1]
    metadata = folder / "metadata.json"
    found = read_json_file(folder, metadata.name).get("license") if metadata.is_file() else None
    return found if isinstance(found, str) else "unknown"


def _write_card(folder: Path, uri: str, license: str) -> None:
    """Writes a model card with Hugging Face's metadata, unless the folder has one."""
    if (folder / "README.md").exists():
        return
    config = read_json_file(folder)
    if "parts" in config:
        title = "SpeechContinuation"
        folders = {part: resolve_preset(folder, part) for part in pipeline_parts(config)}
        use = (
            "from keras_speechssm import SpeechContinuation\n\n"
            f'speech = SpeechContinuation.from_preset("{uri}")\n'
            'waveform = speech.continue_speech("recording.wav", seconds=60, seed=0)\n'
            "speech.sample_rate  # samples per second"
        )
    else:
        title = _class_of(read_json_file(folder, _config_name(folder)))
        folders = {"model": folder}
        use = f'from keras_speechssm import models\n\nmodel = models.{title}.from_preset("{uri}")'
    rows = []
    for part, path in ((part, Path(path)) for part, path in folders.items()):
        name = _class_of(read_json_file(path, _config_name(path)))
        count = read_json_file(path, "metadata.json").get("parameter_count")
        rows.append(f"| {part} | `{name}` | {count:,} |" if count else f"| {part} | `{name}` | |")
    tag = "feature-extraction" if title == "SemanticTokenizer" else "audio-to-audio"
    lines = [
        "---",
        f"license: {license}",
        "library_name: keras-hub",
        f"pipeline_tag: {tag}",
        "tags:",
        *(f"  - {name}" for name in ("speech", "keras", "keras-speechssm")),
        "---",
        "",
        f"# {uri.rpartition('/')[2]}",
        "",
        f"A `{title}` of the package `keras_speechssm` (`pip install keras-speechssm`), for JAX, "
        "TensorFlow, and PyTorch.",
        "",
        "```python",
        use,
        "```",
        "",
        "| part | class | parameters |",
        "|---|---|---|",
        *rows,
        "",
        "This card was generated. Add what the model was trained on, and what it cannot do.",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _config_name(folder: Path) -> str:
    return "task.json" if (folder / "task.json").is_file() else "config.json"


def fingerprint(folder: str | os.PathLike) -> str:
    """Returns a checksum of the weights and configs of a preset, wherever the folder is."""
    files = [p for p in Path(folder).rglob("*") if p.suffix in (".h5", ".json")]
    of_model = sorted(p for p in files if p.name != "metadata.json")
    lines = [f"{path.relative_to(folder).as_posix()} {checksum(path)}" for path in of_model]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
