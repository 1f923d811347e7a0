"""The tutorials run, their notebooks are the generated ones, and the scripts do their work."""

import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import soundfile
from tiny_models import shared_tiny_preset

from keras_speechssm.audio import read_audio, write_audio
from keras_speechssm.preset_registry import DEFAULT_PRESET, preset_names

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TUTORIALS = sorted(EXAMPLES.glob("[0-9]*.py"))


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_tutorials():
    assert [path.stem for path in TUTORIALS] == ["01_continue_speech"]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_notebook_is_generated_from_the_tutorial(path):
    expected = load("make_notebook").make_notebook(path.read_text(encoding="utf-8"))
    assert path.with_suffix(".ipynb").read_text(encoding="utf-8") == expected, (
        "run python examples/make_notebook.py"
    )


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_notebook_holds_the_whole_tutorial(path):
    cells = json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    source = path.read_text(encoding="utf-8")
    compile(code, path.name, "exec")
    for line in code.splitlines():
        assert line in source
    assert cells[0]["source"][0].startswith("# ") and "Author" in "".join(cells[0]["source"])
    # Keras reads the backend once: it must be chosen before the first import.
    first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert first.startswith('import os\n\nos.environ.setdefault("KERAS_BACKEND"')


def check_run(path, tmp_path, monkeypatch, preset):
    matplotlib.use("Agg")
    monkeypatch.setenv("SPEECHSSM_PRESET", preset)
    monkeypatch.setenv("SPEECHSSM_SECONDS", "2")
    monkeypatch.setenv("SPEECHSSM_OUTPUT", str(tmp_path))
    names = runpy.run_path(str(path))
    assert names["continuation"].shape == (32000,)
    prompt = read_audio(EXAMPLES / "prompt.flac")
    assert soundfile.info(tmp_path / "continuation.wav").frames == len(prompt) + 32000
    assert soundfile.info(tmp_path / "resynthesis.wav").frames == len(prompt)
    assert (tmp_path / "continuation.png").stat().st_size > 10_000


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs_on_tiny_models(path, tmp_path, monkeypatch):
    check_run(path, tmp_path, monkeypatch, shared_tiny_preset())


@pytest.mark.slow
@pytest.mark.skipif(DEFAULT_PRESET not in preset_names(), reason="the demo preset is not here")
@pytest.mark.skipif(
    os.environ.get("KERAS_BACKEND", "jax") != "jax", reason="once is enough: JAX is the default"
)
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs_on_the_demo_preset(path, tmp_path, monkeypatch):
    check_run(path, tmp_path, monkeypatch, DEFAULT_PRESET)


def test_plot_continuation(tmp_path):
    write_audio(tmp_path / "speech.wav", 0.1 * np.sin(np.arange(16000.0)))
    picture = tmp_path / "picture.png"
    argv = [str(EXAMPLES / "prompt.flac"), str(tmp_path / "speech.wav"), str(picture)]
    load("plot_continuation").main(argv)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_picture_shows_a_tone_in_one_place():
    plot_continuation = load("plot_continuation")
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    loudest = plot_continuation.log_mel(tone).mean(axis=1).argmax()
    top = 2595 * np.log10(1 + 8000 / 700)
    centre = 700 * (10 ** (top * (loudest + 1) / 81 / 2595) - 1)  # of 80 bands up to 8 kHz
    assert abs(centre - 1000) < 60


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_prompt_is_what_its_script_makes(tmp_path):
    script = shutil.copy(EXAMPLES / "make_prompt.py", tmp_path)
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    made, kept = (read_audio(folder / "prompt.flac") for folder in (tmp_path, EXAMPLES))
    assert abs(len(made) - len(kept)) < 1600 and 8 < len(kept) / 16000 < 13
