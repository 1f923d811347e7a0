"""Loading and saving of presets, shared by every model class of the package."""

import datetime
import inspect
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import keras
import keras_hub

from keras_speechssm.checks import first_line, nearest_name
from keras_speechssm.compilation import sync_weights
from keras_speechssm.files import replace_folder, write_json
from keras_speechssm.models.checkpoint_weights import load_foreign
from keras_speechssm.presets import (
    check_trained,
    check_weight_files,
    fetch_folder,
    fetch_text_model,
    has_weights,
    presets_of,
    read_json_file,
)
from keras_speechssm.shapes import SAMPLE_RATE, SAMPLES_PER_FRAME, SAMPLES_PER_TOKEN


def load_part(preset: str, part: str, load_weights: bool = True, **kwargs):
    """Loads one part of a pipeline preset, or a preset of that one model.

    The class is the one that the preset's config names, or the one that reads the checkpoint of
    another library.

    Args:
        preset: Name, folder or handle.
        part: One of `keras_speechssm.presets.PARTS`.
        load_weights: If `False`, the weights are random. Defaults to `True`.
        **kwargs: Arguments of `from_preset`, such as `dtype`.

    Raises:
        ValueError: If the preset holds another kind of model, is not trained, or cannot be loaded.
    """
    if load_weights:
        check_trained(preset)
    path = Path(fetch_folder(preset, part))
    if load_weights:
        check_trained(path)
    if part != "speech_lm":  # A text model does not speak.
        for cls in keras.saving.get_custom_objects().values():
            if getattr(cls, "preset_part", None) == part:
                model = cls._from_foreign_checkpoint(str(path), load_weights, kwargs)
                if model is not None:
                    check_rate(model, part)
                    return model
    config = read_json_file(path, "task.json" if (path / "task.json").is_file() else "config.json")
    name = config.get("registered_name")
    # Registered classes only: a name is looked up, never imported.
    found = keras.saving.get_registered_object(str(name))
    if task := getattr(found, "preset_task", None):  # a backbone alone, as a converter writes it
        found = keras.saving.get_registered_object(task)
    if getattr(found, "preset_part", None) != part:
        raise ValueError(f"The preset folder {str(path)!r} holds a {name!r}, not a {part}.")
    model = found.from_preset(str(path), load_weights=load_weights, **kwargs)
    check_rate(model, part)
    return model


def check_rate(model, part: str) -> None:
    """Raises `ValueError` for a tokenizer or codec of another rate than all commands expect.

    Args:
        model: The model of a part. If it does not say its rate, it is not checked.
        part: One of `keras_speechssm.presets.PARTS`.
    """
    attribute, expected, unit = {
        "semantic_tokenizer": ("samples_per_token", SAMPLES_PER_TOKEN, "tokens"),
        "soundstream": ("samples_per_frame", SAMPLES_PER_FRAME, "frames"),
    }.get(part, ("", None, ""))
    if (found := getattr(model, attribute, expected)) != expected:
        raise ValueError(
            f"This {type(model).__name__} gives {SAMPLE_RATE / found:g} {unit} per second; "
            f"pipelines and commands need a {part} of {SAMPLE_RATE // expected}."
        )


def initialize_from_preset(cls, preset: str, **kwargs):
    """Builds the model that training starts from, as `cls.from_preset` does.

    A preset of the paper's sizes gives the weights of its text model, or random weights if it does
    not have one.

    Args:
        cls: A class of `keras_speechssm.models`.
        preset: Name, folder or handle.
        **kwargs: Arguments that override the preset's config.
    """
    return cls.from_preset(preset, load_weights=has_weights(cls, preset), **kwargs)


_EXPORTS = {
    "tensorflow": "tf_saved_model",
    "jax": "tf_saved_model",
    "torch": "torch",
}
"""The format of `export` by backend. LiteRT lacks operations of every model, ONNX of most."""


class _ClassProperty:
    """A read-only property of a class."""

    def __init__(self, function):
        self.function = function

    def __get__(self, instance, owner):
        return self.function(owner)


