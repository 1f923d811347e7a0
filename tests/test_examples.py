"""The tutorials run, their notebooks are the generated ones, and the scripts do their work."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import keras
import matplotlib
import numpy as np
import pytest
import soundfile
from tiny_models import shared_tiny_preset

from keras_speechssm.audio.io import read_audio, write_audio
from keras_speechssm.data.corpora import example_prompt
from keras_speechssm.models import GriffinBackbone, SpeechSSM
from keras_speechssm.models.convert import convert_checkpoint
from keras_speechssm.presets import DEFAULT_PRESET, preset_names
from keras_speechssm.training.callbacks import read_metrics

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
        "00_first_lines",
        "01_continue_speech",
        "02_finetune",
        "03_train_from_text_checkpoint",
        "04_train_voices",
        "05_evaluate",
    ]


def read_notebook(path: Path) -> dict:
    return json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_notebook_is_generated_from_the_tutorial(path):
    expected = json.loads(
        load("make_notebook").make_notebook(path.read_text("utf-8"), f"{path.stem}.ipynb")
    )
    found = read_notebook(path)
    for cell in found["cells"]:
        cell |= {"outputs": []} if cell["cell_type"] == "code" else {}
    assert found == expected, "run python examples/make_notebook.py"
    assert path.with_suffix(".ipynb").stat().st_size < 1_100_000


def code_of(path: Path) -> list[str]:
    cells = load("make_notebook").read_cells(path.read_text("utf-8"))
    return [text for kind, text in cells if kind == "code"]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_says_what_it_needs_and_installs_the_package(path):
    first = "".join(read_notebook(path)["cells"][0]["source"])
    assert all(f"**{name}:**" in first for name in ("Author", "Needs", "Time"))
    assert "open-in-kaggle.svg" in first and "colab-badge.svg" in first
    install, settings = code_of(path)[:2]
    # Keras reads the backend once: it must be chosen before the first import.
    assert install.startswith('import os\n\nos.environ.setdefault("KERAS_BACKEND"')
    assert "keras_speechssm" not in re.sub(r'"keras_speechssm[^"]*"', "", install)
    same = re.sub(r"'keras-speechssm'\}\S*\"", "", install)
    assert same == re.sub(r"'keras-speechssm'\}\S*\"", "", code_of(TUTORIALS[0])[0])
    assert "OUTPUT = Path(" in settings


def outputs_of(path: Path) -> list[str]:
    """What a notebook shows: text, Markdown and HTML."""
    cells = read_notebook(path)["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    texts = [output["text"] for output in outputs if "text" in output]
    texts += [text for output in outputs for text in output.get("data", {}).values()]
    return ["".join(text) for text in texts]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_notebook_shows_its_outputs_and_links_to_no_other_file(path):
    outputs = outputs_of(path)
    assert outputs
    assert not [text for text in outputs if re.search(r"!\[.*\]\((?!data:)", text)]


def test_the_outputs_of_the_first_tutorial_are_those_of_today():
    guide = (EXAMPLES.parent / "docs" / "guides" / "continue.md").read_text("utf-8")
    first = re.search(r"Audio is written block by block: (\d+), ", guide)[1]
    assert f"A block of {first} s.\n" in outputs_of(EXAMPLES / "01_continue_speech.py")


def test_the_tutorial_on_finetuning_is_short():
    code = "\n".join(code_of(EXAMPLES / "02_finetune.py")).splitlines()
    assert sum(bool(line.strip()) for line in code) <= 60


def test_badges_lead_to_the_repository():
    make_badges = load("make_notebook").make_badges
    badges = make_badges("01.ipynb", "https://github.com/a/b")
    assert "kernels/welcome?src=https://github.com/a/b/blob/main/examples/01.ipynb)" in badges
    assert "colab.research.google.com/github/a/b/blob/main/examples/01.ipynb)" in badges
    assert "upload" not in badges
    badges = make_badges("01.ipynb", None)
    assert "(https://www.kaggle.com/code/new)" in badges and "upload this notebook" in badges


def test_the_first_cell_installs_the_newest_wheel(tmp_path, monkeypatch):
    for folder, version in (("a", "0.9.0"), ("b", "0.10.0"), ("c", "0.10.0rc1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"keras_speechssm-{version}-py3-none-any.whl").touch()
    commands = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.chdir(tmp_path / "a")  # the current folder comes second
    code = code_of(TUTORIALS[0])[0].replace("/kaggle/input", str(tmp_path))
    exec(code, {})
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    exec(code.replace(str(tmp_path), "/nonexistent"), {})
    newest, index = (command[-1] for command in commands)
    assert newest == str(tmp_path / "b/keras_speechssm-0.10.0-py3-none-any.whl")
    assert index == "keras-speechssm"


def test_a_notebook_keeps_the_outputs_of_unchanged_cells(tmp_path):
    module, source = (
        load("make_notebook"),
        '"""\nTitle: A\n"""\n\nprint(1)\n\n"""\nText.\n"""\n\nx = 2\n',
    )
    path = tmp_path / "a.ipynb"
    path.write_text(module.make_notebook(source))
    cells = json.loads(path.read_text())["cells"]
    output = [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}]
    path.write_text(module.make_notebook(source, outputs={cells[1]["id"]: output}))
    assert module.read_outputs(path) == {cells[1]["id"]: output}
    for changed, kept in ((source.replace("x = 2", "x = 3"), 1), (source.replace("(1)", "(2)"), 0)):
        text = module.make_notebook(changed, outputs=module.read_outputs(path))
        assert sum(bool(cell.get("outputs")) for cell in json.loads(text)["cells"]) == kept


def run_tutorial(name, tmp_path, monkeypatch, **settings):
    """Runs a tutorial with other settings in an empty folder; returns the names that it leaves."""
    matplotlib.use("Agg")
    display = types.SimpleNamespace(Audio=lambda path: Path(path).stat(), Markdown=str)
    monkeypatch.setitem(sys.modules, "IPython.display", display)  # IPython is not needed here
    source = (EXAMPLES / f"{name}.py").read_text("utf-8")
    for key, value in settings.items():
        source, count = re.subn(rf"(?m)^{key} = .*$", lambda _: f"{key} = {value}", source)  # noqa: B023
        assert count == 1, key
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "tutorial"}
    exec(compile(source, f"{name}.py", "exec"), names)
    return names


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Three recordings of 5 s."""
    folder = tmp_path_factory.mktemp("recordings")
    prompt = read_audio(example_prompt(), duration=7.0)
    for number in range(3):
        write_audio(folder / f"{number}.flac", prompt[16000 * number :][: 5 * 16000])
    return f"sorted(Path({str(folder)!r}).iterdir())"


