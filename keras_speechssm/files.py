"""Files and folders that are written atomically, cached results, locks and checksums."""

import contextlib
import errno
import fnmatch
import glob
import hashlib
import importlib.util
import json
import logging
import math
import os
import platform
import re
import shutil
import tempfile
import tokenize
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

DAMAGED_ARRAYS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy raises for damaged `.npy` and `.npz` files, and callers for other content."""

OPTIONS = "options.json"
"""Name of the file that `save_run_config` writes into the folder of a run."""


_BUCKET = re.compile(r"(gs|s3|az):/{1,2}(?=[^/])")
_AS_URL = r"\1://"


def is_bucket(path: str | os.PathLike) -> bool:
    """Returns whether a path is in a bucket: `gs://`, `s3://` or `az://`.

    `pathlib.Path` makes `gs:/` of `gs://`, which would be a local folder named `gs:`.
    """
    return _BUCKET.match(os.fspath(path)) is not None


def check_local(name: str, path: str | os.PathLike) -> None:
    """Checks that a path is not in a bucket, where only local files can be read or written.

    Args:
        name: Name of the argument, for the message.
        path: The path.

    Raises:
        ValueError: If it is.
    """
    if is_bucket(path):
        url = _BUCKET.sub(_AS_URL, os.fspath(path), count=1)
        raise ValueError(
            f"{name} is {url}; expected a local path: mount the bucket (gcsfuse, mountpoint-s3), "
            "or copy the files."
        )


def open_path(path: str | os.PathLike) -> Path:
    """Returns a path object that reads and writes where a path says: on disk, or in a bucket.

    Args:
        path: A local path, or a path in a bucket such as `gs://bucket/run`.

    Raises:
        ModuleNotFoundError: If a bucket needs a package that is not installed.
    """
    if not is_bucket(path):
        return Path(path)
    _check_bucket_package(path)
    from etils import epath

    return epath.Path(_BUCKET.sub(_AS_URL, os.fspath(path), count=1))


def resolve_path(path: str | os.PathLike) -> Path:
    """Returns an absolute path without links. One in a bucket is left as it is.

    `resolve` of such a path would make it a local one.
    """
    return open_path(path) if is_bucket(path) else Path(path).resolve()


def _check_bucket_package(path: str | os.PathLike) -> None:
    """Raises an error that names the missing package; that of fsspec is not one line."""
    scheme = _BUCKET.match(os.fspath(path))[1]
    package = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}[scheme]
    names = [package, "tensorflow"] if scheme == "gs" else [package]
    if not any(importlib.util.find_spec(name) for name in names):
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)


@contextmanager
def _write_to_bucket(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a local path that is uploaded to `path`; a bucket shows complete files only."""
    target = open_path(path)
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / target.name
        yield temporary
        content = temporary.read_bytes()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path that replaces `path` when the block ends without an error.

    The content is flushed to disk before the file is renamed, so neither a killed process nor
    a power failure leaves a partial file at `path`. After an error the temporary file is
    removed and `path` is unchanged.

    Args:
        path: Path of the file, local or in a bucket. Its folder is created if it is missing.

    Example:

    ```python
    from keras_speechssm.files import atomic_write

    with atomic_write("metrics.json") as temporary:
        temporary.write_text("{}")
    ```
    """
    if is_bucket(path):
        with _write_to_bucket(path) as temporary:
            yield temporary
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield temporary
        flush_to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


_NO_FLUSH = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}
"""Errors of a file system that does not offer what was requested."""


def flush_to_disk(path: str | Path) -> None:
    """Flushes a file or a folder to disk, where the file system can do that.

    SMB, VirtualBox, WSL and Windows cannot flush folders. Their content is complete nevertheless,
    unless the power fails at that moment.

    Raises:
        OSError: If a file cannot be written, for example because the disk is full.
    """
    if Path(path).is_dir():
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:  # Windows
            return
        try:
            os.fsync(descriptor)
        except OSError as error:
            logger.debug("%s cannot be flushed (%s).", path, error)
        finally:
            os.close(descriptor)
        return
    with open(path, "rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _NO_FLUSH:
                raise


@contextmanager
def open_arrays(path: str | os.PathLike, what: str) -> Iterator[Mapping[str, Any]]:
    """Opens a `.npz` file that `numpy.savez` wrote.

    A compressed file is refused, because it may be far larger in memory than on the disk.

    Args:
        path: Path of the file.
        what: What the file should be, such as "the state of a generation", for messages.

    Raises:
        ValueError: If the file is damaged, or the block raises one of `DAMAGED_ARRAYS`.
    """
    import numpy as np  # not for every command

    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            if any(member.compress_type != zipfile.ZIP_STORED for member in file.zip.infolist()):
                raise ValueError("compressed")
            yield file
    except DAMAGED_ARRAYS:
        raise ValueError(f"{os.fspath(path)!r} is damaged or is not {what}.") from None


def write_json(path: str | Path, content: dict) -> None:
    """Writes `to_json(content)` to a file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(to_json(content) + "\n", encoding="utf-8")