class PresetMixin:
    """Adds our preset names, clear errors and atomic saving to a KerasHub model.

    Put it before the KerasHub base class, and name the part of a pipeline that the class is:

    ```python
    import keras_hub
    from keras_speechssm.models.preset_mixin import PresetMixin

    class Codec(PresetMixin, keras_hub.models.Backbone):
        preset_part = "soundstream"
    ```
    """

    preset_part: str | None = None
    _open_checkpoint: Callable | None = None
    """Opens another library's checkpoint in a folder: an object with `config`, the arguments of the
    class, and `assign(model)`; `None` if the folder has none. Further parameters are arguments of
    `from_preset`."""

    supports_quantization = False
    """Whether `quantize` of the class is tested, and its presets load again afterward."""

    def __new__(cls, *args, **kwargs):
        # Keras drops unknown arguments of a functional model: `num_layer=3` would change nothing.
        check_arguments(cls, kwargs)
        _check_magnitudes(kwargs)
        return super().__new__(cls, *args, **kwargs)

    @classmethod
    def from_config(cls, config: dict):
        """Builds the model of a config. Arguments of older versions of the class are dropped."""
        known = _argument_names(cls)
        return super().from_config({name: config[name] for name in config if name in known})

    @_ClassProperty
    def presets(cls) -> dict[str, dict]:  # noqa: N805
        """The built-in presets of the class: name -> description, params, license, handle, ..."""
        found = (presets_of(base.__name__) for base in cls.__mro__)
        return next((presets for presets in found if presets), {})

    @classmethod
    def from_preset(cls, preset: str, load_weights: bool = True, **kwargs):
        """Builds the model of a preset.

        Args:
            preset: A name from `presets`, a folder (of this model, or of a pipeline that
                contains it), or an `hf://` or `kaggle://` handle. A preset of the paper's size
                that starts from a text model downloads that model, as `from_text_preset` does.
            load_weights: If `False`, the weights are random, and only the sizes are those of the
                preset. Defaults to `True`.
            **kwargs: Arguments that override the preset's config, such as `dtype`. A task takes
                the arguments of its backbone as well.

        Raises:
            ValueError: If the preset or an argument is unknown, the preset holds another kind of
                model, or a weight file is missing, truncated, or made for another config.
        """
        folder = fetch_folder(preset, cls.preset_part)
        model = cls._from_foreign_checkpoint(folder, load_weights, kwargs)
        if model is not None:
            return model
        config = read_json_file(Path(folder))
        if load_weights and (text_model := fetch_text_model(folder)) is not None:
            saved = {**config["config"], **_saved_task(folder)}
            new = ("vocabulary_size", "use_rotary", "max_length")
            changes = {name: saved[name] for name in new if name in saved}
            return cls.from_text_preset(text_model, **{**changes, **kwargs})
        if load_weights and "registered_name" in config:
            configs = (config, _saved_task(folder))  # the task has its own copy
            _check_sizes(preset, configs, check_weight_files(Path(folder)))
        try:
            if kwargs.get("dtype") is None and (dtype := _dtype_to_load(config)) is not None:
                kwargs["dtype"] = dtype
            with warnings.catch_warnings():
                # Keras only warns when the file lacks the weights of some layers.
                warnings.filterwarnings("error", message="Skipping nested container")
                kwargs = _load_backbone(cls, folder, load_weights, kwargs)
                if "backbone" in kwargs:
                    return cls(**kwargs)
                return super().from_preset(folder, load_weights=load_weights, **kwargs)
        except UserWarning:
            raise ValueError(
                f"Preset {preset!r} could not be loaded as {cls.__name__}: "
                "its weight file does not fit its config."
            ) from None
        except Exception as error:  # A config may hold anything.
            raise ValueError(
                f"Preset {preset!r} could not be loaded as {cls.__name__}: {first_line(error)}"
            ) from error

    @classmethod
    def _backbone_class(cls, config: dict) -> type:
        """The class of a task's backbone, for the `config.json` of a preset."""
        return cls.backbone_cls

    @classmethod
    def _saved_class(cls, config: dict) -> type:
        """The class of the model in a preset with this `config.json`: `cls` or a subclass."""
        saved = keras.saving.get_registered_object(config.get("registered_name", ""))
        return saved if isinstance(saved, type) and issubclass(saved, cls) else cls

    @classmethod
    def _from_foreign_checkpoint(cls, folder: str, load_weights: bool, kwargs: dict):
        """Builds the model of another library's checkpoint; `None` if the folder has none."""
        if cls._open_checkpoint is None:
            return None
        names = list(inspect.signature(cls._open_checkpoint).parameters)[1:]
        options = {name: kwargs[name] for name in names if name in kwargs}
        changes = {name: value for name, value in kwargs.items() if name not in options}
        checkpoint = cls._open_checkpoint(folder, **options)
        if checkpoint is None:
            return None
        return load_foreign(cls, folder, checkpoint, load_weights, changes)

    def save_to_preset(self, preset_dir: str, max_shard_size: float | None = 10) -> None:
        """Writes the model as a preset folder, atomically and without its optimizer.

        Args:
            preset_dir: Path of the folder. An existing folder keeps its other files.
            max_shard_size: Largest weight file in GB; `None` for a single file of any size.
                Defaults to `10`.

        Raises:
            ValueError: If `preset_dir` is a file, or a folder that cannot be renamed.
        """
        sync_weights(self)
        with replace_folder(preset_dir) as partial:
            _write_preset(self, partial, max_shard_size)

    def make_train_function(self, force: bool = False):
        self._training_thread = threading.get_ident()  # see `sync_weights`
        return super().make_train_function(force)

    def export(
        self,
        filepath: str,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature=None,
        **kwargs,
    ) -> None:
        """Exports the forward pass for inference without this package.

        On TensorFlow the result takes inputs of any length. JAX and PyTorch need an
        `input_signature` of fixed shapes. Generation, which keeps a state, is not exported.

        Args:
            filepath: Path of the file or folder to write.
            format: `"tf_saved_model"` (TensorFlow, JAX), or `"torch"` (PyTorch). Defaults to
                `"tf_saved_model"`.
            verbose: See `keras.Model.export`.
            input_signature: A list of one `keras.InputSpec`, or of a dict of them by the names of
                the model's inputs. Defaults to `None`: any shapes.
            **kwargs: Further arguments of `keras.Model.export`.

        Raises:
            ValueError: If the backend does not export the format, or needs fixed shapes.
        """
        backend = keras.backend.backend()
        if format != _EXPORTS[backend]:
            raise ValueError(
                f"format is {format!r}; expected {_EXPORTS[backend]!r} on the backend {backend}."
            )
        shapes = [spec.shape for spec in keras.tree.flatten(input_signature or [])]
        if backend != "tensorflow" and (not shapes or any(None in shape for shape in shapes)):
            names = ", ".join(f"{x.name!r}: keras.InputSpec(...)" for x in self.inputs)
            raise ValueError(
                f"On the backend {backend}, export needs an input_signature of fixed shapes: "
                f"[{{{names}}}]."
            )
        super().export(
            filepath, format=format, verbose=verbose, input_signature=input_signature, **kwargs
        )

    def quantize(self, mode=None, **kwargs) -> None:
        """Quantizes the weights in place, see `keras.Model.quantize`.

        Raises:
            ValueError: If the class does not support quantization: Keras would quantize some of
                its layers, and could then not load the preset that it saves.
        """
        if not self.supports_quantization:
            raise ValueError(
                f"{type(self).__name__} cannot be quantized; only the language models can."
            )
        super().quantize(mode, **kwargs)


