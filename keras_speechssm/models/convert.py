"""Conversion of Griffin checkpoints from one form to another: the command `speechssm convert`."""

from pathlib import Path

from keras_speechssm.models.griffin.convert_recurrent_gemma import (
    open_recurrent_gemma,
    save_as_hugging_face,
    write_recurrent_gemma,
)
from keras_speechssm.models.griffin.griffin_backbone import GriffinBackbone
from keras_speechssm.presets import fetch_folder, stored_dtype

TARGETS = ("keras", "hugging-face")


def convert_checkpoint(source: str, output: str | Path, *, to: str = "keras") -> Path:
    """Converts a Griffin checkpoint; dtypes stay as they are.

    Args:
        source: RecurrentGemma in the form of Hugging Face, Kaggle Flax or Kaggle torch, or a
            preset of this package: a folder, a name, or an `hf://` or `kaggle://` handle.
        output: Path of the folder to write. It is written atomically.
        to: "keras" (a preset of this package) or "hugging-face" (for `transformers`).
            Defaults to "keras".

    Returns:
        Path of the folder.

    Raises:
        ValueError: If the form is unknown, or a tensor is missing or has the wrong shape.
    """
    if to not in TARGETS:
        raise ValueError(f"Cannot convert to {to!r}; choose one of {', '.join(TARGETS)}.")
    folder = fetch_folder(source, GriffinBackbone.preset_part)
    checkpoint = open_recurrent_gemma(folder)
    if to == "hugging-face" and checkpoint is not None:
        # From file to file, with at most one shard in memory.
        checkpoint.check_complete()
        write_recurrent_gemma(output, checkpoint.config, checkpoint.read, checkpoint.dtype)
        return Path(output)
    # Presets of this package load in the dtype of Keras' global policy by default.
    dtype = checkpoint.dtype if checkpoint is not None else stored_dtype(folder)
    backbone = GriffinBackbone.from_preset(folder, dtype=dtype)
    if to == "keras":
        backbone.save_to_preset(str(output))
    else:
        save_as_hugging_face(backbone, output)
    return Path(output)
