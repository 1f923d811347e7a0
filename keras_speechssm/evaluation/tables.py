"""Tables that others have written: CSV as ZeroSpeech, Excel and people save it."""

import csv
from pathlib import Path


def read_table(path: str | Path) -> tuple[set[str], list[dict[str, str]]]:
    """The columns of a CSV file, and its rows.

    Commas or semicolons part the cells, as Excel writes the latter in many countries; a byte
    order mark and spaces around names and values are dropped, names are in lower case.

    Raises:
        ValueError: the file is missing, no text, or no table, or a line has more cells than
            the first.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is no existing file.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8; save it as CSV in UTF-8.") from None
    header = text.split("\n", 1)[0]
    parting = ";" if header.count(";") > header.count(",") else ","
    try:
        lines = list(csv.reader(text.splitlines(), delimiter=parting, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"{path} is no table ({error}).") from None
    names = [name.strip().lower() for name in lines[0]] if lines else []
    for number, line in enumerate(lines, start=1):
        if any(cell.strip() for cell in line[len(names) :]):
            raise ValueError(
                f"{path}, line {number}: more cells than columns: {parting.join(line)}"
            )
    rows = [
        dict(zip(names, [cell.strip() for cell in line] + [""] * len(names), strict=False))
        for line in lines[1:]
        if any(cell.strip() for cell in line)
    ]
    return set(names), rows