def _write_preset(model: keras.Model, folder: Path, max_shard_size: float | None) -> None:
    """Writes the files of a KerasHub preset, without the state of an optimizer.

    KerasHub's own saver writes the optimizer as well, three times the size of the weights.
    """
    backbone = model
    if isinstance(model, keras_hub.models.Task):
        backbone = model.backbone
        write_json(folder / "task.json", _serialize(model))
        if model.has_task_weights():
            model.save_task_weights(str(folder / "task.weights.h5"))
        if model.preprocessor is not None and hasattr(model.preprocessor, "save_to_preset"):
            model.preprocessor.save_to_preset(str(folder))
    write_json(folder / "config.json", _serialize(backbone))
    metadata = {
        "keras_version": keras.version(),
        "keras_hub_version": keras_hub.__version__,
        "parameter_count": backbone.count_params(),
        "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
        "tasks": [],
    }
    write_json(folder / "metadata.json", metadata)
    gigabytes = sum(_num_bytes(variable) for variable in backbone.variables) / 1024**3
    sharded = max_shard_size is not None and gigabytes > max_shard_size
    keras.saving.save_weights(
        backbone,
        folder / ("model.weights.json" if sharded else "model.weights.h5"),
        max_shard_size=max_shard_size if sharded else None,
        objects_to_skip=[backbone.optimizer] if getattr(backbone, "optimizer", None) else None,
    )


def _num_bytes(variable: keras.Variable) -> float:
    bits = re.search(r"\d+", keras.backend.standardize_dtype(variable.dtype))
    return math.prod(variable.shape) * (int(bits[0]) if bits else 8) / 8


def _serialize(model: keras.Model) -> dict:
    """The config of a model as KerasHub's presets have it."""
    config = keras.saving.serialize_keras_object(model)

    def without_state(value):
        if not isinstance(value, dict):
            return value
        skipped = ("compile_config", "build_config")
        return {key: without_state(entry) for key, entry in value.items() if key not in skipped}

    return without_state(config)


