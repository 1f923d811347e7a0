"""Listening tests with people: blind clips and sheets out, ratings in (paper, appendix C).

Clips are shuffled and named by numbers. Only `key.csv`, which raters do not get, has the system
of each clip.
"""

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import write_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.evaluation.compare import (
    DEFAULT_COMPARISON,
    ComparisonOptions,
    compare_folders,
)
from keras_speechssm.evaluation.metrics.confidence_intervals import mean_interval
from keras_speechssm.evaluation.tables import read_table
from keras_speechssm.files import atomic_write
from keras_speechssm.shapes import SAMPLE_RATE

RATER_INSTRUCTIONS = """How natural does the speech sound?

You will hear short clips of speech. Please use headphones, and sit where it is quiet.

Listen to each clip attentively, from beginning to end. Then write down how natural the speech
sounds, from 1 (very unnatural) to 5 (very natural). Half points such as 3.5 are welcome.

Rate the sound of the speech only. The grammar, the choice of words and the sense of what is said
should not affect your rating.

    5    excellent
    4.5
    4    good
    3.5
    3    fair
    2.5
    2    poor
    1.5
    1    bad
"""
"""Instructions in our own words, with the task, scale and labels of the paper (appendix C)."""

_KEY_COLUMNS = ("clip", "system", "item", "span")


def write_listening_test(
    systems: Sequence[str],
    benchmark_folder: str | Path,
    output_folder: str | Path,
    *,
    comparison: ComparisonOptions = DEFAULT_COMPARISON,
    whole: bool = False,
    instructions: str | Path | None = None,
    seed: int = 0,
) -> dict:
    """Write a blind listening test: 5 s of each minute of each system, for people to rate.

    The paper uses 50 recordings in long form and 200 in short form: set `subset`.

    Args:
        systems: `name=folder` each, as for `evaluate continuations`.
        benchmark_folder: The recordings, each a prompt and its true continuation.
        output_folder: New folder for the clips, `sheet.csv` (each rater fills in a copy),
            `instructions.txt`, and `key.csv`, which is not for raters.
        comparison: What is rated. The clips are the spans of N-MOS-T in `evaluate continuations`.
        whole: Rate whole continuations: the paper's N-MOS in short form.
        instructions: Text file with other instructions, for instance the paper's. Defaults to our
            own text with the same task, scale and labels.
        seed: Seed of the order of the clips.

    Returns:
        `clips`, their number. Clips of a system that had stopped speaking are silent.

    Raises:
        ValueError: The folder contains a test already, or see `evaluate continuations`.
    """
    check_at_least(0, seed=seed)
    text = RATER_INSTRUCTIONS
    if instructions is not None:
        if not Path(instructions).is_file():
            raise ValueError(f"The instructions {instructions} do not exist.")
        text = Path(instructions).read_text(encoding="utf-8")
    compared, _ = compare_folders(systems, benchmark_folder, comparison)
    prompt_seconds = comparison.prompt_seconds
    clips = []
    for entry in compared:
        end = min(entry.until_seconds, entry.item.seconds)
        for system in entry.systems:
            waveform = entry.read(system)
            spans = [(prompt_seconds, end)] if whole else entry.spans(system)
            for number, span in enumerate(spans):
                if span is None:
                    continue
                start, stop = (round((t - prompt_seconds) * SAMPLE_RATE) for t in span)
                clip = waveform[start:stop]
                clip = np.pad(clip, (0, stop - start - len(clip)))
                clips.append((system, entry.item.name, number, clip))
    return {"clips": write_clips(clips, output_folder, seed, text)}


def write_clips(
    clips: Sequence[tuple[str, str, int, np.ndarray]],
    output_folder: str | Path,
    seed: int = 0,
    instructions: str = RATER_INSTRUCTIONS,
) -> int:
    """Write the clips, an empty sheet, the instructions and the key of a listening test.

    Args:
        clips: (system, item, number of the span, waveform (samples,)) each.
        output_folder: A new or empty folder.
        seed: Seed of the order. Defaults to `0`.
        instructions: Instructions for the raters.

    Returns:
        The number of clips.

    Raises:
        ValueError: There are no clips, or the folder contains a test already.
    """
    folder = Path(output_folder)
    if not clips:
        raise ValueError("There are no clips to rate: the continuations have no spans of 5 s.")
    if any(folder.glob("clips/*")) or (folder / "sheet.csv").exists():
        raise ValueError(f"{folder} contains clips or a sheet already; choose a new folder.")
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(seed).permutation(len(clips))
    key, sheet = [_KEY_COLUMNS], [("clip", "rating")]
    for number, place in enumerate(order, start=1):
        system, item, span, waveform = clips[place]
        clip = f"{number:04d}.wav"
        write_audio(folder / "clips" / clip, waveform)
        key.append((clip, system, item, span))
        sheet.append((clip, ""))
    with atomic_write(folder / "instructions.txt") as temporary:
        temporary.write_text(instructions, encoding="utf-8")
    # The sheet is last: if it exists, the test is complete.
    for name, rows in (("key.csv", key), ("sheet.csv", sheet)):
        with (
            atomic_write(folder / name) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as file,
        ):
            csv.writer(file).writerows(rows)
    return len(clips)


def score_listening_test(key_file: str | Path, sheets: Sequence[str | Path]) -> dict:
    """Compute mean opinion scores from the raters' sheets, by system and span.

    Args:
        key_file: `key.csv` of the listening test.
        sheets: The sheets that raters filled in. Clips without a rating are left out.

    Returns:
        `{system: {"all": interval, "spans": {span: interval}}}`, with 99 % confidence intervals.

    Raises:
        ValueError: A sheet names an unknown clip or is given twice, or a rating is not 1, 1.5,
            ... 5.
    """
    if len({Path(sheet).resolve() for sheet in sheets}) < len(sheets):
        raise ValueError("A sheet is given twice; its ratings would count twice.")
    key = {row["clip"]: row for row in _read_columns(key_file, _KEY_COLUMNS)}
    ratings: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sheet in sheets:
        rated: set[str] = set()
        for row in _read_columns(sheet, ("clip", "rating")):
            if not row["rating"]:
                continue
            if row["clip"] in rated:
                raise ValueError(f"{sheet}: {row['clip']} is rated twice.")
            rated.add(row["clip"])
            if row["clip"] not in key:
                raise ValueError(f"{sheet}: the clip {row['clip']!r} is not in {key_file}.")
            entry = key[row["clip"]]
            ratings[entry["system"]][entry["span"]].append(_rating(row, sheet))
    if not ratings:
        raise ValueError(f"No clip is rated in {', '.join(map(str, sheets))}.")
    return {
        system: {
            "all": mean_interval([value for values in spans.values() for value in values]),
            "spans": {span: mean_interval(spans[span]) for span in sorted(spans, key=int)},
        }
        for system, spans in sorted(ratings.items())
    }


def _rating(row: dict[str, str], sheet: str | Path) -> float:
    try:
        value = float(row["rating"].replace(",", "."))
    except ValueError:
        value = float("nan")
    if value not in {half / 2 for half in range(2, 11)}:
        raise ValueError(
            f"{sheet}: {row['clip']} is rated {row['rating']!r}; expected 1, 1.5, ... 5."
        )
    return value


def _read_columns(path: str | Path, columns: Sequence[str]) -> list[dict[str, str]]:
    found, rows = read_table(path)
    if not set(columns) <= found:
        raise ValueError(f"{path} lacks one of the columns {', '.join(columns)}.")
    return rows
