"""The report of a comparison: JSON, Markdown, plots, and a page with audio."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from keras_speechssm.evaluation.tables import markdown_table
from keras_speechssm.files import atomic_write, write_json
from keras_speechssm.shapes import SAMPLE_RATE

CLIP_SECONDS = 15.0

_COLUMNS = {
    "num_missing": "missing recordings",
    "num_without_words": "without a word",
    "nll_nats_per_unit": "NLL (nats per unit)",
    "perplexity_per_unit": "perplexity (its exponential)",
    "semantic_similarity": "similarity to the true text",
    "n_mos": "N-MOS (predicted)",
    "speaker_similarity": "similarity to the prompt's voice",
    "auto_bleu": "auto-BLEU (fairseq, geometric)",
    "auto_bleu_arithmetic": "auto-BLEU (fairseq, arithmetic)",
    "slamkit_auto_bleu": "auto-BLEU (SlamKit)",
    "repeated_4_grams": "repeated 4-grams",
    "words_per_minute": "words per minute",
    "word_confidence": "recognizer's confidence",
    "real_time_factor": "real-time factor",
}

_CURVES = {
    "sc_l": ("SC-L: similarity to the prompt's text", "span of 100 words"),
    "n_mos_t": ("N-MOS-T (predicted)", "minute from the start of the prompt"),
    "failed": ("fraction of minutes that failed", "minute of the continuation"),
    "non_speech_fraction": ("fraction of non-speech", "minute of the continuation"),
    "silence_fraction": ("fraction of silence", "minute of the continuation"),
    "repeated_4_grams": ("fraction of repeated 4-grams", "minute of the continuation"),
}

AudioClips = dict[str, dict[str, list[np.ndarray]]]
"""Waveforms to listen to, by item and system, from `excerpts`."""


class Table(NamedTuple):
    """A table of text.

    Attributes:
        title: Title of the table.
        header: Titles of the columns.
        rows: Cells of each row.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_report(report: dict, clips: AudioClips, output: Path) -> None:
    """Write `report.json`, `report.md`, `report.html` and a PNG per curve.

    Args:
        report: Result of `evaluate_continuations`.
        clips: What can be listened to in `report.html`.
        output: Folder to write.
    """
    write_json(output / "report.json", report)
    plots = {}
    for name, (title, axis) in _CURVES.items():
        curves = {system: _curve(entry, name) for system, entry in report["systems"].items()}
        plots[name] = plot_curves(curves, title, axis)
        with atomic_write(output / f"{name}.png") as temporary:
            temporary.write_bytes(plots[name])
    for name, text in (("md", to_markdown(report)), ("html", to_html(report, plots, clips))):
        with atomic_write(output / f"report.{name}") as temporary:
            temporary.write_text(text, encoding="utf-8")


def excerpts(waveform: np.ndarray) -> list[np.ndarray]:
    """Return the first and the last 15 s of a waveform (samples,), or all of a shorter one."""
    length = round(CLIP_SECONDS * SAMPLE_RATE)
    if len(waveform) <= length:
        return [waveform]
    # Copies, so that the whole waveform is not kept in memory.
    return [waveform[:length].copy(), waveform[-length:].copy()]


def to_markdown(report: dict) -> str:
    """Render a report as Markdown, with links to the plots."""
    parts = [f"# {_title(report)}", "", _explanation(report), ""]
    for table in _tables(report):
        parts += [f"## {table.title}", "", markdown_table(table.header, table.rows)]
    parts += [f"![{title}]({name}.png)" for name, (title, _) in _CURVES.items()]
    return "\n".join(parts) + "\n"


