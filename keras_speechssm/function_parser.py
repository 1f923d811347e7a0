"""Command-line options made from a function's signature and docstring.

A function that the command line wraps is described once, by itself: `total_steps: int =
1000` becomes `--total-steps`, its line under `Args:` the help text.
"""

import argparse
import dataclasses
import importlib
import inspect
import json
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path


def call_from_arguments(function: str | Callable, argv: list[str], prog: str):
    """Calls a function with the arguments that a command line names, and returns its result.

    Args:
        function: the function, or `"module:name"`, imported only now.
        argv: the options. Every parameter is one: numbers, strings and paths as they
            are, sequences as several words, `bool` as `--name / --no-name`, a `dict`
            as the path of a JSON file. Parameters of other kinds keep their defaults.
        prog: name of the command in its help.

    Raises:
        ValueError: an option is unknown, missing or of the wrong kind.
    """
    if isinstance(function, str):
        module, name = function.split(":")
        function = getattr(importlib.import_module(module), name)
    values = vars(make_parser(function, prog).parse_args(argv))
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if dataclasses.is_dataclass(parameter.annotation):
            fields = [field.name for field in dataclasses.fields(parameter.annotation)]
            values[name] = parameter.annotation(**{field: values.pop(field) for field in fields})
    return function(**values)


def make_parser(function: Callable, prog: str) -> argparse.ArgumentParser:
    """The parser of a function's options; see `call_from_arguments`."""
    summary = inspect.getdoc(function).split("\n\n")[0]
    parser = OneLineParser(prog=prog, description=summary)
    helps = argument_docs(function)
    parameters = dict(inspect.signature(function, eval_str=True).parameters)
    for group in [p.annotation for p in parameters.values()]:
        # The fields of a dataclass are options like the others.
        if dataclasses.is_dataclass(group):
            parameters |= inspect.signature(group, eval_str=True).parameters
            helps |= argument_docs(group)
    for name, parameter in parameters.items():
        options = _options(parameter.annotation)
        if options is None:
            continue
        required = parameter.default is parameter.empty
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            required=required,
            default=None if required else parameter.default,
            help=_with_default(helps.get(name, ""), parameter.default).replace("%", "%%"),
            **options,
        )
    return parser


def _with_default(text: str, default) -> str:
    """A help text that tells the default, where there is one that it does not tell."""
    if default in (None, inspect.Parameter.empty, ()) or "Defaults to" in text:
        return text
    shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else default
    return f"{text.removesuffix('.')} (default: {shown})".strip()


def argument_docs(function: Callable) -> dict[str, str]:
    """The texts under `Args:` of a docstring, by parameter (`a, b: text` counts for both)."""
    doc = inspect.getdoc(function)
    section = re.search(r"^(?:Args|Attributes):\n(.*?)(?=^\S|\Z)", doc, re.DOTALL | re.MULTILINE)
    docs = {}
    for entry in re.split(r"\n(?= {4}\S)", section.group(1).rstrip() if section else ""):
        names, _, text = entry.strip().partition(":")
        for name in names.split(","):
            docs[name.strip()] = " ".join(text.split())
    return docs


class OneLineParser(argparse.ArgumentParser):
    """Reports a wrong option in one line, as every other error."""

    def error(self, message: str):
        raise ValueError(f"{message} (see {self.prog} --help)")


def _options(annotation) -> dict | None:
    """Arguments of `add_argument` for a type, or `None` where text cannot give one."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        choices = [_options(kind) for kind in inner if kind is not type(None)]
        # `str | Path` and the like: the first kind that text can give.
        return next((choice for choice in choices if choice is not None), None)
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if annotation in (int, float, str, Path):
        return {"type": annotation}
    if annotation is dict or origin is dict:
        return {"type": _read_json, "metavar": "FILE.json"}
    if origin is not None and inner and issubclass(origin, typing.Iterable):
        element = _options(inner[0])
        return None if element is None else {**element, "nargs": "+"}
    return None


def _read_json(path: str) -> dict:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{path!r} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise argparse.ArgumentTypeError(f"{path!r} must hold a JSON object")
    return content