def check_continuation(tmp_path, monkeypatch, **settings):
    names = run_tutorial("01_continue_speech", tmp_path, monkeypatch, SECONDS=2, **settings)
    assert names["continuation"].shape == (32000,)
    frames = len(read_audio(example_prompt()))
    assert soundfile.info(tmp_path / "continued" / "continuation.ogg").frames == frames + 32000
    assert soundfile.info(tmp_path / "continued" / "resynthesis.ogg").frames == frames
    assert (tmp_path / "continued" / "continuation.png").stat().st_size > 10_000


def check_finetuning(tmp_path, monkeypatch, epochs, **settings):
    settings = {"SECONDS": 2, "EPOCHS": epochs, "BATCH_SIZE": 1, **settings}
    names = run_tutorial("02_finetune", tmp_path, monkeypatch, **settings)
    assert names["loss_after"] < names["loss_before"]
    assert soundfile.info(tmp_path / "finetuned" / "after.ogg").frames == 7 * 16000
    tokens = np.array([[1, 2, 3]])
    loaded = SpeechSSM.from_preset(str(tmp_path / "finetuned" / "mine"))
    outputs = [keras.ops.convert_to_numpy(model(tokens)) for model in (loaded, names["model"])]
    np.testing.assert_allclose(*outputs, atol=2e-2)  # stored as float16


@pytest.mark.slow
@on_jax
def test_tutorial_00_runs_on_tiny_models(tmp_path, monkeypatch):
    tiny = repr(shared_tiny_preset())
    names = run_tutorial("00_first_lines", tmp_path, monkeypatch, PRESET=tiny)
    assert np.isfinite(names["history"].history["val_loss"]).all()
    assert names["waveform"].shape == (32000,)
    assert soundfile.info(tmp_path / "first_lines" / "speech.ogg").frames == 32000


