"""Make the notebook of each tutorial: `01_continue_speech.py` -> `.ipynb`.

    python examples/make_notebook.py

The tutorials have the format of keras.io: Python files whose text is in bare triple-quoted
blocks. The first block contains title, author, dates and description.
"""

import ast
import hashlib
import json
from pathlib import Path


def read_cells(source: str) -> list[tuple[str, str]]:
    """Return the cells of a tutorial in order, as ("markdown" or "code", text)."""
    lines = source.splitlines()
    cells, done = [], 0

    def add_code(end: int) -> None:
        code = "\n".join(lines[done:end]).strip("\n")
        if code:
            cells.append(("code", code))

    for node in ast.parse(source).body:
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                add_code(node.lineno - 1)
                cells.append(("markdown", text.strip("\n")))
                done = node.end_lineno
    add_code(len(lines))
    return cells


def make_header(text: str) -> str:
    """Return the first cell: the fields of the header as a title and a list."""
    fields = dict(line.split(": ", 1) for line in text.splitlines())
    rest = [f"**{name}:** {value}<br>" for name, value in fields.items() if name != "Title"]
    return "\n".join([f"# {fields['Title']}", "", *rest])


def make_notebook(source: str) -> str:
    """Return the text of the `.ipynb` file of a tutorial."""
    (_, header), *cells = read_cells(source)
    cells = [("markdown", make_header(header)), *cells]
    notebook = {
        "cells": [_make_cell(number, *cell) for number, cell in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _make_cell(number: int, kind: str, text: str) -> dict:
    cell = {
        "cell_type": kind,
        "id": hashlib.sha256(f"{number} {text}".encode()).hexdigest()[:8],
        "metadata": {},
        "source": text.splitlines(keepends=True),
    }
    return {**cell, "execution_count": None, "outputs": []} if kind == "code" else cell


def main() -> None:
    """Make the notebooks of all tutorials."""
    for path in sorted(Path(__file__).parent.glob("[0-9]*.py")):
        notebook = make_notebook(path.read_text(encoding="utf-8"))
        path.with_suffix(".ipynb").write_text(notebook, encoding="utf-8")
        print(path.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
