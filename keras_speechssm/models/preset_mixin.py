import inspect
import warnings
from pathlib import Path

import keras
import keras_hub

from keras_speechssm.checks import first_line
from keras_speechssm.files import is_being_written, replace_folder
from keras_speechssm.presets import check_weight_files, fetch_folder, has_weights, read_json_file


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
                kwargs = _override_backbone_config(cls, folder, load_weights, kwargs)
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
            self._save_weights_only(preset_dir, max_shard_size)
            return
        with replace_folder(preset_dir) as partial:
            self._save_weights_only(partial, max_shard_size)

    def quantize(self, mode=None, **kwargs) -> None:
        """As `keras.Model.quantize`, for the language models; see `GriffinBackbone.quantize`.

        Raises:
            ValueError: the model is another part of a pipeline. Keras would quantize some of
                its layers, and then not load the preset that it saves.
        """
        if self.preset_part != "speech_lm":
            raise ValueError(f"{type(self).__name__} cannot be quantized: the language models can.")
        super().quantize(mode, **kwargs)

    def _save_weights_only(self, folder, max_shard_size: float) -> None:
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


def initialize_from_preset(cls, preset: str, **kwargs):
    """The model of a preset that training begins with, as `cls.from_preset` builds it.

    Presets without weights, such as those of the paper's sizes, give fresh ones.

    Args:
        cls: a class of `keras_speechssm.models`.
        preset: name, folder or handle.
        **kwargs: arguments that override the preset's config.
    """
    return cls.from_preset(preset, load_weights=has_weights(cls, preset), **kwargs)


def _override_backbone_config(cls, folder: str, load_weights: bool, kwargs: dict) -> dict:
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
