"""Make the notebook of each tutorial: `01_continue_speech.py` -> `.ipynb`.

    python examples/make_notebook.py                 # keeps the outputs of unchanged cells
    python examples/make_notebook.py --execute 01    # runs a tutorial and keeps its outputs

The tutorials have the format of keras.io: Python files whose text is in bare triple-quoted
blocks. The first block contains title, author, dates and description. `--execute` needs the
packages `nbclient` and `ipykernel`, and runs in an empty folder.
"""

import argparse
import ast
import hashlib
import json
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_OUTPUT_BYTES = 1_000_000
"""Outputs of one notebook are not kept above this size."""


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
    fields = dict(line.split(": ", 1) for line in text.replace("\n    ", " ").splitlines())
    rest = [f"**{name}:** {value}<br>" for name, value in fields.items() if name != "Title"]
    return "\n".join([f"# {fields['Title']}", "", *rest])


def make_badges(name: str, repository: str | None) -> str:
    """Return the badges of Kaggle and Colab.

    Args:
        name: Name of the notebook.
        repository: Address of the repository on GitHub. If `None`, the badges lead to the pages
            where the notebook can be uploaded.
    """
    kaggle, colab = "https://www.kaggle.com/code/new", "https://colab.research.google.com/"
    if repository is not None:
        file = f"{repository.rstrip('/')}/blob/main/examples/{name}"
        kaggle = f"https://www.kaggle.com/kernels/welcome?src={file}"
        colab += file.removeprefix("https://").replace("github.com", "github", 1)
    badges = (
        f"[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]({kaggle}) "
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})"
    )
    if repository is None:
        return f"{badges}\n\nImport or upload this notebook on the page that opens."
    return badges


def make_notebook(source: str, name: str = "notebook.ipynb", outputs: dict | None = None) -> str:
    """Return the text of the `.ipynb` file of a tutorial.

    Args:
        source: The tutorial.
        name: File name of the notebook.
        outputs: Id of a cell -> its outputs. Defaults to `None`: no outputs.
    """
    (_, header), *cells = read_cells(source)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    badges = make_badges(name, project.get("urls", {}).get("Repository"))
    cells = [("markdown", f"{badges}\n\n{make_header(header)}"), *cells]
    notebook = {
        "cells": [_make_cell(number, *cell) for number, cell in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = (outputs or {}).get(cell["id"], [])
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def read_outputs(path: Path) -> dict[str, list]:
    """Return the outputs of a notebook by the ids of its cells."""
    if not path.is_file():
        return {}
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return {cell["id"]: cell["outputs"] for cell in cells if cell.get("outputs")}


def execute(notebook: str) -> dict[str, list]:
    """Run a notebook in an empty folder and return its outputs by the ids of its cells.

    Messages to stderr are left out.

    Raises:
        ValueError: If the outputs are larger than `MAX_OUTPUT_BYTES`.
    """
    import nbclient
    import nbformat

    content = nbformat.reads(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(
            content, timeout=None, resources={"metadata": {"path": folder}}
        ).execute()
    outputs: dict[str, list] = {}
    for cell in content.cells:
        for output in map(dict, cell.get("outputs", [])):
            kept = outputs.setdefault(cell.id, [])
            if output["output_type"] == "stream":
                if output["name"] == "stderr":
                    continue
                if kept and kept[-1]["output_type"] == "stream":
                    kept[-1]["text"] += output["text"]
                    continue
            output.pop("transient", None)
            if "execution_count" in output:
                output["execution_count"] = None
            kept.append(output)
    size = len(json.dumps(outputs))
    if size > MAX_OUTPUT_BYTES:
        raise ValueError(f"The outputs have {size} bytes; expected at most {MAX_OUTPUT_BYTES}.")
    return outputs


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--execute", nargs="*", default=[], help="numbers of tutorials to run")
    executed = parser.parse_args().execute
    for path in sorted(Path(__file__).parent.glob("[0-9]*.py")):
        notebook, source = path.with_suffix(".ipynb"), path.read_text(encoding="utf-8")
        outputs = read_outputs(notebook)
        if path.name[:2] in executed:
            outputs = execute(make_notebook(source, notebook.name))
        content = make_notebook(source, notebook.name, outputs)
        notebook.write_text(content, encoding="utf-8")
        print(notebook)


if __name__ == "__main__":
    main()
