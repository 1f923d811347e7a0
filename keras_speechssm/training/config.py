"""Options of a training run, refused before anything is read, built or written."""

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_speechssm.checks import check_at_least, check_between
from keras_speechssm.shapes import TOKEN_RATE


def check_schedule(
    learning_rate: float,
    total_steps: int,
    steps_per_epoch: int,
    warmup_steps: int | None = None,
    final_learning_rate: float = 0.02,
    max_seconds: float | None = None,
) -> None:
    """Raises `ValueError` for options of `fit_resumable` that are out of range or do not fit."""
    check_at_least(1, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    check_at_least(0, learning_rate=learning_rate, max_seconds=max_seconds)
    check_at_least(0, warmup_steps=warmup_steps)
    check_between(0, 1, final_learning_rate=final_learning_rate)
    if warmup_steps and warmup_steps >= total_steps:
        # No error: a run may go on with more steps.
        print(
            f"warmup_steps is {warmup_steps}: in {total_steps} steps the learning rate does not "
            "reach its peak.",
            file=sys.stderr,
        )
    if warmup_steps and warmup_steps < steps_per_epoch:
        raise ValueError(
            f"warmup_steps is {warmup_steps}, but the learning rate changes every steps_per_epoch "
            f"{steps_per_epoch} only: give fewer of those, or no warm-up (0)."
        )


def check_crops(
    audio_folders: Sequence[str | Path],
    validation_folders: Sequence[str | Path] | None,
    batch_size: int,
    crop_seconds: float,
    folder_weights: Sequence[float] | None = None,
) -> None:
    """Raises `ValueError` for folders that there are not, and crops that cannot be cut of them."""
    check_at_least(1, batch_size=batch_size)
    check_at_least(1 / TOKEN_RATE, crop_seconds=crop_seconds)
    for folder in (*audio_folders, *(validation_folders or ())):
        if not Path(folder).is_dir():
            raise ValueError(f"The folder {folder} does not exist.")
    if folder_weights is None:
        return
    if len(folder_weights) != len(audio_folders):
        raise ValueError(
            f"folder_weights has {len(folder_weights)} numbers for {len(audio_folders)} folders."
        )
    check_at_least(0, **{f"folder_weights[{n}]": w for n, w in enumerate(folder_weights)})
    if not sum(folder_weights):
        raise ValueError("folder_weights are all zero; at least one folder must be heard.")


def check_model_config(
    model_config: dict | None, model: type, decided: tuple[str, ...] = ()
) -> None:
    """Raises `ValueError` for the first name that `model` does not take, or that is decided.

    Args:
        model_config: arguments by name.
        model: the class that they are of.
        decided: arguments that the data or other models give.
    """
    known = {*inspect.signature(model).parameters, "name", "dtype", "trainable"} - {"kwargs"}
    unknown = sorted(set(model_config or {}) - (known - set(decided)))
    if unknown:
        raise ValueError(
            f"model_config has {unknown[0]!r}, which is no argument of {model.__name__} to be "
            f"set here{'; the data decide it' if unknown[0] in decided else ''}."
        )


def warn(line: str) -> None:
    """Tells of a mishap that a run survives."""
    print(f"speechssm: {line}.", file=sys.stderr, flush=True)
