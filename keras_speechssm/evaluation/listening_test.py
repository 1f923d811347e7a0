"""Listening tests with people: blind clips and sheets out, ratings in (paper, appendix C).

Clips are shuffled and named by numbers. Only `key.csv`, which raters do not get, has the system
of each clip.
"""

import csv
import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio, write_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import name_recordings
from keras_speechssm.evaluation.compare import (
    DEFAULT_COMPARISON,
    ComparisonOptions,
    compare_folders,
)
from keras_speechssm.evaluation.metrics.confidence_intervals import mean_interval
from keras_speechssm.evaluation.studies.boundaries import STUDY_SECONDS, synthesis_boundaries
from keras_speechssm.evaluation.tables import read_table
from keras_speechssm.files import atomic_write
from keras_speechssm.shapes import SAMPLE_RATE
from keras_speechssm.windows import OVERLAP, SYNTHESIS_WINDOW

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

ISSUES = ("artifacts", "pronunciation", "speed", "prosody", "sentiment", "other")
"""What raters of the boundary study can report about a clip (paper, table 6)."""

ISSUE_INSTRUCTIONS = """
If something in the clip sounds wrong, also write an x in each column that applies:

    artifacts       clicks, noise, gaps, an echo, or a sudden change of the sound
    pronunciation   a word is mispronounced
    speed           too fast or too slow, or the speed changes for no reason
    prosody         unnatural melody, stress, rhythm or pauses
    sentiment       the emotion is wrong for what is said
    other           anything else
"""
"""What the flags mean, in our own words."""

BOUNDARY, CENTER = "boundary", "center"
"""Where the clips of the boundary study are from; they are its systems."""

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


def write_boundary_listening_test(
    audio_folders: Sequence[str | Path],
    output_folder: str | Path,
    *,
    window: int = SYNTHESIS_WINDOW,
    overlap: int = OVERLAP,
    first_windows: Sequence[int] = (),
    subset: int | None = None,
    seed: int = 0,
) -> dict:
    """Write a blind listening test of the boundaries between synthesis windows.

    As in the paper's appendix A.2, clips of 5 s are centered at the boundaries or at the centers of
    the windows, and raters can flag six kinds of issues. The paper takes 50 continuations to 4 min,
    and two ratings of each clip. `evaluate listening-test-scores` gives its table.

    Args:
        audio_folders: Continuations of this package, without their prompts.
        output_folder: New folder for the clips, `sheet.csv` (each rater fills in a copy),
            `instructions.txt`, and `key.csv`, which is not for raters.
        window: Tokens per synthesis window, as the continuations were made with.
        overlap: Tokens that neighboring windows share.
        first_windows: Tokens of the first windows. Defaults to none, the paper's plan, as in
            `evaluate generate`; `100 200 400` are the growing windows of `continue`.
        subset: Number of continuations, drawn at random. Defaults to all.
        seed: Seed of the order of the clips, and of the subset.

    Returns:
        `clips`, their number.

    Raises:
        ValueError: No continuation has a boundary, the folder contains a test already, or an
            option is out of range.
    """
    check_at_least(1, subset=subset)
    check_at_least(0, seed=seed)
    names = name_recordings([*audio_folders])
    if subset is not None:
        chosen = np.random.default_rng(seed).permutation(sorted(names))[:subset]
        names = {name: names[name] for name in sorted(chosen)}
    clips = []
    for name, path in names.items():
        waveform = read_audio(path)
        seconds = len(waveform) / SAMPLE_RATE
        boundaries = synthesis_boundaries(seconds, window, overlap, first_windows)
        centers = [(a + b) / 2 for a, b in itertools.pairwise([0.0, *boundaries])]
        for kind, places in ((BOUNDARY, boundaries), (CENTER, centers)):
            for number, place in enumerate(places):
                start = round((place - STUDY_SECONDS / 2) * SAMPLE_RATE)
                clip = waveform[max(0, start) : start + round(STUDY_SECONDS * SAMPLE_RATE)]
                if start >= 0 and len(clip) == round(STUDY_SECONDS * SAMPLE_RATE):
                    clips.append((kind, name, number, clip))
    if not any(kind == BOUNDARY for kind, *_ in clips):
        raise ValueError("No continuation has a boundary; use continuations of half a minute.")
    text = RATER_INSTRUCTIONS + ISSUE_INSTRUCTIONS
    return {"clips": write_clips(clips, output_folder, seed, text, ISSUES)}


