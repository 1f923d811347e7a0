"""Checkpoints that survive a kill at any instant, a full disk and damage.

    <folder>/epoch-00012/state.weights.h5     model, optimizer and metrics
    <folder>/epoch-00012/checkpoint.json      epoch, size, SHA-256; and what else is to be known

A checkpoint takes its name when all of it is on the disk, and the one before is deleted only
then.
"""

import errno
import json
import math
import os
import shutil
from pathlib import Path

import keras
import numpy as np

from keras_speechssm.checks import first_line
from keras_speechssm.files import checksum, write_json
from keras_speechssm.training.config import warn

_STATE = "state.weights.h5"
_ABOUT = "checkpoint.json"


class Checkpoints:
    """The newest checkpoints of a run.

    Args:
        folder: where they lie; made if missing.
        keep: int. How many are kept.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        self.folder = Path(folder)
        self.keep = keep

    def save(self, model: keras.Model, epoch: int, **about) -> bool:
        """Writes the state after `epoch` epochs; where it cannot, says so and leaves no trace.

        Args:
            model: a compiled model.
            epoch: int. Finished epochs.
            **about: what else `checkpoint.json` says.

        Returns:
            Whether it was written.
        """
        target = self.folder / f"epoch-{epoch:05d}"
        partial = self.folder / f".epoch-{epoch:05d}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _check_space(partial, model)
            state = partial / _STATE
            model.save_weights(str(state))
            _to_disk(state)
            size = state.stat().st_size
            about = {"epoch": epoch, "bytes": size, "sha256": checksum(state), **about}
            write_json(partial / _ABOUT, about)
            shutil.rmtree(target, ignore_errors=True)  # damaged, or of a run that was resumed
            partial.rename(target)
            _to_disk(self.folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            warn(f"the checkpoint after epoch {epoch} could not be written ({error}); training on")
            return False
        # What has a larger number was damaged, or belongs to a run that began anew.
        others = [name for name in self._names() if name != target.name]
        newer = [name for name in others if int(name[6:]) > epoch]
        for old in [*newer, *others[len(newer) :][self.keep - 1 :]]:
            shutil.rmtree(self.folder / old, ignore_errors=True)
        return True

    def restore(self, model: keras.Model) -> dict:
        """Loads the newest checkpoint that is intact, and says which were not.

        Args:
            model: a built and compiled model; its state is replaced.

        Returns:
            What its `checkpoint.json` says; an empty dict where there is none to load.

        Raises:
            ValueError: an intact checkpoint is of another model.
        """
        names = self._names()
        for name in names:
            about = self._intact(name)
            if about is None:
                warn(f"checkpoint {self.folder / name} is damaged and passed over")
            else:
                if not model.optimizer.built:
                    model.optimizer.build(model.trainable_variables)
                try:
                    model.load_weights(str(self.folder / name / _STATE))
                except ValueError as error:
                    raise ValueError(
                        f"Checkpoint {self.folder / name} is of another model; begin in another "
                        f"folder ({first_line(error)})."
                    ) from error
                return about
        if names:
            warn(f"no checkpoint in {self.folder} is intact")
        return {}

    def _names(self) -> list[str]:
        """Of the checkpoints, the newest first."""
        names = [path.name for path in self.folder.glob("epoch-*") if path.name[6:].isdecimal()]
        return sorted(names, key=lambda name: int(name[6:]), reverse=True)

    def _intact(self, name: str) -> dict | None:
        state = self.folder / name / _STATE
        try:
            about = json.loads((self.folder / name / _ABOUT).read_text(encoding="utf-8"))
            return about if checksum(state) == about["sha256"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _check_space(folder: Path, model: keras.Model) -> None:
    """Raises the error of a full disk before HDF5 meets one, which it does not survive."""
    variables = {id(v): v for v in (*model.variables, *model.optimizer.variables)}
    size = sum(math.prod(v.shape) * np.dtype(_stored(v.dtype)).itemsize for v in variables.values())
    # Names and tables of an HDF5 file: some KiB a variable.
    needed = size + 4096 * len(variables) + 2**20
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{free / 2**20:.0f} MiB are free, {needed / 2**20:.0f} needed")


def _stored(dtype: str) -> str:
    return "float32" if dtype == "bfloat16" else dtype


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
