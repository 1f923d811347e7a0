"""The report of a comparison as files: JSON, Markdown, plots, and a page to listen to."""

import base64
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from keras_speechssm.files import atomic_write, write_json
from keras_speechssm.shapes import SAMPLE_RATE

_CLIP_SECONDS = 15.0

_COLUMNS = {
    "lacks": "recordings that it lacks",
    "num_without_words": "without a word",
    "nll_nats_per_unit": "NLL (nats a unit)",
    "perplexity_per_unit": "perplexity (its exponential)",
    "semantic_similarity": "similarity to the true text",
    "n_mos": "N-MOS (predicted)",
    "speaker_similarity": "similarity to the prompt's voice",
    "auto_bleu": "auto-BLEU (fairseq, geometric)",
    "auto_bleu_arithmetic": "auto-BLEU (fairseq, arithmetic)",
    "slamkit_auto_bleu": "auto-BLEU (SlamKit)",
    "repeated_4_grams": "repeated 4-grams",
    "words_per_minute": "words a minute",
    "word_confidence": "recognizer's confidence",
    "real_time_factor": "real-time factor",
}

_CURVES = {
    "sc_l": ("SC-L: similarity of the prompt's text and 100 words", "words / 100"),
    "n_mos_t": ("N-MOS-T (predicted)", "minute, the prompt in the first"),
    "failed": ("share of minutes that failed", "minute of the continuation"),
    "non_speech_share": ("share of non-speech", "minute of the continuation"),
    "silence_fraction": ("share of silence", "minute of the continuation"),
    "repeated_4_grams": ("share of repeated 4-grams", "minute of the continuation"),
}


AudioClips = dict[str, dict[str, list[np.ndarray]]]
"""By item and system, what one can listen to, from `excerpt`."""


