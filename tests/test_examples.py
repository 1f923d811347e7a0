"""The tutorials run, their notebooks are the generated ones, and the scripts do their work."""

import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import matplotlib
import numpy as np
import pytest
import soundfile
from tiny_models import shared_tiny_preset

from keras_speechssm.audio.io import read_audio, write_audio
from keras_speechssm.models import GriffinBackbone, SpeechSSM
from keras_speechssm.models.convert import convert_checkpoint
from keras_speechssm.presets import DEFAULT_PRESET, preset_names

pytestmark = pytest.mark.any_backend

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TUTORIALS = sorted(EXAMPLES.glob("[0-9]*.py"))
on_jax = pytest.mark.skipif(
    os.environ.get("KERAS_BACKEND", "jax") != "jax", reason="once is enough: JAX is the default"
)


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_tutorials():
    assert [path.stem for path in TUTORIALS] == [
        "01_continue_speech",
        "02_finetune",
        "03_train_from_text_checkpoint",
    ]


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


def run_tutorial(name, tmp_path, monkeypatch, preset, **settings):
    """Runs a tutorial small, and returns the names that it leaves."""
    matplotlib.use("Agg")
    settings = {"PRESET": preset, "SECONDS": "2", "OUTPUT": str(tmp_path), **settings}
    for key, value in settings.items():
        monkeypatch.setenv(f"SPEECHSSM_{key}", str(value))
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def check_continuation(tmp_path, monkeypatch, preset):
    names = run_tutorial("01_continue_speech", tmp_path, monkeypatch, preset)
    assert names["continuation"].shape == (32000,)
    prompt = read_audio(EXAMPLES / "prompt.flac")
    assert soundfile.info(tmp_path / "continuation.wav").frames == len(prompt) + 32000
    assert soundfile.info(tmp_path / "resynthesis.wav").frames == len(prompt)
    assert (tmp_path / "continuation.png").stat().st_size > 10_000


def check_finetuning(tmp_path, monkeypatch, preset, steps):
    pytest.importorskip("grain")
    pytest.importorskip("array_record")
    prompt = read_audio(EXAMPLES / "prompt.flac")
    (tmp_path / "recordings").mkdir()
    for number in range(3):
        write_audio(tmp_path / "recordings" / f"{number}.wav", np.roll(prompt, 16000 * number))
    settings = {"RECORDINGS": tmp_path / "recordings", "STEPS": steps}
    names = run_tutorial("02_finetune", tmp_path, monkeypatch, preset, **settings)
    assert names["loss_after"] < names["loss_before"]
    for name in ("before.wav", "after.wav"):
        frames = len(prompt[:160000]) + 32000
        assert soundfile.info(tmp_path / name).frames == frames
    tokens = np.array([[1, 2, 3]])
    loaded = SpeechSSM.from_preset(str(tmp_path / "speech_lm"))
    outputs = [keras.ops.convert_to_numpy(model(tokens)) for model in (loaded, names["model"])]
    np.testing.assert_allclose(*outputs, atol=1e-4)


def test_tutorial_01_runs_on_tiny_models(tmp_path, monkeypatch):
    check_continuation(tmp_path, monkeypatch, shared_tiny_preset())


@on_jax
def test_tutorial_02_runs_on_tiny_models(tmp_path, monkeypatch):
    check_finetuning(tmp_path, monkeypatch, shared_tiny_preset(), steps=40)


@on_jax
def test_tutorial_03_runs_on_a_tiny_checkpoint_of_the_published_form(tmp_path, monkeypatch):
    pytest.importorskip("grain")
    pytest.importorskip("array_record")
    text = GriffinBackbone(
        vocabulary_size=32, num_layers=3, hidden_dim=8, intermediate_dim=12, num_heads=2
    )
    text.save_to_preset(str(tmp_path / "text"))
    convert_checkpoint(tmp_path / "text", tmp_path / "hugging_face", to="hugging-face")
    shutil.copytree(EXAMPLES, tmp_path / "recordings", ignore=shutil.ignore_patterns("*.py"))
    settings = {
        "TEXT_PRESET": tmp_path / "hugging_face",
        "RECORDINGS": tmp_path / "recordings",
        "SEQUENCE_LENGTH": 64,
        "STEPS": 3,
    }
    out = tmp_path / "out"
    names = run_tutorial(
        "03_train_from_text_checkpoint", out, monkeypatch, shared_tiny_preset(), **settings
    )
    losses = names["history"].history["loss"]
    assert np.isfinite(losses).all()
    # The learning rate falls over the whole run: at the end it is a twentieth, before it more.
    assert int(names["model"].optimizer.iterations) == 3
    assert float(names["model"].optimizer.learning_rate) == pytest.approx(0.05 * 5e-4, rel=1e-3)
    assert float(names["rate"](3 * names["ACCUMULATED"] // 2)) > 0.5 * 5e-4
    loaded = SpeechSSM.from_preset(str(out / "speech_lm"))
    assert loaded.backbone.vocabulary_size == names["store"].vocabulary_size
    assert not loaded.backbone.use_rotary


@pytest.mark.slow
@pytest.mark.skipif(DEFAULT_PRESET not in preset_names(), reason="the demo preset is not here")
@on_jax
@pytest.mark.parametrize("name", ["01", "02"])
def test_tutorials_run_on_the_demo_preset(name, tmp_path, monkeypatch):
    if name == "01":
        check_continuation(tmp_path, monkeypatch, DEFAULT_PRESET)
    else:
        check_finetuning(tmp_path, monkeypatch, DEFAULT_PRESET, steps=20)


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
    center = 700 * (10 ** (top * (loudest + 1) / 81 / 2595) - 1)  # of 80 bands up to 8 kHz
    assert abs(center - 1000) < 60


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_prompt_is_what_its_script_makes(tmp_path):
    script = shutil.copy(EXAMPLES / "make_prompt.py", tmp_path)
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    made, kept = (read_audio(folder / "prompt.flac") for folder in (tmp_path, EXAMPLES))
    assert abs(len(made) - len(kept)) < 1600 and 8 < len(kept) / 16000 < 13
