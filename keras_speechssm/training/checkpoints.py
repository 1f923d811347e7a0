"""Checkpoints that survive a kill at any time, a full disk and damaged files.

    <folder>/epoch-00012/state.weights.h5     model, optimizer and metrics
    <folder>/epoch-00012/lora.npz             LoRA matrices, if there are any
    <folder>/epoch-00012/checkpoint.json      epoch, size, SHA-256, random states, further values

A checkpoint gets its name when all of it is on the disk. Older ones are deleted after that.
`keras.callbacks.BackupAndRestore` overwrites its only file and has no checksum.
"""

import errno
import json
import logging
import math
import shutil
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_speechssm.checks import first_line
from keras_speechssm.files import checksum, flush_to_disk, open_arrays, write_json

logger = logging.getLogger(__name__)

_STATE = "state.weights.h5"
_LORA = "lora.npz"
_ABOUT = "checkpoint.json"


class Checkpoints:
    """The newest checkpoints of a run.

    Args:
        folder: Folder of the checkpoints. It is created if it is missing.
        keep: How many are kept. Defaults to `2`.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        self.folder = Path(folder)
        self.keep = keep

    def save(self, model: keras.Model, epoch: int, **about) -> bool:
        """Save the state after `epoch` epochs. If the disk refuses, warn and leave no trace.

        Args:
            model: A compiled model.
            epoch: Number of finished epochs.
            **about: Further values for `checkpoint.json`.

        Returns:
            Whether the checkpoint was written.
        """
        target = self.folder / f"epoch-{epoch:05d}"
        partial = self.folder / f".epoch-{epoch:05d}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _check_space(partial, model)
            state = partial / _STATE
            model.save_weights(str(state))
            flush_to_disk(state)
            size = state.stat().st_size
            about = {"epoch": epoch, "bytes": size, "sha256": checksum(state), **about}
            if matrices := _lora_matrices(model):
                with open(partial / _LORA, "wb") as file:
                    np.savez(file, *(_to_float32(matrix) for matrix in matrices))
                flush_to_disk(partial / _LORA)
                about["lora_sha256"] = checksum(partial / _LORA)
            about["random_states"] = [
                keras.ops.convert_to_numpy(seed).tolist() for seed in _random_states(model)
            ]
            if keras.backend.backend() == "torch":
                about["torch_random_states"] = _torch_random_states()
            write_json(partial / _ABOUT, about)
            shutil.rmtree(target, ignore_errors=True)  # damaged, or of a run that was resumed
            partial.rename(target)
            flush_to_disk(self.folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            logger.warning(
                "The checkpoint after epoch %d could not be written (%s); training continues.",
                epoch,
                error,
            )
            return False
        # A checkpoint with a larger number was damaged, or belongs to an earlier run.
        others = [name for name in self._names() if name != target.name]
        newer = [name for name in others if int(name[6:]) > epoch]
        for old in [*newer, *others[len(newer) :][self.keep - 1 :]]:
            shutil.rmtree(self.folder / old, ignore_errors=True)
        return True

    def restore(self, model: keras.Model) -> dict:
        """Load the newest intact checkpoint, and warn about damaged ones.

        Args:
            model: A built and compiled model, whose state is replaced.

        Returns:
            The content of its `checkpoint.json`, or an empty dict if there is no checkpoint.

        Raises:
            ValueError: If an intact checkpoint belongs to another model or optimizer.
        """
        names = self._names()
        for name in names:
            about = self._intact(name)
            if about is None:
                logger.warning("Checkpoint %s is damaged and was skipped.", self.folder / name)
                continue
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            adapted = [(weight, keras.ops.copy(weight)) for weight in _adapted_weights(model)]
            try:
                with warnings.catch_warnings():
                    # Keras would only warn, and train with a new optimizer.
                    warnings.filterwarnings("error", message="Skipping variable loading")
                    model.load_weights(str(self.folder / name / _STATE))
            except (ValueError, UserWarning) as error:
                raise ValueError(
                    f"Checkpoint {self.folder / name} belongs to another model or optimizer; "
                    f"use another output_dir ({first_line(error)})."
                ) from error
            if "lora_sha256" in about:
                with open_arrays(self.folder / name / _LORA, "a file of LoRA matrices") as arrays:
                    saved = [arrays[f"arr_{n}"] for n in range(len(arrays))]
                for variable, value in [*adapted, *zip(_lora_matrices(model), saved, strict=True)]:
                    variable.assign(value)
            _restore_random_states(model, about.get("random_states", []))
            return about
        if names:
            logger.warning("No checkpoint in %s is intact.", self.folder)
        return {}

    def wait(self) -> None:
        """Do nothing: a checkpoint is written when `save` returns."""

    close = wait

    @classmethod
    def is_in(cls, folder: str | Path) -> bool:
        """Return whether a folder has checkpoints of this kind."""
        return bool(cls(folder)._names())

    def _names(self) -> list[str]:
        """Return the names of the checkpoints, newest first."""
        names = [path.name for path in self.folder.glob("epoch-*") if path.name[6:].isdecimal()]
        return sorted(names, key=lambda name: int(name[6:]), reverse=True)

    def _intact(self, name: str) -> dict | None:
        state = self.folder / name / _STATE
        try:
            about = json.loads((self.folder / name / _ABOUT).read_text(encoding="utf-8"))
            found = [checksum(state)]
            expected = [about["sha256"]]
            if "lora_sha256" in about:
                found.append(checksum(state.with_name(_LORA)))
                expected.append(about["lora_sha256"])
            return about if found == expected else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _lora_matrices(model: keras.Model) -> list:
    """Return the LoRA matrices. Keras saves their product with the weights and forgets them.

    It would load zeros, which have no gradient.
    """
    return [variable for variable in model.variables if variable.name.startswith("lora_")]


def _adapted_weights(model: keras.Model) -> list:
    """Return the frozen weights of the layers that have LoRA matrices."""
    matrices = {id(matrix) for matrix in _lora_matrices(model)}
    layers = [layer for layer in model._flatten_layers() if getattr(layer, "lora_enabled", False)]
    return [
        w for layer in layers for w in layer.weights if not w.trainable and id(w) not in matrices
    ]


def _to_float32(variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))


def _random_states(model: keras.Model) -> list:
    """Return the states of all generators of a model, which Keras does not save."""
    return [variable for variable in model.variables if variable.name == "seed_generator_state"]


def _restore_random_states(model: keras.Model, values: list) -> None:
    """Set the states of the generators; those of a checkpoint of an older version are missing."""
    states = _random_states(model)
    if len(states) != len(values):
        if states:
            logger.warning("The checkpoint has no random states; its run resumes with new draws.")
        return
    for state, value in zip(states, values, strict=True):
        state.assign(np.array(value, state.dtype))


def _torch_random_states() -> list[str]:
    """Return the states of PyTorch's own generators, which its dropout draws from: CPU, GPUs."""
    import torch

    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states += torch.cuda.get_rng_state_all()
    return [state.cpu().numpy().tobytes().hex() for state in states]