def write_clips(
    clips: Sequence[tuple[str, str, int, np.ndarray]],
    output_folder: str | Path,
    seed: int = 0,
    instructions: str = RATER_INSTRUCTIONS,
    issues: Sequence[str] = (),
) -> int:
    """Write the clips, an empty sheet, the instructions and the key of a listening test.

    Args:
        clips: (system, item, number of the span, waveform (samples,)) each.
        output_folder: A new or empty folder.
        seed: Seed of the order. Defaults to `0`.
        instructions: Instructions for the raters.
        issues: Columns of the sheet for flags. Defaults to none.

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
    key, sheet = [_KEY_COLUMNS], [("clip", "rating", *issues)]
    for number, place in enumerate(order, start=1):
        system, item, span, waveform = clips[place]
        clip = f"{number:04d}.wav"
        write_audio(folder / "clips" / clip, waveform)
        key.append((clip, system, item, span))
        sheet.append((clip, "", *[""] * len(issues)))
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


def score_listening_test(
    key_file: str | Path, sheets: Sequence[str | Path], *, table: str | Path | None = None
) -> dict:
    """Compute mean opinion scores from the raters' sheets, by system and span.

    Args:
        key_file: `key.csv` of the listening test.
        sheets: The sheets that raters filled in. Clips without a rating are left out.
        table: Markdown file to write, with one row per system: for the boundary study this is the
            paper's table 6. Defaults to none.

    Returns:
        `{system: {"all": interval, "spans": {span: interval}}}`, with 99 % confidence intervals;
        for the boundary study also `"issues"`, how many ratings have each flag.

    Raises:
        ValueError: A sheet names an unknown clip or is given twice, a rating is not 1, 1.5, ... 5,
            or a flag is not empty, 0, 1 or x.
    """
    if len({Path(sheet).resolve() for sheet in sheets}) < len(sheets):
        raise ValueError("A sheet is given twice; its ratings would count twice.")
    key = {row["clip"]: row for row in _read_columns(key_file, _KEY_COLUMNS)}
    ratings: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    flags: dict[str, Counter] = defaultdict(Counter)
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
            flags[entry["system"]].update(
                {issue: _flag(row, issue, sheet) for issue in ISSUES if issue in row}
            )
    if not ratings:
        raise ValueError(f"No clip is rated in {', '.join(map(str, sheets))}.")
    scores = {
        system: {
            "all": mean_interval([value for values in spans.values() for value in values]),
            "spans": {span: mean_interval(spans[span]) for span in sorted(spans, key=int)},
            **({"issues": dict(flags[system])} if flags[system] else {}),
        }
        for system, spans in sorted(ratings.items())
    }
    if table is not None:
        with atomic_write(table) as temporary:
            temporary.write_text(format_scores(scores), encoding="utf-8")
    return scores


def format_scores(scores: dict) -> str:
    """Format the result of `score_listening_test` as a Markdown table.

    Args:
        scores: The result.

    Returns:
        One row per system: the mean opinion score with its 99 % confidence interval, the number of
        ratings, and the number of flags of each kind.
    """
    issues = [
        issue for issue in ISSUES if any(issue in s.get("issues", {}) for s in scores.values())
    ]
    header = ["clips", "MOS", "ratings", *issues]
    rows = [header, ["---"] * len(header)]
    for system, score in scores.items():
        mean, half_width = score["all"]["mean"], score["all"]["half_width"]
        row = [system, f"{mean:.2f} ± {half_width:.2f}", str(score["all"]["num"])]
        rows.append([*row, *(str(score.get("issues", {}).get(issue, 0)) for issue in issues)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _flag(row: dict[str, str], issue: str, sheet: str | Path) -> int:
    value = (row[issue] or "").strip().lower()
    if value not in ("", "0", "1", "x"):
        raise ValueError(
            f"{sheet}: {issue} of {row['clip']} is {row[issue]!r}; expected an x or nothing."
        )
    return int(value in ("1", "x"))


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
