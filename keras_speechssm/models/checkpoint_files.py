"""Checkpoint files of other libraries, read one tensor at a time: safetensors, torch, orbax.

Each class has `names()`, `shape(name)`, `dtype(name)` and `read(name)`. Arrays are NumPy arrays;
bfloat16 is that of `ml_dtypes`. `place` is the name of the checkpoint in error messages.
"""

import json
from pathlib import Path

import ml_dtypes
import numpy as np

_SAFETENSORS_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


def open_tensors(folder: Path):
    """Returns the reader of a Hugging Face folder.

    Safetensors are preferred; `pytorch_model.bin` is read as tensors alone, without unpickling
    code.

    Raises:
        ValueError: If there is neither, or the file is damaged or holds more than tensors.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if not single.is_file() and not index.is_file() and (folder / "pytorch_model.bin").is_file():
        return TorchTensors(folder / "pytorch_model.bin")
    return SafetensorsTensors(folder)


class SafetensorsTensors:
    """The tensors of a Hugging Face folder, in one file or in shards.

    The file is opened for each tensor and closed again, so the tensors that were read do not
    stay mapped into memory. `name` is the name of the one file.
    """

    def __init__(self, folder: Path, name: str = "model.safetensors"):
        self.place = str(folder)
        self._headers: dict[Path, dict] = {}
        index = folder / f"{name}.index.json"
        if index.is_file():
            files = json.loads(index.read_text(encoding="utf-8")).get("weight_map")
            if not isinstance(files, dict):
                raise ValueError(
                    f"{str(index)!r} has no weight_map; download the checkpoint again."
                )
            self._files = {name: folder / file for name, file in files.items()}
        else:
            path = folder / name
            with self._open(path) as file:
                self._files = dict.fromkeys(file.keys(), path)

    def names(self) -> list[str]:
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._about(name)[0])

    def dtype(self, name: str) -> str:
        kind = self._about(name)[1]
        if kind not in _SAFETENSORS_DTYPES:
            raise ValueError(
                f"{self.place}: the tensor {name!r} has dtype {kind}; expected a float."
            )
        return _SAFETENSORS_DTYPES[kind]

    def read(self, name: str) -> np.ndarray:
        with self._open(self._files[name]) as file:
            return file.get_tensor(name)

    def _about(self, name: str) -> tuple[list[int], str]:
        """Returns the shape and the dtype of a tensor. Each file is opened for them only once."""
        path = self._files[name]
        if path not in self._headers:
            with self._open(path) as file:
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
                self._headers[path] = {
                    key: (part.get_shape(), part.get_dtype()) for key, part in slices.items()
                }
        if name not in self._headers[path]:
            raise ValueError(f"{path}: missing the tensor {name}.")
        return self._headers[path][name]

    def _open(self, path: Path):
        import safetensors

        if not path.is_file():
            raise ValueError(f"{str(path)!r} is missing; download the checkpoint again.")
        try:
            return safetensors.safe_open(str(path), framework="numpy")
        except safetensors.SafetensorError as error:
            raise ValueError(f"{str(path)!r} is damaged or truncated: {error}.") from None


class TorchTensors:
    """The tensors of a PyTorch state dictionary, memory-mapped; no code is unpickled."""

    def __init__(self, path: Path):
        try:
            import torch
        except ImportError:
            raise ValueError(f"Reading {str(path)!r} needs torch: pip install torch.") from None
        self.place = str(path)
        try:
            state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # The unpickler raises errors of any class.
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{str(path)!r} cannot be read as tensors alone: {reason}") from None
        if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
            raise ValueError(
                f"{str(path)!r} is not a dictionary of tensors; save only the state dictionary "
                "of the model."
            )
        self._state = {name.removeprefix("params."): value for name, value in state.items()}

    def names(self) -> list[str]:
        return list(self._state)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._state[name].shape)

    def dtype(self, name: str) -> str:
        return str(self._state[name].dtype).removeprefix("torch.")

    def read(self, name: str) -> np.ndarray:
        import torch

        tensor = self._state[name].detach().contiguous()
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()


class OrbaxTensors:
    """The tensors of an orbax checkpoint, restored one layer at a time."""

    def __init__(self, folder: Path):
        try:
            import orbax.checkpoint
        except ImportError:
            raise ValueError(
                f"Reading the Flax checkpoint {str(folder)!r} needs orbax: "
                "pip install orbax-checkpoint."
            ) from None
        self.place = str(folder)
        self._path = folder.resolve()
        self._checkpointer = orbax.checkpoint.PyTreeCheckpointer()
        metadata = self._checkpointer.metadata(self._path)
        tree = getattr(getattr(metadata, "item_metadata", metadata), "tree", metadata)
        self._prefix = ("params",) if set(tree) == {"params"} else ()
        self._leaves = dict(_flatten(tree["params"] if self._prefix else tree))
        self._layer: tuple[str, dict] = ("", {})

    @staticmethod
    def exists_in(folder: Path) -> bool:
        """Returns whether a folder is an orbax checkpoint."""
        marks = ("_METADATA", "_CHECKPOINT_METADATA", "checkpoint", "manifest.ocdbt")
        return any((folder / mark).exists() for mark in marks)

    def names(self) -> list[str]:
        return list(self._leaves)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._leaves[name].shape)

    def dtype(self, name: str) -> str:
        return str(np.dtype(self._leaves[name].dtype))

    def read(self, name: str) -> np.ndarray:
        layer = name.split("/")[0]
        if self._layer[0] != layer:
            self._layer = ("", {})  # Free the previous layer first.
            self._layer = (layer, self._restore(layer))
        return self._layer[1][name]

    def _restore(self, layer: str) -> dict[str, np.ndarray]:
        """Restores the tensors of one top-level group."""
        import orbax.checkpoint

        names = [name for name in self._leaves if name.split("/")[0] == layer]
        item: dict = {}
        for name in names:
            *groups, last = (*self._prefix, *name.split("/"))
            place = item
            for group in groups:
                place = place.setdefault(group, {})
            place[last] = orbax.checkpoint.RestoreArgs(restore_type=np.ndarray)
        restored = self._checkpointer.restore(
            self._path, item=item, restore_args=item, partial_restore=True
        )
        return {
            name: np.asarray(value)
            for name, value in _flatten(restored["params"] if self._prefix else restored)
        }


def _flatten(tree: dict, prefix: str = ""):
    """Yields the leaves of a nested dictionary with their keys joined by slashes."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value
