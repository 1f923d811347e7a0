"""MkDocs hooks: pages made from files outside `docs/`, and references by public name.

Nothing of the package is imported: the site builds without Keras and JAX.
"""

import ast
import importlib.util
import json
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "keras_speechssm"


def on_files(files, config):
    """Adds the tutorials, the model cards and the changelog."""
    pages = {"changelog.md": (ROOT / "CHANGELOG.md").read_text("utf-8")}
    for path in sorted((ROOT / "examples").glob("[0-9]*.py")):
        pages[f"tutorials/{path.stem}.md"] = _tutorial(path)
    for path in sorted((ROOT / "presets").glob("*/README.md")):
        pages[f"presets/{path.parent.name}.md"] = _card(path)
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Resolves `::: keras_speechssm.models.SpeechSSM` to the module that defines the class."""
    return re.sub(r"^::: ([\w.]+)$", _resolve, markdown, flags=re.MULTILINE)


def _tutorial(path: Path) -> str:
    spec = importlib.util.spec_from_file_location("make_notebook", path.parent / "make_notebook.py")
    notebook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(notebook)
    (_, header), *_ = notebook.read_cells(path.read_text("utf-8"))
    path = path.with_suffix(".ipynb")
    texts = [notebook.make_header(header), f"The notebook is `examples/{path.name}`."]
    for cell in json.loads(path.read_text("utf-8"))["cells"][1:]:
        text = "".join(cell["source"])
        texts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
        texts += map(_output, cell.get("outputs", []))
    return "\n\n".join(texts) + "\n"


def _output(output: dict) -> str:
    """Returns an output of a notebook's cell as Markdown or HTML."""
    data = {kind: "".join(text) for kind, text in output.get("data", {}).items()}
    if "text/html" in data:  # an audio player, or a summary
        lines = [line for line in data["text/html"].splitlines() if line.strip()]
        return "\n".join(["<div>", *lines, "</div>"])
    if "image/png" in data:
        picture = "".join(data["image/png"].split())
        return f'<img alt="Output of the cell" src="data:image/png;base64,{picture}">'
    if "text/markdown" in data:
        return re.sub("^#", "###", data["text/markdown"], flags=re.MULTILINE)
    return f"```text\n{''.join(output.get('text', [])) or data['text/plain']}\n```"


def _card(path: Path) -> str:
    """Returns a model card without its YAML header, with links that hold on the site."""
    text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text("utf-8"), flags=re.DOTALL)
    return text.replace("](../../docs/", "](../")


def _resolve(match: re.Match) -> str:
    public = match.group(1)
    name = public.rpartition(".")[2]
    found = _definitions().get(name, [])
    area = public.split(".")[1]
    best = [path for path in found if path.startswith(f"{PACKAGE}.{area}")] or found
    if len(best) != 1:
        raise PluginError(f"{public}: defined in {found or 'no module'}; expected one module.")
    shown = public if _exports(public) else best[0]
    return (
        f"::: {best[0]}\n    options:\n      heading: {shown}\n      toc_label: {name}\n"
        f"      show_root_full_path: false"
    )


def _exports(public: str) -> bool:
    """Returns whether `public` can be imported under this name, judged by the source."""
    folder, name = public.replace(".", "/").rsplit("/", 1)
    source = ROOT / folder / "__init__.py"
    source = source if source.is_file() else ROOT / f"{folder}.py"
    return source.is_file() and re.search(rf"\b{name}\b", source.read_text("utf-8")) is not None


def _definitions(cache: dict = {}) -> dict[str, list[str]]:  # noqa: B006
    """Maps the name of each public class and function to the dotted paths that define it."""
    if not cache:
        for path in sorted((ROOT / PACKAGE).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.parse(path.read_text("utf-8")).body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_":
                    paths = cache.setdefault(node.name, [])
                    paths.append(f"{module.removesuffix('.__init__')}.{node.name}")
    return cache
