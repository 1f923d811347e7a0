"""Properties of the whole package: imports go one way, and nothing unsafe is executed."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.any_backend

PACKAGE = Path(__file__).resolve().parents[1] / "keras_speechssm"
FILES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(path: Path) -> list[str]:
    modules = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    return modules


def test_imports_go_down():
    """The rules are in pyproject.toml, for `lint-imports`."""
    result = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=PACKAGE.parent,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_can_execute_foreign_data(path):
    unsafe = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not {module.split(".")[0] for module in imported_modules(path)} & unsafe
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec"}, f"line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg in {"allow_pickle", "safe_mode"}:
            safe = node.arg == "safe_mode"
            assert getattr(node.value, "value", None) is safe, f"line {node.value.lineno}"


def test_presets_hold_no_code():
    allowed = {".json", ".md", ".h5"}
    presets = PACKAGE.parent / "presets"
    files = [path for path in presets.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= allowed


BLOCKED = """
import sys
sys.modules["tensorflow"] = None
sys.modules["tensorflow_text"] = None
import numpy as np
from tiny_models import shared_tiny_pipeline
speech = shared_tiny_pipeline()
prompt = 0.1 * np.random.default_rng(0).standard_normal(16000).astype("float32")
assert speech.continue_speech(prompt, seconds=2, seed=0).shape == (32000,)
assert "torch" not in sys.modules
print("spoken")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("KERAS_BACKEND", "jax") != "jax", reason="is about JAX")
def test_audio_path_needs_no_tensorflow():
    search = os.pathsep.join([str(PACKAGE.parent), str(PACKAGE.parent / "tests")])
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED],
        env={**os.environ, "PYTHONPATH": search, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert result.stdout == "spoken\n", result.stderr
