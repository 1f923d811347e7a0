"""sWUGGY, sBLIMP and StoryCloze: does a model find the correct of two utterances more probable?

Files are those of ZeroSpeech 2021: a submission has lines `<stem> <score>`; `gold.csv` has the
columns `id, filename, voice, correct` and, for the lexical task, `frequency, word, phones,
length`, or for the syntactic task `type, subtype, transcription`. StoryCloze needs the first four.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.evaluation.tables import read_table
from keras_speechssm.files import atomic_write
from keras_speechssm.models import SemanticTokenizer
from keras_speechssm.models.preset_mixin import load_part
from keras_speechssm.presets import DEFAULT_PRESET

TASKS = ("lexical", "syntactic", "storycloze")

Pair = tuple[dict[str, str], dict[str, str]]
"""Rows of `gold.csv`: a correct and an incorrect utterance."""

_SHARED_COLUMNS = ("id", "voice", "type", "subtype")


def evaluate_zero_speech(
    gold_file: str | Path,
    task: str,
    *,
    submission_file: str | Path,
    audio_folder: str | Path | None = None,
    preset: str = DEFAULT_PRESET,
    speech_lm: str | None = None,
) -> dict:
    """Score sWUGGY, sBLIMP or StoryCloze for a model, or for another system's submission.

    Args:
        gold_file: The benchmark's `gold.csv`.
        task: `lexical` (sWUGGY), `syntactic` (sBLIMP) or `storycloze`.
        submission_file: Lines `<stem> <score>`; written first if `audio_folder` is given.
        audio_folder: The recordings, to be scored by a model: the log-likelihood of the semantic
            tokens, not divided by their number, as in the paper.
        preset: Pipeline preset with the tokenizer and the language model.
        speech_lm: Preset of another language model over the same tokens.

    Returns:
        See `contrast_accuracy`.

    Raises:
        ValueError: A file is missing or malformed, or recordings are missing.
    """
    pairs = read_gold(gold_file, task)
    if audio_folder is not None:
        known = {path.stem for path in find_audio(audio_folder)}
        if missing := [r["filename"] for pair in pairs for r in pair if _stem(r) not in known]:
            raise ValueError(
                f"{audio_folder} lacks {len(missing)} recordings of {gold_file}, such as "
                f"{missing[0]!r}."
            )
        model = load_part(preset if speech_lm is None else speech_lm, "speech_lm")
        tokenizer = SemanticTokenizer.from_preset(preset)
        score_recordings(audio_folder, model.score, tokenizer.tokenize, submission_file)
    return contrast_accuracy(pairs, read_scores(submission_file))


def read_gold(path: str | Path, task: str) -> list[Pair]:
    """Read pairs of a correct and an incorrect utterance from `gold.csv`.

    Lexical and StoryCloze pairs share `id` and `voice`. In the syntactic task, the first correct
    row and the first incorrect row are a pair, and so on, as in the official script.

    Args:
        path: `gold.csv`.
        task: One of `TASKS`.

    Raises:
        ValueError: Columns are missing, or rows are not pairs.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; expected one of {', '.join(TASKS)}.")
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"The file {path} does not exist; expected the benchmark's gold.csv.")
    columns, rows = read_table(path)
    missing = {"id", "filename", "voice", "correct"} - columns
    if missing or not rows:
        problem = f"lacks the columns {sorted(missing)}" if missing else "has no rows"
        raise ValueError(f"{path} {problem}; expected ZeroSpeech's gold.csv.")
    if odd := [row for row in rows if row["correct"] not in ("0", "1")]:
        raise ValueError(f"{path}: correct is {odd[0]['correct']!r}; expected 1 or 0.")
    if task == "syntactic":
        right, wrong = ([row for row in rows if row["correct"] == mark] for mark in "10")
        if len(right) != len(wrong):
            raise ValueError(f"{path} has {len(right)} correct and {len(wrong)} incorrect rows.")
        groups = [list(pair) for pair in zip(right, wrong, strict=True)]
    else:
        by_key = defaultdict(list)
        for row in rows:
            by_key[row["id"], row["voice"]].append(row)
        groups = list(by_key.values())
    return [_as_pair(group, path) for group in groups]


def read_scores(path: str | Path) -> dict[str, float]:
    """Read the scores of a submission by file stem.

    Raises:
        ValueError: A line is not `<stem> <score>`, or a stem has two scores.
    """
    scores: dict[str, float] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            stem, number_text = line.split()
            score = float(number_text)
        except ValueError:
            raise ValueError(f"{path}, line {number}: expected `<stem> <score>`.") from None
        if stem in scores:
            raise ValueError(f"{path}, line {number}: {stem} already has a score.")
        scores[stem] = score
    return scores


