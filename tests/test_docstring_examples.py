"""The examples in the docstrings of public classes and functions run as they stand.

Each ```python block runs alone, in the root of the repository: every name that it uses is
defined in it.
"""

import importlib
import inspect
import re
from pathlib import Path

import keras
import pytest

pytestmark = [
    pytest.mark.any_backend,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="examples are for JAX"),
]

ROOT = Path(__file__).resolve().parents[1]

MODULES = (
    "keras_speechssm.config",
    "keras_speechssm.checks",
    "keras_speechssm.files",
    "keras_speechssm.compilation",
    "keras_speechssm.presets",
    "keras_speechssm.windows",
    "keras_speechssm.layers",
    "keras_speechssm.models",
    "keras_speechssm.models.preset_mixin",
    "keras_speechssm.models.speech_transformer.slide_and_prompt",
    "keras_speechssm.pipeline",
    "keras_speechssm.synthesis",
    "keras_speechssm.audio",
    "keras_speechssm.data",
    "keras_speechssm.training",
    "keras_speechssm.evaluation",
)
SLOW = ('from_preset("speech_ssm_demo_en")', "SpeechContinuation", "S3Gen(")
"""An example that contains one of these loads trained weights, or compiles a pipeline."""

NEEDS_DATA = ("train_speech_lm(", "finetune_pipeline(", "upload_preset(")
"""An example that contains one of these needs data, or a login, that the reader has to prepare."""

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def public_objects():
    """Qualified name -> object of this package: modules, and their public names and methods."""
    found = {"keras_speechssm": importlib.import_module("keras_speechssm")}
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        found[module_name] = module
        for name in getattr(module, "__all__", None) or vars(module):
            value = getattr(module, name, None)
            origin = getattr(value, "__module__", None) or ""
            if name.startswith("_") or not origin.startswith("keras_speechssm"):
                continue
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            found[f"{origin}.{name}"] = value
            if inspect.isclass(value):
                for method, function in vars(value).items():
                    function = getattr(function, "__func__", function)
                    if not method.startswith("_") and inspect.isfunction(function):
                        found[f"{origin}.{name}.{method}"] = function
    return found


def examples():
    """One parameter for each example, the slow ones marked."""
    seen = set()
    for name, value in sorted(public_objects().items()):
        for number, code in enumerate(BLOCK.findall(inspect.getdoc(value) or "")):
            if code in seen or any(word in code for word in NEEDS_DATA):
                continue
            seen.add(code)
            marks = [pytest.mark.slow] if any(word in code for word in SLOW) else []
            yield pytest.param(code, id=f"{name}:{number}", marks=marks)


@pytest.mark.parametrize("code", list(examples()))
def test_example(code, monkeypatch, tmp_path):
    """Runs with a copy of the examples' audio, so that nothing is written to the checkout."""
    (tmp_path / "examples").mkdir()
    for audio in (ROOT / "examples").glob("*.flac"):
        (tmp_path / "examples" / audio.name).symlink_to(audio)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "<example>", "exec"), {"__name__": "__main__"})


def test_each_layer_and_model_has_an_example():
    for module_name in ("keras_speechssm.layers", "keras_speechssm.models"):
        module = importlib.import_module(module_name)
        without = []
        for name in module.__all__:
            value = getattr(module, name)
            # Small variants of Keras' own Dense, and the setting of another module.
            if name in ("PointwiseDense", "Projection"):
                continue
            if not BLOCK.search(inspect.getdoc(value) or ""):
                without.append(name)
        assert not without, without
