"""What the documents tell people to type exists, and what they promise of sizes holds."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from keras_speechssm import cli
from keras_speechssm.presets import preset_names, resolve_preset

pytestmark = pytest.mark.any_backend

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "presets/speech_ssm_demo_en/README.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("docs/**/*.md"))),
    *(path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("examples/[0-9]*.py"))),
]
GROUPS = {group for group, _ in cli.WRAPPED}


def commands(text):
    """Those of `speechssm` in blocks and in code spans: verb, second verb or "", options."""
    text = text.replace("\\\n", " ")
    blocks = re.compile(r"^```bash\n(.*?)^```|^((?: {4}speechssm .*\n)+)", re.DOTALL | re.MULTILINE)
    lines = [
        line.split(" #")[0]
        for block in blocks.findall(text)
        for line in "".join(block).splitlines()
    ]
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.M))
    for line in [*lines, *(" ".join(span.split()) for span in spans)]:
        # Options of other programs are quoted.
        for command in re.split(r"[;&|]", re.sub(r"""(["']).*?\1""", "", line)):
            if found := re.search(r"(?:^|\s)speechssm ([a-z]+)(?: ([a-z][a-z-]*))?", command):
                verb, second = found.groups("")
                options = re.findall(r"(?<=\s)--?[a-z][a-z0-9-]*", command[found.start() :])
                yield verb, second if verb in GROUPS else "", options


def test_commands_are_found():
    text = "`speechssm\ntrain codec --seed 1`\n"
    text += "```bash\nA=1 speechssm continue x \\\n  -o y  # --no\n```\n"
    assert list(commands(text)) == [("continue", "", ["-o"]), ("train", "codec", ["--seed"])]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_and_their_options_exist(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # long names of options are not cut
    for verb, second, options in commands((ROOT / name).read_text("utf-8")):
        with pytest.raises(SystemExit) as stop:
            cli.main([*filter(None, (verb, second)), "--help"])
        assert stop.value.code == 0, f"speechssm {verb} {second}: {capsys.readouterr().err}"
        known = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", capsys.readouterr().out))
        assert set(options) <= known, f"speechssm {verb} {second}: {set(options) - known}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_imports_in_documents_exist(name):
    text = (ROOT / name).read_text("utf-8")
    blocks = [text] if name.endswith(".py") else re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for node in (node for block in blocks for node in ast.walk(ast.parse(block))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("keras_speechssm"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{name}: {node.module}.{alias.name}"


def test_the_tests_that_hold_a_fault_exist():
    text = (ROOT / "docs" / "results" / "robustness.md").read_text("utf-8")
    files = {path.relative_to(ROOT).as_posix(): path for path in ROOT.glob("tests/**/*.py")}
    found = {n for p in files.values() for n in re.findall(r"def (test_\w+)", p.read_text("utf-8"))}
    names = re.findall(r"`(test_\w+)`", text)
    assert len(names) > 30 and set(names) <= found
    assert set(re.findall(r"`(tests/[\w/]+\.py)`", text)) <= set(files)


def test_every_extra_is_documented():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = (ROOT / "docs" / "install.md").read_text("utf-8")
    for extra in project["optional-dependencies"]:
        assert f"`{extra}`" in text or f"[{extra}]" in text, extra


def test_the_tables_of_presets_are_generated():
    command = [sys.executable, ROOT / "docs" / "generate.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_line_reference_has_every_command_and_says_what_options_mean():
    text = (ROOT / "docs" / "reference" / "command_line.md").read_text("utf-8")
    known = {" ".join(words) for words in cli.WRAPPED}
    known |= {"continue", "serve", "resynthesize", "tokenize", "finetune", "convert", "assemble"}
    missing = known - set(re.findall(r"^## speechssm (.+)$", text, re.MULTILINE))
    assert not missing, f"{missing}: run python docs/generate.py"
    assert not re.findall(r"^\| `.*` \| (?:\\\[default.*)?\|$", text, re.MULTILINE)


def test_documents_are_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 110
    for card in ROOT.glob("presets/*/README.md"):
        assert len(card.read_text("utf-8").split()) <= 900, card
        assert card.read_text("utf-8").startswith("---\nlicense: "), card
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert len(changes.split("## 0.1.0")[1].splitlines()) <= 25


def test_samples_and_weights_stay_small():
    samples = sum(path.stat().st_size for path in (ROOT / "examples" / "samples").iterdir())
    weights = sum(
        path.stat().st_size
        for name in preset_names()
        for path in Path(resolve_preset(name)).rglob("*.h5")
    )
    assert 0 < samples <= 3e6 and 0 < weights <= 60e6
