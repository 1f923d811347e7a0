"""Listening tests by people: sheets out, ratings in (paper, appendix C).

The instructions are the paper's, word for word, since other ones would be another measure.
Clips are shuffled and named by numbers: only `key.csv`, which raters do not get, tells what
each one is.
"""

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import write_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.evaluation.compare import compare_folders
from keras_speechssm.evaluation.metrics.confidence_intervals import mean_interval
from keras_speechssm.files import atomic_write
from keras_speechssm.shapes import SAMPLE_RATE


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


INSTRUCTIONS = """This task requires you to listen to audio clips using headphones in a quiet environment.

In this task, you will be given audio clips. For each clip, please listen to the speech very carefully and then select a rating on a scale of 1 (very unnatural) to 5 (very natural) using 0.5 point increments. The rating should be based on how natural or unnatural the speech sounded. Please do not judge the grammar or the content of the sentence. Instead, just focus on how natural the speech sounds.

Possible Ratings

- 1: Bad
- 1.5
- 2: Poor
- 2.5
- 3: Fair
- 3.5
- 4: Good
- 4.5
- 5: Excellent
"""  # noqa: E501

_KEY_COLUMNS = ("clip", "system", "item", "span")


def write_listening_sheets(
    clips: Sequence[tuple[str, str, int, np.ndarray]], output_folder: str | Path, seed: int = 0
) -> int:
    """Writes the clips, an empty sheet, the instructions and the key.

    Args:
        clips: (system, item, number of the span, waveform (samples,)) each.
        output_folder: a new or empty folder: `clips/0001.wav`, ..., `sheet.csv`,
            `instructions.txt`, `key.csv`.
        seed: of the order.

    Returns:
        How many clips there are.

    Raises:
        ValueError: there are no clips, or the folder holds a test already, or a part of one.
    """
    folder = Path(output_folder)
    if not clips:
        raise ValueError("There are no clips to rate.")
    if any(folder.glob("clips/*")) or (folder / "sheet.csv").exists():
        raise ValueError(f"{folder} holds clips or a sheet already; give a new folder.")
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
        temporary.write_text(INSTRUCTIONS, encoding="utf-8")
    _write_csv(folder / "key.csv", key)
    _write_csv(folder / "sheet.csv", sheet)  # last: who finds it finds all
    return len(clips)


def _write_csv(path: Path, rows: Sequence[Sequence]) -> None:
    with (
        atomic_write(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        csv.writer(file).writerows(rows)


def evaluate_ratings(key_file: str | Path, sheets: Sequence[str | Path]) -> dict:
    """Mean opinion scores of people's listening sheets, by system and span, with 99 % intervals.

    Args:
        key_file: `key.csv` of `write_listening_sheets`.
        sheets: the sheets that raters filled in; clips without a rating are left out.

    Returns:
        `{system: {"all": interval, "spans": {span: interval}}}`, the intervals of
        `confidence.mean_interval`.

    Raises:
        ValueError: a sheet names an unknown clip, or a rating is not 1, 1.5, ... 5.
    """
    if len({Path(sheet).resolve() for sheet in sheets}) < len(sheets):
        raise ValueError("A sheet is given twice; its ratings would count twice.")
    key = {row["clip"]: row for row in _read_csv(key_file, _KEY_COLUMNS)}
    ratings: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sheet in sheets:
        rated: set[str] = set()
        for row in _read_csv(sheet, ("clip", "rating")):
            text = row["rating"].replace(",", ".")
            if not text:
                continue
            if row["clip"] in rated:
                raise ValueError(f"{sheet}: {row['clip']} is rated twice.")
            rated.add(row["clip"])
            if row["clip"] not in key:
                raise ValueError(f"{sheet}: the clip {row['clip']!r} is not in {key_file}.")
            entry = key[row["clip"]]
            ratings[entry["system"]][entry["span"]].append(_rating(text, sheet, row["clip"]))
    if not ratings:
        raise ValueError(f"No clip is rated in {', '.join(map(str, sheets))}.")
    return {
        system: {
            "all": mean_interval([value for values in spans.values() for value in values]),
            "spans": {span: mean_interval(spans[span]) for span in sorted(spans, key=int)},
        }
        for system, spans in sorted(ratings.items())
    }


def _rating(text: str, sheet: str | Path, clip: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value not in {half / 2 for half in range(2, 11)}:
        raise ValueError(f"{sheet}: {clip} is rated {text!r}; expected 1, 1.5, ... 5.")
    return value


def _read_csv(path: str | Path, columns: Sequence[str]) -> list[dict]:
    found, rows = read_table(path)
    if not set(columns) <= found:
        raise ValueError(f"{path} lacks one of the columns {', '.join(columns)}.")
    return rows


def write_sheets(
    systems: Sequence[str],
    benchmark_folder: str | Path,
    output_folder: str | Path,
    *,
    prompt_seconds: float = 10.0,
    until_seconds: float | None = None,
    with_prompt: Sequence[str] = (),
    least_reference: float | None = None,
    subset: int | None = 50,
    subset_seed: int = 0,
    whole: bool = False,
    seed: int = 0,
) -> dict:
    """Writes a blind listening test: 5 s of each minute of each system, for people to rate.

    Args:
        systems, benchmark_folder, prompt_seconds, until_seconds, with_prompt, least_reference:
            as `speechssm evaluate continuations` takes them; the spans are those of its N-MOS-T.
        output_folder: new folder: clips, `sheet.csv` for each rater to copy and fill in,
            `instructions.txt`, and `key.csv`, which is not for raters.
        subset, subset_seed: recordings at most. Defaults to `50`, as in the paper's long form;
            its short form has 200.
        whole: clips are whole continuations: the paper's N-MOS, of short form.
        seed: of the clips' order.

    Returns:
        `{"clips": how many}`; `speechssm evaluate ratings` reads the sheets that come back.
        Who has stopped speaking by then is silent in them.
    """
    check_at_least(0, seed=seed)
    compared, _ = compare_folders(
        systems,
        benchmark_folder,
        prompt_seconds=prompt_seconds,
        until_seconds=until_seconds,
        with_prompt=with_prompt,
        least_reference=least_reference,
        subset=subset,
        subset_seed=subset_seed,
    )
    clips = []
    for entry in compared:
        end = min(entry.until_seconds, entry.item.seconds)
        for system in entry.systems:
            heard = entry.read(system)
            spans = [(prompt_seconds, end)] if whole else entry.spans(system)
            for number, span in enumerate(spans):
                if span is None:
                    continue
                start, stop = (round((t - prompt_seconds) * SAMPLE_RATE) for t in span)
                clip = heard[start:stop]
                clip = np.pad(clip, (0, stop - start - len(clip)))
                clips.append((system, entry.item.name, number, clip))
    return {"clips": write_listening_sheets(clips, output_folder, seed)}