def write_report(report: dict, heard: AudioClips, output: Path) -> None:
    """Writes `report.json`, `report.md`, `report.html` and a PNG for each curve.

    Args:
        report: of `comparison.evaluate_continuations`.
        heard: what one can listen to.
        output: folder.
    """
    write_json(output / "report.json", report)
    plots = {}
    for name, (title, axis) in _CURVES.items():
        curves = {system: _curve(entry, name) for system, entry in report["systems"].items()}
        plots[name] = plot_curves(curves, title, axis)
        with atomic_write(output / f"{name}.png") as temporary:
            temporary.write_bytes(plots[name])
    text = to_markdown(report)
    with atomic_write(output / "report.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    with atomic_write(output / "report.html") as temporary:
        temporary.write_text(_to_html(report, plots, heard), encoding="utf-8")


def _curve(system: dict, name: str) -> list[dict]:
    over_time = system["over_time"]
    return over_time[name] if name in over_time else system[name]


def to_markdown(report: dict) -> str:
    """The tables of a report, in Markdown."""
    parts = [f"# Continuations of {report['benchmark']}", "", _explain(report), ""]
    for title, header, rows in _tables(report):
        parts += [f"## {title}", "", markdown_table(header, rows)]
    parts += [f"![{title}]({name}.png)" for name, (title, _) in _CURVES.items()]
    return "\n".join(parts) + "\n"


def _explain(report: dict) -> str:
    instruments = ", ".join(f"{key} {name}" for key, name in report["instruments"].items())
    return (
        f"{report['num_items']} recordings, prompts of {report['prompt_seconds']:g} s. Means over "
        f"recordings; ± is half of a 99 % confidence interval, brackets hold Wilson's of 99 %. "
        "Side by side, the 95 % are the bootstrap's, which below some ten recordings is no "
        "interval. Of the continuation only. "
        f"Instruments: {instruments}. A minute has failed if it has no word, or more than half "
        "of it is no speech or repeats 4-grams. Who stops early is silent for the rest; who says "
        "nothing loses side by side."
    )


def _tables(report: dict) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    systems = report["systems"]
    tables = []
    shown = {
        key: title
        for key, title in _COLUMNS.items()
        if any(_is_number(entry.get(key)) for entry in systems.values())
    }
    rows = [
        [name, str(entry["num_items"]), *(_cell(entry.get(key)) for key in shown)]
        for name, entry in systems.items()
    ]
    tables.append(("Measures", ["system", "recordings", *shown.values()], rows))
    for name, (title, axis) in _CURVES.items():
        curves = {system: _curve(entry, name) for system, entry in systems.items()}
        longest = max(map(len, curves.values()), default=0)
        if not longest:
            continue  # such as spans of 100 words in short form
        header = ["system", *(f"{axis} {place + 1}" for place in range(longest))]
        rows = [[system, *map(_cell, curve)] for system, curve in curves.items()]
        rows = [row + [""] * (len(header) - len(row)) for row in rows]
        tables.append((title, header, rows))
    for title, games in report["side_by_side"].items():
        header = ["system", "win % (ties half)", "95 %", "weighted", "without ties", "games"]
        rows = [
            [
                name,
                _cell(entry["win_rate"]),
                " to ".join(_cell(end) for end in entry["interval_95"]),
                _cell(entry["win_rate_weighted"]),
                _cell(entry["win_rate_without_ties"]),
                f"{entry['wins']} won, {entry['ties']} tied, {entry['losses']} lost, "
                f"{2 * entry['num_dropped']} dropped",
            ]
            for name, entry in games.items()
        ]
        tables.append((f"Side by side {title}", header, rows))
    return tables


def _is_number(value) -> bool:
    value = value.get("mean") if isinstance(value, dict) else value
    return isinstance(value, int | float) and math.isfinite(value)


def _cell(value) -> str:
    if not _is_number(value):
        return "-"
    if not isinstance(value, dict):
        return f"{value:.3g}"
    if "low" in value:
        return f"{value['mean']:.3g} [{value['low']:.2g}, {value['high']:.2g}]"
    half = value["half_width"]
    return f"{value['mean']:.3g}" + (f" ± {half:.2g}" if _is_number(half) else "")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, with the line break at its end."""
    first, *others = (
        "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        for cells in (header, *rows)
    )
    return "\n".join([first, "|" + "---|" * len(header), *others]) + "\n"


def plot_curves(curves: dict[str, list[dict]], title: str, axis: str) -> bytes:
    """A PNG of means with their intervals.

    Args:
        curves: by name, intervals of `confidence.mean_interval` or `proportion_interval` in order.
        title: of the plot.
        axis: what the order is.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for system, curve in curves.items():
        places = np.arange(1, len(curve) + 1)
        means = np.array([entry["mean"] for entry in curve])
        lows, highs = np.array([_ends_of(entry) for entry in curve]).reshape(-1, 2).T
        (line,) = axes.plot(places, means, marker="o", label=system)
        axes.fill_between(places, lows, highs, alpha=0.15, color=line.get_color())
    axes.set(title=title, xlabel=axis)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _ends_of(interval: dict) -> tuple[float, float]:
    if "low" in interval:
        return interval["low"], interval["high"]
    half = float(np.nan_to_num(interval["half_width"]))
    return interval["mean"] - half, interval["mean"] + half


_STYLE = (
    "body{font-family:sans-serif;margin:2em;max-width:70em}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.3em .6em}"
    "audio{width:16em}img{max-width:100%}"
)


def _to_html(report: dict, plots: dict[str, bytes], heard: AudioClips) -> str:
    title = html.escape(f"Continuations of {report['benchmark']}")
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>",
        f"<style>{_STYLE}</style><h1>{title}</h1><p>{html.escape(_explain(report))}</p>",
    ]
    for name, header, rows in _tables(report):
        parts.append(f"<h2>{html.escape(name)}</h2>" + _html_table(header, rows))
    for image in plots.values():
        data = base64.b64encode(image).decode()
        parts.append(f"<img alt='' src='data:image/png;base64,{data}'>")
    if heard:
        parts.append(f"<h2>Listen</h2><p>The first and the last {_CLIP_SECONDS:g} s.</p>")
    for item, by_system in heard.items():
        rows = [
            f"<tr><th>{html.escape(system)}</th>"
            + "".join(f"<td>{_player(part)}</td>" for part in parts_heard)
            + "</tr>"
            for system, parts_heard in by_system.items()
        ]
        parts.append(f"<h3>{html.escape(item)}</h3><table>{''.join(rows)}</table>")
    return "\n".join(parts) + "</html>\n"


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[f"<th>{html.escape(cell)}</th>" for cell in header]]
    cells += [[f"<td>{html.escape(cell)}</td>" for cell in row] for row in rows]
    return "<table>" + "".join(f"<tr>{''.join(row)}</tr>" for row in cells) + "</table>"


def excerpt(waveform: np.ndarray) -> list[np.ndarray]:
    """The first and the last 15 s of a waveform (samples,), or the whole; copies."""
    length = round(_CLIP_SECONDS * SAMPLE_RATE)
    whole = len(waveform) <= length
    return [waveform] if whole else [waveform[:length].copy(), waveform[-length:].copy()]


def _player(waveform: np.ndarray) -> str:
    if not len(waveform):
        return "nothing"
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(waveform, -1, 1), SAMPLE_RATE, format="OGG", subtype="VORBIS")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<audio controls preload='none' src='data:audio/ogg;base64,{data}'></audio>"
