"""From one form of a Griffin checkpoint to another: what `speechssm convert` does."""

from pathlib import Path

from keras_speechssm.models.checkpoint_weights import save_as_hugging_face
from keras_speechssm.models.griffin.convert_recurrent_gemma import (
    open_recurrent_gemma,
    write_recurrent_gemma,
)
from keras_speechssm.models.griffin.griffin_backbone import GriffinBackbone
from keras_speechssm.presets import fetch_folder, stored_dtype

TARGETS = ("keras", "hugging-face")


def convert_checkpoint(source: str, output: str | Path, *, to: str = "keras") -> Path:
    """Converts a Griffin checkpoint; dtypes stay as they are.

    Args:
        source: RecurrentGemma as Hugging Face, Kaggle Flax or Kaggle torch have it, or a
            preset of this package; a folder, a name, or an `hf://` or `kaggle://` handle.
        output: the folder to write; it appears whole or not at all.
        to: "keras" (a preset of this package) or "hugging-face" (for `transformers`).

    Returns:
        The folder.

    Raises:
        ValueError: an unknown form, or a tensor that is missing or misshapen.
    """
    if to not in TARGETS:
        raise ValueError(f"Cannot convert to {to!r}; choose one of {', '.join(TARGETS)}.")
    folder = fetch_folder(source, GriffinBackbone.preset_part)
    checkpoint = open_recurrent_gemma(folder)
    if to == "hugging-face" and checkpoint is not None:
        # From file to file: no more than a shard is in memory.
        checkpoint.check_complete()
        write_recurrent_gemma(output, checkpoint.config, checkpoint.read, checkpoint.dtype)
        return Path(output)
    # A preset of ours loads in the dtype of Keras' global policy unless told its own.
    dtype = checkpoint.dtype if checkpoint is not None else stored_dtype(folder)
    backbone = GriffinBackbone.from_preset(folder, dtype=dtype)
    if to == "keras":
        backbone.save_to_preset(str(output))
    else:
        save_as_hugging_face(backbone, output)
    return Path(output)