def to_html(report: dict, plots: dict[str, bytes], clips: AudioClips) -> str:
    """Render a report as one HTML page that contains its plots and audio.

    Args:
        report: Result of `evaluate_continuations`.
        plots: PNG images by curve.
        clips: Waveforms by item and system.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        title=_title(report),
        explanation=_explanation(report),
        tables=_tables(report),
        plots=[
            {"title": _CURVES[name][0], "data": base64.b64encode(image).decode()}
            for name, image in plots.items()
        ],
        clips={
            item: {system: [_ogg(clip) for clip in parts] for system, parts in by_system.items()}
            for item, by_system in clips.items()
        },
        clip_seconds=f"{CLIP_SECONDS:g}",
    )


def plot_curves(curves: dict[str, list[dict]], title: str, axis: str) -> bytes:
    """Plot means with their confidence intervals.

    Args:
        curves: By name, intervals of `mean_interval` or `fraction_interval` in order.
        title: Title of the plot.
        axis: Label of the horizontal axis.

    Returns:
        A PNG image.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for system, curve in curves.items():
        places = np.arange(1, len(curve) + 1)
        means = np.array([entry["mean"] for entry in curve])
        ends = []
        for entry in curve:
            half_width = float(np.nan_to_num(entry.get("half_width", 0.0)))
            low, high = entry["mean"] - half_width, entry["mean"] + half_width
            ends.append((entry.get("low", low), entry.get("high", high)))
        lows, highs = np.array(ends).reshape(-1, 2).T
        (line,) = axes.plot(places, means, marker="o", label=system)
        axes.fill_between(places, lows, highs, alpha=0.15, color=line.get_color())
    axes.set(title=title, xlabel=axis)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _title(report: dict) -> str:
    return f"Continuations of {report['benchmark']}"


def _curve(system: dict, name: str) -> list[dict]:
    over_time = system["over_time"]
    return over_time[name] if name in over_time else system[name]


def _explanation(report: dict) -> str:
    models = ", ".join(
        f"{role.replace('_', ' ')} {name}" for role, name in report["instruments"].items()
    )
    return (
        f"{report['num_items']} recordings, prompts of {report['prompt_seconds']:g} s; only the "
        "continuations are measured. Values are means over recordings. ± is half the width of "
        "the 99 % confidence interval; brackets are Wilson's 99 % interval. Side by side, 95 % is "
        "the bootstrap interval, which needs at least ten recordings. A minute has failed if it "
        "has no word, or if more than half of it is not speech or repeats 4-grams. A system that "
        "stops early counts as silent for the rest, and one that says nothing loses side by side. "
        f"Models: {models}."
    )


def _tables(report: dict) -> list[Table]:
    systems = report["systems"]
    shown = {
        key: title
        for key, title in _COLUMNS.items()
        if any(_is_number(entry.get(key)) for entry in systems.values())
    }
    rows = [
        [name, str(entry["num_items"]), *(_cell(entry.get(key)) for key in shown)]
        for name, entry in systems.items()
    ]
    tables = [Table("Measures", ["system", "recordings", *shown.values()], rows)]
    for name, (title, axis) in _CURVES.items():
        curves = {system: _curve(entry, name) for system, entry in systems.items()}
        measured = [map(_is_number, curve) for curve in curves.values()]
        places = [place for curve in measured for place, found in enumerate(curve, 1) if found]
        if not places:
            continue  # such as spans of 100 words in short form
        header = ["system", *map(str, range(1, max(places) + 1))]
        rows = [[system, *map(_cell, curve)][: len(header)] for system, curve in curves.items()]
        rows = [row + [""] * (len(header) - len(row)) for row in rows]
        tables.append(Table(f"{title}, by {axis}", header, rows))
    header = ["system", "win % (ties half)", "95 %", "weighted", "without ties", "comparisons"]
    for title, rates in report["side_by_side"].items():
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
            for name, entry in rates.items()
        ]
        tables.append(Table(f"Side by side {title}", header, rows))
    return tables


def _is_number(value: object) -> bool:
    value = value.get("mean") if isinstance(value, dict) else value
    return isinstance(value, int | float) and math.isfinite(value)


def _cell(value: object) -> str:
    if not _is_number(value):
        return "-"
    if not isinstance(value, dict):
        return f"{value:.3g}"
    if "low" in value:
        return f"{value['mean']:.3g} [{value['low']:.2g}, {value['high']:.2g}]"
    half_width = value["half_width"]
    return f"{value['mean']:.3g}" + (f" ± {half_width:.2g}" if _is_number(half_width) else "")


def _ogg(waveform: np.ndarray) -> str:
    """The waveform as base64 of an Ogg file; empty without samples."""
    if not len(waveform):
        return ""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(waveform, -1, 1), SAMPLE_RATE, format="OGG", subtype="VORBIS")
    return base64.b64encode(buffer.getvalue()).decode()