CACHE_VARIABLE = "KERAS_SPEECHSSM_COMPILATION_CACHE"
"""Environment variable with the folder of compiled programs, or `off`."""


def cache_folder() -> Path:
    """Returns the folder for files that can be made again, such as `~/.cache/keras_speechssm`.

    Raises:
        ValueError: If the user has no home folder, as in some containers.
    """
    variable = "LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME"
    try:
        return Path(os.environ.get(variable) or Path.home() / ".cache") / "keras_speechssm"
    except RuntimeError:
        raise ValueError(
            f"This user has no home folder for files to keep; set {variable} to a folder."
        ) from None


def compilation_cache_settings() -> dict[str, Any]:
    """Returns JAX's settings that keep compiled programs in the user's cache folder.

    Programs are kept apart by the processor that they were compiled for, so computers may share
    a home folder. The environment variable `KERAS_SPEECHSSM_COMPILATION_CACHE` names another
    folder, or switches the cache off (`off`).

    Returns:
        Settings by name; empty if the cache is off or there is no folder that can be written.
    """
    chosen = os.environ.get(CACHE_VARIABLE, "")
    if chosen.lower() in ("off", "0", "none"):
        return {}
    try:
        folder = Path(chosen) if chosen else cache_folder() / "compiled"
    except ValueError:
        return {}
    processor = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor += [line for line in lines if line.startswith(("flags", "Features"))][:1]
    folder /= hashlib.sha256(repr(processor).encode()).hexdigest()[:12]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return {}
    if not os.access(folder, os.W_OK | os.X_OK):
        return {}
    return {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }


