"""Tables as text: CSV files of others, and Markdown."""

import csv
from collections.abc import Sequence
from pathlib import Path


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a table as Markdown, with a line break at its end."""
    first, *others = (
        "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        for cells in (header, *rows)
    )
    return "\n".join([first, "|" + "---|" * len(header), *others]) + "\n"


def read_table(path: str | Path) -> tuple[set[str], list[dict[str, str]]]:
    """Read a CSV file as ZeroSpeech, Excel and people write it.

    Cells are separated by commas, or by semicolons, as Excel does in many countries. A byte order
    mark and spaces around names and values are dropped; names are converted to lower case.

    Args:
        path: The file.

    Returns:
        The names of the columns, and the rows.

    Raises:
        ValueError: The file is missing, is not text, or is not a table, or a line has more cells
            than the first.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"The file {path} does not exist.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; save it as CSV in UTF-8.") from None
    header = text.split("\n", 1)[0]
    separator = ";" if header.count(";") > header.count(",") else ","
    try:
        lines = list(csv.reader(text.splitlines(), delimiter=separator, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"{path} is not a table ({error}).") from None
    names = [name.strip().lower() for name in lines[0]] if lines else []
    for number, line in enumerate(lines, start=1):
        if any(cell.strip() for cell in line[len(names) :]):
            raise ValueError(
                f"{path}, line {number}: more cells than columns: {separator.join(line)}"
            )
    rows = [
        dict(zip(names, [cell.strip() for cell in line] + [""] * len(names), strict=False))
        for line in lines[1:]
        if any(cell.strip() for cell in line)
    ]
    return set(names), rows
