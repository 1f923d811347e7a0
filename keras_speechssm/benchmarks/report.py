"""Tables and plots of measurements."""

import os
from collections.abc import Sequence


def format_table(rows: Sequence[dict]) -> str:
    """Rows with the same keys as a Markdown table; numbers with three digits that count."""
    names = list(rows[0])
    cells = [names] + [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    padded = [[cell.ljust(widths[i]) for i, cell in enumerate(line)] for line in cells]
    lines = [" | ".join(line) for line in padded]
    rule = " | ".join("-" * width for width in widths)
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])


def _cell(value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def plot_rates(path: str | os.PathLike, rows: Sequence[dict], x: str) -> None:
    """Tokens a second of each model against `x`, both logarithmic, as the paper's figures 6 to 8.

    Needs matplotlib (extra `eval`).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    y = "tokens_per_second"
    for name in dict.fromkeys(row["model"] for row in rows):
        points = [(row[x], row[y]) for row in rows if row["model"] == name and row[y]]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set(xlabel=x, ylabel=y, xscale="log", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=120)