def pair_score(correct: float, incorrect: float) -> float:
    """1 if the correct utterance scores higher, 0.5 for a tie, 0 otherwise (also for NaN)."""
    if math.isnan(correct) or math.isnan(incorrect):
        return 0.0
    return 0.5 if correct == incorrect else float(correct > incorrect)


def contrast_accuracy(
    pairs: Sequence[Pair], scores: Mapping[str, float]
) -> dict[str, float | dict[str, float]]:
    """Compute how often the correct utterance scores higher.

    Scores are averaged over the voices of a contrast, then over contrasts. A contrast is an `id`,
    within its `type` and `subtype` if there are any.

    Args:
        pairs: From `read_gold`.
        scores: Scores by file stem, from `read_scores`.

    Returns:
        `accuracy`, 0 to 1 (0.5 by chance), `num_pairs`, and if `gold.csv` has the columns,
        `in_vocabulary` and `out_of_vocabulary` (words of frequency 0) or `by_type`.

    Raises:
        ValueError: A score is missing.
    """
    by_contrast: dict[tuple, list[float]] = defaultdict(list)
    kinds: dict[tuple, str] = {}
    for right, wrong in pairs:
        for row in (right, wrong):
            if _stem(row) not in scores:
                raise ValueError(f"The submission has no score for {row['filename']}.")
        key = (right.get("type"), right.get("subtype"), right["id"])
        by_contrast[key].append(pair_score(scores[_stem(right)], scores[_stem(wrong)]))
        kinds[key] = _kind(right)
    means = {key: float(np.mean(values)) for key, values in by_contrast.items()}
    report: dict = {"accuracy": float(np.mean(list(means.values()))), "num_pairs": len(pairs)}
    groups: dict[str, list[float]] = defaultdict(list)
    for key, value in means.items():
        groups[kinds[key]].append(value)
    accuracies = {kind: float(np.mean(values)) for kind, values in sorted(groups.items()) if kind}
    if {"in_vocabulary", "out_of_vocabulary"} & set(accuracies):
        return {**report, **accuracies}
    return {**report, "by_type": accuracies} if accuracies else report


def score_recordings(
    audio_folder: str | Path,
    score_tokens: Callable[[np.ndarray], np.ndarray],
    tokenize: Callable[[np.ndarray], np.ndarray],
    output: str | Path,
) -> dict[str, float]:
    """Score every recording of a folder and writes a submission atomically.

    Args:
        audio_folder: The benchmark's recordings.
        score_tokens: Function from int (1, time) to its log-likelihood.
        tokenize: Function from a waveform to its semantic tokens.
        output: File to write.

    Returns:
        The scores by file stem.

    Raises:
        ValueError: Two recordings have the same name.
    """
    scores: dict[str, float] = {}
    for path in find_audio(audio_folder):
        if path.stem in scores:
            raise ValueError(f"Two recordings in {audio_folder} are named {path.stem}.")
        tokens = np.asarray(tokenize(read_audio(path)))
        scores[path.stem] = float(np.asarray(score_tokens(tokens[None])).reshape(-1)[0])
    with atomic_write(output) as temporary:
        lines = [f"{stem} {score:.6f}\n" for stem, score in scores.items()]
        temporary.write_text("".join(lines), encoding="utf-8")
    return scores


def _as_pair(group: Sequence[dict[str, str]], path: Path) -> Pair:
    ordered = sorted(group, key=lambda row: row["correct"], reverse=True)
    is_same = len({tuple(row.get(name) for name in _SHARED_COLUMNS) for row in group}) == 1
    if [row["correct"] for row in ordered] != ["1", "0"] or not is_same:
        names = ", ".join(row["filename"] for row in group)
        raise ValueError(
            f"{path}: {names} are not a pair of one correct and one incorrect utterance."
        )
    return ordered[0], ordered[1]


def _stem(row: Mapping[str, str]) -> str:
    return Path(row["filename"]).stem if row["filename"].endswith(".wav") else row["filename"]


def _kind(row: Mapping[str, str]) -> str:
    if not row.get("frequency"):
        return row.get("type", "")
    try:
        is_known = row["frequency"] != "oov" and float(row["frequency"]) > 0
    except ValueError:
        raise ValueError(
            f"The frequency of {row['filename']} is {row['frequency']!r}; expected a number."
        ) from None
    return "in_vocabulary" if is_known else "out_of_vocabulary"