class RestoreTorchRandomStates(keras.callbacks.Callback):
    """Puts PyTorch's generators where a checkpoint left them, as the first batch begins.

    Before that, Keras draws from them to make ready.

    Args:
        about: What `Checkpoints.restore` returned.
    """

    def __init__(self, about: dict):
        super().__init__()
        self.states = about.get("torch_random_states", [])

    def on_train_batch_begin(self, batch, logs=None):
        if self.states:
            import torch

            states = [
                torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8)
                for state in self.states
            ]
            torch.set_rng_state(states[0])
            if len(states) == 1 + torch.cuda.device_count():
                torch.cuda.set_rng_state_all(states[1:])
            self.states = []


def _check_space(folder: Path, model: keras.Model) -> None:
    """Raise the error of a full disk early: HDF5 crashes when it meets one."""
    variables = {id(v): v for v in (*model.variables, *model.optimizer.variables)}
    size = 0
    for variable in variables.values():
        stored = "float32" if variable.dtype == "bfloat16" else variable.dtype
        size += math.prod(variable.shape) * np.dtype(stored).itemsize
    # Names and tables of an HDF5 file take some KiB per variable.
    needed = size + 4096 * len(variables) + 2**20
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{free / 2**20:.0f} MiB free, {needed / 2**20:.0f} needed")