def test_tutorial_01_runs_on_tiny_models(tmp_path, monkeypatch):
    check_continuation(tmp_path, monkeypatch, PRESET=repr(shared_tiny_preset()))


@on_jax
def test_tutorial_02_runs_on_tiny_models(tmp_path, monkeypatch, recordings):
    tiny = {"PRESET": repr(shared_tiny_preset()), "RECORDINGS": recordings}
    check_finetuning(tmp_path, monkeypatch, epochs=10, **tiny)


@on_jax
def test_tutorial_03_runs_on_a_tiny_checkpoint_of_the_published_form(
    tmp_path, monkeypatch, recordings
):
    pytest.importorskip("grain")
    pytest.importorskip("array_record")
    text = GriffinBackbone(
        vocabulary_size=32, num_layers=3, hidden_dim=8, intermediate_dim=12, num_heads=2
    )
    text.save_to_preset(str(tmp_path / "text"))
    convert_checkpoint(tmp_path / "text", tmp_path / "hugging_face", to="hugging-face")
    settings = {
        "TEXT_PRESET": repr(str(tmp_path / "hugging_face")),
        "TOKENIZER": repr(shared_tiny_preset()),
        "RECORDINGS": recordings,
        "SEQUENCE_LENGTH": 64,
        "ROWS_PER_STEP": 2,
        "TOTAL_STEPS": 4,
        "WARMUP_STEPS": 1,
        "STEPS_PER_EPOCH": 2,
    }
    names = run_tutorial("03_train_from_text_checkpoint", tmp_path, monkeypatch, **settings)
    losses = [line["loss"] for line in read_metrics(tmp_path / "from_text/run/metrics.jsonl")]
    assert len(losses) == 2 and np.isfinite(losses).all()
    assert names["config"].learning_rate == 5e-4 and names["config"].rematerialize
    loaded = SpeechSSM.from_preset(str(tmp_path / "from_text" / "run" / "preset"))
    assert loaded.backbone.vocabulary_size == names["store"].vocabulary_size
    assert not loaded.backbone.use_rotary


@pytest.mark.slow
@on_jax
def test_tutorial_04_runs_on_tiny_models(tmp_path, monkeypatch, recordings):
    settings = {"CODEC_STEPS": 20, "SOUNDSTORM_STEPS": 20, "BATCH_SIZE": 1, "CROP_SECONDS": 0.4}
    settings |= {"PRESET": repr(shared_tiny_preset()), "RECORDINGS": recordings}
    names = run_tutorial("04_train_voices", tmp_path, monkeypatch, **settings)
    assert np.isfinite([*names["codec_losses"], *names["losses"]]).all()
    assert soundfile.info(tmp_path / "voices" / "after.ogg").frames == 5 * 16000


@pytest.mark.slow
@on_jax
def test_tutorial_05_runs_on_tiny_models(tmp_path, monkeypatch, recordings):
    for package in ("moonshine_voice", "resemblyzer", "pocketsphinx", "sentence_transformers"):
        pytest.importorskip(package)
    folder = recordings.replace("sorted(", "[").replace(".iterdir())", "]")
    settings = {"PRESET": repr(shared_tiny_preset()), "BENCHMARKS": folder, "SUBSET": 2}
    settings |= {"PROMPT_SECONDS": 1.0, "UNTIL_SECONDS": 4.0}
    names = run_tutorial("05_evaluate", tmp_path, monkeypatch, **settings)
    assert {"whole", "slide"} <= set(names["report"]["systems"])
    assert (tmp_path / "evaluated" / "report" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.skipif(DEFAULT_PRESET not in preset_names(), reason="the demo preset is not here")
@on_jax
@pytest.mark.parametrize("name", ["01", "02"])
def test_tutorials_run_on_the_demo_preset(name, tmp_path, monkeypatch, recordings):
    if name == "01":
        check_continuation(tmp_path, monkeypatch)
    else:
        check_finetuning(tmp_path, monkeypatch, epochs=10, RECORDINGS=recordings)


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
