"""Tables and plots of measurements."""

import os
from collections.abc import Sequence
from pathlib import Path

from keras_speechssm.benchmarks.machine import describe_machine
from keras_speechssm.whole_files import whole_file, write_json


def check_output(output: str | os.PathLike | None, plotted: bool = True) -> None:
    """Refuses before anything is measured what could not be written: `ValueError`.

    Args:
        output: `.json` file, or `None`.
        plotted: whether a plot goes beside it, as `publish` draws it.
    """
    if output is None:
        return
    output = Path(output)
    if output.suffix != ".json":
        raise ValueError(f"output takes a .json file, got {str(output)!r}.")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise ValueError(f"Cannot write {output}: {output.parent} is no folder to write to.")
    if plotted:
        import matplotlib  # noqa: F401


def publish(work: str, rows: list[dict], limits: dict, output, x: str, **more) -> None:
    """Prints a benchmark's table and machine; writes both as JSON, and a plot, to `output`.

    Raises `ValueError`, having done so, where every measurement failed.

    Args:
        work: what was measured.
        rows: lines of the table, with `model` and `tokens_per_second`.
        limits: of the machine, from `measure_limits` in the same run.
        output: `.json` file, beside which the plot goes; or `None`.
        x: key of the rows, the plot's horizontal axis.
        **more: what else the JSON says.
    """
    machine = describe_machine()
    print(format_table(rows))
    print(f"machine: {machine}; limits: {limits}")
    if output is not None:
        content = {"machine": machine, "limits": limits, "work": work, **more, "rows": rows}
        write_json(Path(output), content)
        plot_rates(Path(output).with_suffix(".png"), rows, x)
    if all(row.get("failed") for row in rows):
        raise ValueError(f"Nothing could be measured: {rows[0]['failed']}")


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
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