def _dtype_to_load(config: dict):
    """The dtype that KerasHub would not load a saved config with, or `None`."""
    saved = config.get("config", {}).get("dtype")
    if isinstance(saved, dict) and saved.get("class_name") == "DTypePolicyMap":
        return saved  # KerasHub forgets that a backbone was quantized (keras-hub #1705).
    name = saved.get("config", {}).get("name") if isinstance(saved, dict) else saved
    if isinstance(name, str) and name.startswith("mixed_"):
        # KerasHub loads every float dtype in the current policy, but does not recognize these.
        return keras.config.dtype_policy()
    return None


def _check_sizes(preset: str, configs: Sequence[dict], num_values: int) -> None:
    """Raises `ValueError` for configs of a far larger model than the weights are of.

    Building it would take minutes, or more memory than there is, before the weights are loaded.
    """
    sizes = sorted(_sizes(configs))
    layers = max((n for name, n in _named_integers(configs) if name.startswith("num_")), default=1)
    most = layers * math.prod(sizes[-2:])
    if most > 256 * num_values + 2**24:
        raise ValueError(
            f"The sizes in the config of preset {preset!r} (such as {max([layers, *sizes])}) do "
            f"not fit its weight files of {num_values} values. Download the preset again."
        )


def _check_magnitudes(arguments: dict) -> None:
    """Raises `ValueError` for arguments of a model that no machine could hold."""
    for name, number in _named_integers(arguments):
        most = 4096 if name.startswith("num_") else 2**24
        if number > most and name != "seed" and not name.startswith("max_"):
            raise ValueError(f"{name} is {number}; expected at most {most}.")


def _sizes(config) -> list[int]:
    ends = ("dim", "size", "width", "channels")
    integers = _named_integers(config)
    return [n for name, n in integers if name.endswith(ends) and "window" not in name]


def _named_integers(value, name: str = "") -> Iterator[tuple[str, int]]:
    """Yields the integers of a nested config with the names of their arguments."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _named_integers(entry, str(key))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _named_integers(entry, name)
    elif isinstance(value, int):
        yield name, abs(value)


def _load_backbone(cls, folder: str, load_weights: bool, kwargs: dict) -> dict:
    """Arguments of a task, its backbone among them, or `kwargs` as they are.

    KerasHub's tasks pass `dtype` on to the backbone, drop arguments that they do not know, and
    load one class of backbone only.
    """
    config = read_json_file(Path(folder))
    if not issubclass(cls, keras_hub.models.Task):
        # Keras drops unknown arguments. Those in the config are of an older version of the class.
        known = [*config.get("config", {}), "load_weights"]
        check_arguments(cls._saved_class(config), kwargs, known)
        return kwargs
    own = [*inspect.signature(cls.__init__).parameters, "compile", "name", "trainable"]
    changes = {name: value for name, value in kwargs.items() if name not in own}
    backbone_cls = cls._backbone_class(config)
    if not set(changes) - {"dtype"} and backbone_cls is cls.backbone_cls:
        return kwargs
    check_arguments(backbone_cls, changes, [*own, "load_weights"])
    saved = _saved_task(folder)
    left = ("preprocessor", "compile")
    kept = {name: saved[name] for name in own if name in saved and name not in left}
    given = {name: value for name, value in kwargs.items() if name in own}
    backbone = backbone_cls.from_preset(folder, load_weights=load_weights, **changes)
    return {**kept, **given, "backbone": backbone}


def _saved_task(folder: str) -> dict:
    """The config of the task in a preset folder, or an empty one."""
    has_task = (Path(folder) / "task.json").is_file()
    return read_json_file(Path(folder), "task.json").get("config", {}) if has_task else {}


def check_arguments(cls, given: Iterable[str], others: Iterable[str] = ()) -> None:
    """Raises `ValueError` for an argument that `cls` does not have, with the nearest name."""
    known = [*_argument_names(cls), *others]
    for name in sorted(set(given) - set(known)):
        raise ValueError(f"{cls.__name__} has no argument {name!r}.{nearest_name(name, known)}")


def _argument_names(cls) -> list[str]:
    """The arguments of a model class, with those that it passes on to a base class of ours."""
    names = ["name", "trainable", "dtype"]
    for base in cls.__mro__:
        if base is keras_hub.models.Backbone or base is keras_hub.models.Task:
            break
        if "__init__" in base.__dict__:
            parameters = inspect.signature(base.__init__).parameters.values()
            names += [p.name for p in parameters if p.kind != p.VAR_KEYWORD and p.name != "self"]
            if not any(p.kind == p.VAR_KEYWORD for p in parameters):
                break
    return names
