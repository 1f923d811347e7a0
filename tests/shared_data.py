"""Real recordings and models beside the repository, where there are any."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "shared" / "data"


def shared_folder(name: str) -> Path:
    """`../shared/data/<name>`; skips the test where it is not there."""
    if not (ROOT / name).is_dir():
        pytest.skip(f"needs ../shared/data/{name}, which is not there")
    return ROOT / name
