"""A bucket for tests: `gs://b/...` is read and written in a folder, through `etils.epath`."""

import contextlib
import os
from pathlib import Path
from types import SimpleNamespace
from unittest import mock


@contextlib.contextmanager
def fake_bucket(folder: Path):
    """Within the block, a folder holds what is written to `gs://b`."""
    from etils.epath import testing

    def local(path):
        text = os.fspath(path)
        if not text.startswith("gs://"):
            return Path(text)  # of Orbax, which uses `epath` for local folders too
        assert text == "gs://b" or text.startswith("gs://b/"), text
        return folder / text.removeprefix("gs://b").lstrip("/")

    functions = {
        "open": lambda _, path, mode: local(path).open(mode),
        "exists": lambda _, path: local(path).exists(),
        "isdir": lambda _, path: local(path).is_dir(),
        "stat": lambda _, path: SimpleNamespace(length=local(path).stat().st_size),
        "walk": lambda _, path, **options: (
            (path + root.removeprefix(str(local(path))), folders, files)
            for root, folders, files in os.walk(local(path))
        ),
        "listdir": lambda _, path: os.listdir(local(path)),
        "makedirs": lambda _, path, exist_ok=False, mode=None: os.makedirs(
            local(path), exist_ok=exist_ok
        ),
        "remove": lambda _, path: os.remove(local(path)),
    }
    with (
        mock.patch("etils.epath.gpath._is_tf_installed", return_value=False),
        mock.patch("keras_speechssm.files._check_bucket_package"),
        testing.mock_epath(**functions),
    ):
        yield
