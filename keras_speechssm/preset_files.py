"""The files of a preset folder: written whole or not at all, checked before loading."""

import fnmatch
import hashlib
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import h5py

from keras_speechssm.whole_files import checksum, write_json

_OF_A_MODEL = (
    "model.weights.h5",
    "model.weights.json",
    "model_*.weights.h5",
    "task.weights.h5",
    "task.json",
    "preprocessor.json",
)
"""What KerasHub writes of a model, by the form that it has: not every preset has each."""

_BEING_WRITTEN: set[Path] = set()


@contextmanager
def replace_folder(folder: str | os.PathLike):
    """Yields an empty folder that takes the place of `folder` when the block ends well.

    An error inside the block leaves `folder` as it was. Files of an existing `folder`
    that the new one does not hold are kept, but for those of the old model, which would be
    loaded with the new one's.

    Raises:
        ValueError: a file lies there, or a folder that cannot be replaced.
    """
    folder = Path(folder).resolve()
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    previous = folder.with_name(f".{folder.name}.{os.getpid()}.previous")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    kept: list[str] = []
    try:
        _BEING_WRITTEN.add(partial)
        yield partial
        if folder.exists():
            folder.rename(previous)
            for name in sorted(entry.name for entry in previous.iterdir()):
                of_a_model = any(fnmatch.fnmatch(name, pattern) for pattern in _OF_A_MODEL)
                if not of_a_model and not (partial / name).exists():
                    # Not a copy: who is writing to it, a log say, goes on.
                    (previous / name).rename(partial / name)
                    kept.append(name)
        partial.rename(folder)
    finally:
        _BEING_WRITTEN.discard(partial)
        if previous.exists() and not folder.exists():  # interrupted between the two names
            for name in kept:
                (partial / name).rename(previous / name)
            previous.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


def _check_replaceable(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"Cannot write a preset to {str(folder)!r}: a file lies there.")
    here = Path.cwd()
    if folder.is_mount() or folder in (here, *here.parents):
        raise ValueError(
            f"Cannot write a preset to {str(folder)!r}, a place that cannot be renamed (the "
            "working directory, say): give a folder in it."
        )


def is_being_written(folder: str | os.PathLike) -> bool:
    """Whether a folder is one that `replace_folder` has given out, or lies in it."""
    path = Path(folder).resolve()
    return not _BEING_WRITTEN.isdisjoint((path, *path.parents))


def store_weights_as_float16(folder: str | os.PathLike) -> None:
    """Rewrites the weight files below `folder` with float32 arrays as float16.

    Halves the size on disk; models load them into their own dtype. An array with a
    value beyond float16's range stays float32.
    """
    for path in sorted(Path(folder).rglob("*.weights.h5")):
        partial = path.with_name(f".{path.name}.partial")
        with h5py.File(path, "r") as source, h5py.File(partial, "w") as target:
            _copy_as_float16(source, target)
        os.replace(partial, path)


def _copy_as_float16(source: h5py.Group, target: h5py.Group) -> None:
    for key, value in source.attrs.items():
        target.attrs[key] = value
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            _copy_as_float16(item, target.create_group(name))
            continue
        data = item[()]
        if item.dtype == "float32" and abs(data).max(initial=0.0) < 6.5e4:
            data = data.astype("float16")
        copy = target.create_dataset(name, data=data)
        for key, value in item.attrs.items():
            copy.attrs[key] = value


def save_parts(
    folder: str | os.PathLike, models: dict, config: dict, metadata: dict | None = None
) -> None:
    """Writes a pipeline preset, whole or not at all, its weights as float16.

    Args:
        folder: where to. Other files of an existing folder are kept.
        models: part -> model; each is saved to the sub-folder of its part's name.
        config: further entries of `config.json`.
        metadata: content of `metadata.json`. Defaults to `None`: no such file.
    """
    with replace_folder(folder) as partial:
        for part, model in models.items():
            model.save_to_preset(str(partial / part))
        store_weights_as_float16(partial)
        config = {"parts": {part: part for part in models}, **config}
        write_json(partial / "config.json", config)
        if metadata is not None:
            write_json(partial / "metadata.json", metadata)


def check_weight_files(folder: Path) -> None:
    """Raises one clear `ValueError` for a weight file that is missing or cut short."""
    paths = sorted(folder.glob("*.weights.h5"))
    if not any(path.name.startswith("model") for path in paths):
        raise ValueError(
            f"{str(folder)!r} has no weight file (model.weights.h5): fetch the preset "
            "again, or pass load_weights=False for fresh weights."
        )
    for path in paths:
        try:
            h5py.File(path, "r").close()
        except OSError as error:
            raise ValueError(
                f"The weight file {str(path)!r} is truncated or no HDF5 file "
                f"({first_line(error)}): fetch the preset again."
            ) from None


def fingerprint(folder: str | os.PathLike) -> str:
    """What tells a preset's weights and configs from others, wherever the folder lies."""
    files = [p for p in Path(folder).rglob("*") if p.suffix in (".h5", ".json")]
    of_model = sorted(p for p in files if p.name != "metadata.json")
    lines = [f"{path.relative_to(folder).as_posix()} {checksum(path)}" for path in of_model]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def first_line(error: Exception) -> str:
    """What an error's message says first, in one line: Keras' messages are long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first, *others = lines or [type(error).__name__]
    return f"{first} {others[0]}" if first.endswith(":") and others else first
