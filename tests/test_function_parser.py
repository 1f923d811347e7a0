"""Options made from a signature: kinds, defaults, help texts, errors."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from keras_speechssm.function_parser import argument_docs, call_from_arguments, make_parser


def sample(
    folders: Sequence[str | Path],
    *,
    steps: int = 3,
    rate: float | None = None,
    names: tuple[str, ...] = ("a",),
    config: dict | None = None,
    shuffle: bool = True,
    progress: Callable[[str], None] | None = print,
):
    """Does something with folders.

    Args:
        folders: where to look,
            and where not.
        steps, rate: how much: 100 % of it.

    Returns:
        Its arguments.
    """
    return folders, steps, rate, names, config, shuffle, progress


def call(*argv):
    return call_from_arguments(sample, list(argv), "sample")


def test_defaults_are_the_function_s():
    assert call("--folders", "x") == (["x"], 3, None, ("a",), None, True, print)


def test_every_kind_of_option(tmp_path):
    (tmp_path / "config.json").write_text('{"layers": 2}')
    options = ["--folders", "x", "y", "--steps", "5", "--rate", "0.5", "--names", "b", "c"]
    options += ["--config", str(tmp_path / "config.json"), "--no-shuffle"]
    expected = (["x", "y"], 5, 0.5, ["b", "c"], {"layers": 2}, False, print)
    assert call(*options) == expected


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "--folders"),
        (["--folders", "x", "--steps", "many"], "invalid int value: 'many'"),
        (["--folders", "x", "--config", "sample.json"], "sample.json"),
        (["--folders", "x", "--progress", "y"], "unrecognized"),
    ],
)
def test_errors_are_one_line(argv, message):
    with pytest.raises((ValueError, OSError), match=message) as error:
        call(*argv)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_config_must_be_a_json_object(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="JSON"):
        call("--folders", "x", "--config", str(tmp_path / "config.json"))


def test_help_comes_from_the_docstring():
    assert argument_docs(sample) == {
        "folders": "where to look, and where not.",
        "steps": "how much: 100 % of it.",
        "rate": "how much: 100 % of it.",
    }
    text = make_parser(sample, "sample").format_help()
    assert "Does something with folders." in text and "100 % of it" in text
    assert "how much: 100 % of it (default: 3)" in " ".join(text.split())