def cached_json(path: str | Path, key: dict, make: Callable[[], Any]) -> Any:
    """Returns the cached result of `make()` for `key`; computes and stores it on a miss.

    Args:
        path: Path of the JSON file. A damaged file, or one of another key, is a miss.
        key: JSON values that the result depends on.
        make: Function that returns JSON values.

    Returns:
        The result as it is read back from JSON (lists, not tuples), on a miss as well.
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
    """Serializes to indented JSON. NaN and infinities become null."""
    return json.dumps(_finite(content), indent=2)


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def checksum(path: str | Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_partial_files(folder: str | Path, name: str = "") -> None:
    """Removes the partial files that a killed process left in a folder (not below it).

    Args:
        folder: The folder.
        name: Name of the file that they are parts of. Defaults to all.
    """
    for left in Path(folder).glob(f".{glob.escape(name)}*.partial"):
        left.unlink(missing_ok=True)


@contextmanager
def run_lock(folder: str | Path, name: str = ".lock") -> Iterator[None]:
    """Locks the folder of a run for the duration of the block.

    Two runs in one folder would mix their records and overwrite each other's files. The
    operating system releases the lock when the process ends, killed or not. Some network file
    systems (NFS, Lustre) have no locks; there a warning is logged instead.

    Args:
        folder: Folder of the run. It must exist.
        name: Name of the lock's file, for processes that share the work of a run.

    Raises:
        ValueError: If another process on this machine holds the lock.
    """
    if is_bucket(folder):
        logger.warning("%s has no locks: make sure that only one run uses it.", folder)
        yield
        return
    lock = FileLock(Path(folder) / name, timeout=0)
    try:
        lock.acquire()
    except (Timeout, NotImplementedError, OSError) as error:
        reason = _why_no_locks(folder)
        if reason is None:
            if not isinstance(error, Timeout):
                raise
            raise ValueError(
                f"Another run is at work in {folder}; wait until it ends, or use another folder."
            ) from None
        logger.warning(
            "The file system of %s has no locks (%s): make sure that only one run uses it.",
            folder,
            reason,
        )
    try:
        yield
    finally:
        lock.release()


def _why_no_locks(folder: str | Path) -> str | None:
    """Returns why a new file in a folder cannot be locked, or `None` if it can."""
    try:
        import fcntl
    except ImportError:  # Windows has other locks.
        return None
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return os.strerror(error.errno) if error.errno else str(error)
    return None


def save_run_config(output_dir: str | Path, **options) -> None:
    """Writes the options of a run into its folder, or checks that a resumed run has the same.

    Args:
        output_dir: Folder of the run. It is created if it is missing.
        **options: JSON values that must not change when a run is resumed.

    Raises:
        ValueError: If the folder belongs to a run with other options.
    """
    check_run_config(output_dir, **options)
    if not (path := open_path(output_dir) / OPTIONS).exists():
        write_json(path, options)


def check_run_config(output_dir: str | Path, **options) -> None:
    """Raises the errors of `save_run_config` without writing anything."""
    path = open_path(output_dir) / OPTIONS
    options = json.loads(json.dumps(options))
    if not path.exists():
        if not is_bucket(path) and Path(output_dir).is_file():
            raise ValueError(f"Cannot write a run to {output_dir}: it is a file.")
        return
    try:
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(f"{path} is damaged; use another folder.") from None
    other = [f"{name} {known.get(name)!r}" for name in options if known.get(name) != options[name]]
    if other:
        raise ValueError(
            f"The run in {output_dir} was started with {', '.join(other)}; resume it with the "
            "same options, or use another folder."
        )


_MODEL_FILES = (
    "model.weights.h5",
    "model.weights.json",
    "model_*.weights.h5",
    "task.weights.h5",
    "task.json",
    "preprocessor.json",
)
"""Files of a KerasHub preset that one model has and another may not have."""


@contextmanager
def replace_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """Yields an empty folder that replaces `folder` when the block ends without an error.

    After an error `folder` is unchanged. Files of an existing `folder` that the new one does
    not contain are kept, except for the files of the old model, which would otherwise be
    loaded together with the new one.

    Args:
        folder: Path of the folder. Its parent is created if it is missing. In a bucket, files
            are replaced one by one, and `config.json`, which makes it a preset, is the last.

    Raises:
        ValueError: If `folder` is a file, or a folder that cannot be renamed.
    """
    if is_bucket(folder):
        with tempfile.TemporaryDirectory() as local:
            yield Path(local)
            _upload(Path(local), open_path(folder))
        return
    folder = Path(folder).resolve()
    check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    previous = folder.with_name(f".{folder.name}.{os.getpid()}.previous")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    kept: list[str] = []
    try:
        yield partial
        if folder.exists():
            folder.rename(previous)
            for name in sorted(entry.name for entry in previous.iterdir()):
                of_the_model = any(fnmatch.fnmatch(name, pattern) for pattern in _MODEL_FILES)
                if not of_the_model and not (partial / name).exists():
                    # Renamed, not copied: another process may be writing to it, such as a log.
                    (previous / name).rename(partial / name)
                    kept.append(name)
        partial.rename(folder)
    finally:
        if previous.exists() and not folder.exists():  # interrupted between the two renames
            for name in kept:
                (partial / name).rename(previous / name)
            previous.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


def _upload(source: Path, target: Path) -> None:
    names = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    if target.exists():
        for old in target.iterdir():
            of_the_model = any(fnmatch.fnmatch(old.name, pattern) for pattern in _MODEL_FILES)
            if of_the_model and old.name not in names:
                old.unlink()
    for name in sorted(names, key=lambda name: (name == "config.json", name)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((source / name).read_bytes())


def check_replaceable(folder: Path) -> None:
    """Raises the errors of `replace_folder` without writing anything."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"Cannot write a preset to {str(folder)!r}: it is a file.")
    here = Path.cwd()
    if folder.is_mount() or folder in (here, *here.parents):
        raise ValueError(
            f"Cannot write a preset to {str(folder)!r}: the folder cannot be renamed (it is a "
            "mount point or contains the working directory). Use a folder inside it."
        )
