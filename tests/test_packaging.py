"""What a user of the wheel and a reader of the repository finds."""

import re
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import keras_speechssm
from keras_speechssm import models
from keras_speechssm.preset_registry import PARTS, preset_names, resolve_preset

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_version_is_written_once_more_and_equal():
    assert keras_speechssm.__version__ == PROJECT["project"]["version"]
    assert f"## {keras_speechssm.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_public_models_know_their_part():
    for name in models.__all__:
        part = getattr(models, name).preset_part
        assert part in PARTS or (name == "GriffinBackbone" and part is not None)


def test_extras():
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(extras) == {"tensorflow", "torch", "cuda", "tpu", "beam", "eval", "test"}
    for requirement in PROJECT["project"]["dependencies"] + sum(extras.values(), []):
        assert ">=" in requirement, f"{requirement} has no lower bound"


def test_packages_are_all_listed():
    folders = {path.parent for path in (ROOT / "keras_speechssm").rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    assert listed == names | {"keras_speechssm.presets"}


def test_readme_s_links_and_files_exist():
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_readme_s_tree_is_true():
    tree = README.split("```\npresets/")[1].split("```")[0]
    names = re.findall(r"^  (\w[\w.]*/?)  ", tree, re.MULTILINE)
    assert len(names) > 10
    for name in names:
        assert (ROOT / "keras_speechssm" / name).exists(), name


def test_readme_s_second_command_is_the_one_of_ci():
    commands = re.findall(r"^python3 -m venv .*run_on_backends.*$", README, re.MULTILINE)
    assert len(commands) == 1
    script = ROOT / ".ci" / "run"
    assert 'grep -E "^python3 -m venv .*run_on_backends" README.md' in script.read_text("utf-8")
    assert script.stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize(
    "name, part, cls",
    [
        ("soundstorm_600m", "soundstorm", "SoundStorm"),
        ("soundstream_16khz", "soundstream", "SoundStream"),
        ("semantic_tokenizer_600m", "semantic_tokenizer", "SemanticTokenizer"),
    ],
)
def test_paper_sizes_load_without_weights(name, part, cls):
    shrink = {
        "soundstorm": {"num_layers": 1, "semantic_vocabulary_size": 64, "hidden_dim": 32},
        "soundstream": {"channels": (2, 2, 2, 2, 2)},
        "semantic_tokenizer": {"num_layers": 1, "num_decoder_layers": 1, "hidden_dim": 16},
    }[part]
    assert name in preset_names()
    model = getattr(models, cls).from_preset(name, load_weights=False, **shrink)
    assert model.preset_part == part
    with pytest.raises(ValueError, match="load_weights=False"):
        getattr(models, cls).from_preset(name)


@pytest.mark.slow
def test_wheel_holds_presets_and_command(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "speechssm_command.py" in names
    for preset in preset_names():
        folder = Path(resolve_preset(preset))
        for path in folder.rglob("*"):
            if path.is_file():
                inner = path.relative_to(folder).as_posix()
                assert f"keras_speechssm/presets/{preset}/{inner}" in names
    assert not [name for name in names if name.startswith(("tests/", "examples/"))]
