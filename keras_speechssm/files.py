"""Files that appear whole or not at all, and what tells that they are whole."""

import fnmatch
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OPTIONS = "options.json"
"""What `save_run_config` writes into a run's folder."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Gives the path of a file to write, which becomes `path` when the block ends well.

    What was written is on the disk before it takes the name, so that neither a kill nor a
    power cut leaves half a file under it. After an error there is no trace of it.

    Args:
        path: of the file; its folder is made if missing.

    Example:

    ```python
    with atomic_write("metrics.json") as temporary:
        temporary.write_text("{}")
    ```
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: dict) -> None:
    """Writes a JSON file as `to_json` has it; it appears whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(to_json(content) + "\n", encoding="utf-8")


def cached_json(path: str | Path, key: dict, make: Callable[[], Any]) -> Any:
    """What `make` gave before for the same key, kept in a JSON file, or what it gives now.

    Args:
        path: of the file; a damaged one, or one of another key, is made again.
        key: JSON values that the result depends on.
        make: gives JSON values. They come back as the file has them, the first time too.
    """
    try:
        kept = json.loads(Path(path).read_text(encoding="utf-8"))
        if kept["key"] == key:
            return kept["result"]
    except (OSError, ValueError, TypeError, KeyError):
        pass
    result = json.loads(to_json(make()))
    write_json(path, {"key": key, "result": result})
    return result


def to_json(content) -> str:
    """JSON, indented for readers; numbers that are not finite, which it has not, are null."""
    return json.dumps(_finite(content), indent=2)


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def checksum(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_partial_files(folder: str | Path) -> None:
    """Removes what a killed process left half-written in a folder (not below it)."""
    for left in Path(folder).glob(".*.partial"):
        left.unlink(missing_ok=True)


@contextmanager
def run_lock(folder: str | Path) -> Iterator[None]:
    """Keeps other runs out of a run's folder while the block lasts; a kill frees it.

    Two runs in one folder would mix their records and overwrite each other's files.

    Raises:
        ValueError: another process, on this machine, is at it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    with open(Path(folder) / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"Another run is at work in {folder}; wait for its end, or give another folder."
            ) from None
        yield


def save_run_config(output_dir: str | Path, **options) -> None:
    """Writes a run's options into its folder; a run that goes on must have the same.

    Args:
        output_dir: folder of the run; made if missing.
        **options: what a run cannot change half way, JSON values.

    Raises:
        ValueError: the folder was begun with other options.
    """
    check_run_config(output_dir, **options)
    if not (path := Path(output_dir) / OPTIONS).is_file():
        write_json(path, options)


def check_run_config(output_dir: str | Path, **options) -> None:
    """Raises what `save_run_config` would, and writes nothing."""
    path = Path(output_dir) / OPTIONS
    options = json.loads(json.dumps(options))
    if not path.is_file():
        if Path(output_dir).is_file():
            raise ValueError(f"Cannot write a run to {output_dir}: a file lies there.")
        return
    try:
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(f"{path} is damaged; give another folder.") from None
    other = [f"{name} {known.get(name)!r}" for name in options if known.get(name) != options[name]]
    if other:
        raise ValueError(
            f"The run in {output_dir} was begun with {', '.join(other)}: go on with the same, or "
            "give another folder."
        )


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
