"""sWUGGY, sBLIMP and StoryCloze: does a model find the right one of two utterances likelier?

Files are ZeroSpeech 2021's: a submission has lines `<stem> <score>`; `gold.csv` has the columns
`id, filename, voice, correct` and, lexical, `frequency, word, phones, length`, or, syntactic,
`type, subtype, transcription`. StoryCloze takes a `gold.csv` of the first four.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.evaluation.listening_test import read_table
from keras_speechssm.files import atomic_write
from keras_speechssm.models.preset_mixin import load_part
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.presets import DEFAULT_PRESET

_SHARED = ("id", "voice", "type", "subtype")

TASKS = ("lexical", "syntactic", "storycloze")


def pair_score(correct: float, incorrect: float) -> float:
    """1 if the correct one scores higher, 0.5 for a tie, 0 otherwise (NaN: 0)."""
    if math.isnan(correct) or math.isnan(incorrect):
        return 0.0
    return 0.5 if correct == incorrect else float(correct > incorrect)


def read_gold(path: str | Path, task: str) -> list[tuple[dict, dict]]:
    """Pairs of a correct and an incorrect utterance, as rows of `gold.csv`.

    Lexical and StoryCloze pairs share `id` and `voice`. Of the syntactic ones the first correct
    row goes with the first incorrect one and so on, as in the official script: their order
    matters.

    Raises:
        ValueError: columns are missing, or a pair is none.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; expected one of {', '.join(TASKS)}.")
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give the benchmark's gold.csv.")
    columns, rows = read_table(path)
    missing = {"id", "filename", "voice", "correct"} - columns
    if missing or not rows:
        lack = f"lacks the columns {sorted(missing)}" if missing else "has no rows"
        raise ValueError(f"{path} {lack}; expected ZeroSpeech's gold.csv.")
    if odd := [row for row in rows if row["correct"] not in ("0", "1")]:
        raise ValueError(f"{path}: correct is {odd[0]['correct']!r}; expected 1 or 0.")
    if task == "syntactic":
        right, wrong = ([row for row in rows if row["correct"] == mark] for mark in "10")
        if len(right) != len(wrong):
            raise ValueError(f"{path} has {len(right)} correct and {len(wrong)} incorrect rows.")
        groups = list(zip(right, wrong, strict=True))
    else:
        by_key = defaultdict(list)
        for row in rows:
            by_key[row["id"], row["voice"]].append(row)
        groups = list(by_key.values())
    return [_as_pair(group, path) for group in groups]


def _as_pair(group: Sequence[dict], path: Path) -> tuple[dict, dict]:
    ordered = sorted(group, key=lambda row: row["correct"], reverse=True)
    same = len({tuple(row.get(name) for name in _SHARED) for row in group}) == 1
    if [row["correct"] for row in ordered] != ["1", "0"] or not same:
        names = ", ".join(row["filename"] for row in group)
        raise ValueError(f"{path}: {names} is no pair of one correct and one incorrect utterance.")
    return ordered[0], ordered[1]


def read_scores(path: str | Path) -> dict[str, float]:
    """Scores of a submission by file stem.

    Raises:
        ValueError: a line is no `<stem> <score>`, or a stem has two.
    """
    scores: dict[str, float] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            stem, score = line.split()
            score = float(score)
        except ValueError:
            raise ValueError(f"{path}, line {number}: expected `<stem> <score>`.") from None
        if stem in scores:
            raise ValueError(f"{path}, line {number}: {stem} has another score already.")
        scores[stem] = score
    return scores


def contrast_accuracy(
    pairs: Sequence[tuple[dict, dict]], scores: dict[str, float]
) -> dict[str, float | dict[str, float]]:
    """How often the correct utterance is likelier: mean over voices, then over contrasts.

    A contrast is an `id`, of a `type` and `subtype` where there are such.

    Args:
        pairs: from `read_gold`.
        scores: by file stem; from `read_scores`.

    Returns:
        dict of `accuracy`, 0 .. 1 (chance 0.5), `num_pairs`, and, where gold tells,
        `in_vocabulary` and `out_of_vocabulary` (words of frequency 0) or `by_type`.

    Raises:
        ValueError: a score is missing.
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
    shares = {kind: float(np.mean(values)) for kind, values in sorted(groups.items()) if kind}
    if {"in_vocabulary", "out_of_vocabulary"} & set(shares):
        return {**report, **shares}
    return {**report, "by_type": shares} if shares else report


def _stem(row: dict) -> str:
    return Path(row["filename"]).stem if row["filename"].endswith(".wav") else row["filename"]


def _kind(row: dict) -> str:
    if row.get("frequency"):
        try:
            known = row["frequency"] != "oov" and float(row["frequency"]) > 0
        except ValueError:
            raise ValueError(
                f"The frequency of {row['filename']} is {row['frequency']!r}, no number."
            ) from None
        return "in_vocabulary" if known else "out_of_vocabulary"
    return row.get("type", "")


def score_recordings(
    audio_folder: str | Path, score_tokens: Callable, tokenize: Callable, output: str | Path
) -> dict[str, float]:
    """Scores every recording of a folder and writes a submission, whole or not at all.

    Args:
        audio_folder: the benchmark's recordings.
        score_tokens: function from int (1, time) to its log-likelihood.
        tokenize: function from a waveform to its semantic tokens.
        output: file to write.
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


def evaluate_zero_speech(
    gold_file: str | Path,
    task: str,
    *,
    submission_file: str | Path,
    audio_folder: str | Path | None = None,
    preset: str = DEFAULT_PRESET,
    speech_lm: str | None = None,
) -> dict:
    """sWUGGY, sBLIMP or StoryCloze of a model, or of another system's submission.

    Args:
        gold_file: the benchmark's `gold.csv`.
        task: `lexical` (sWUGGY), `syntactic` (sBLIMP) or `storycloze`.
        submission_file: lines `<stem> <score>`; written first where `audio_folder` is given.
        audio_folder: the recordings, to be scored by a model: the log-likelihood of the
            semantic tokens, not divided by their number, as the paper ranks.
        preset: pipeline whose tokenizer and language model score.
        speech_lm: preset of another language model over the same tokens.

    Returns:
        `contrast_accuracy` of it.
    """
    pairs = read_gold(gold_file, task)
    if audio_folder is not None:
        known = {path.stem for path in find_audio(audio_folder)}
        if lacking := [r["filename"] for pair in pairs for r in pair if _stem(r) not in known]:
            raise ValueError(
                f"{audio_folder} lacks {len(lacking)} recordings of {gold_file}, such as "
                f"{lacking[0]!r}."
            )
        model = load_part(preset if speech_lm is None else speech_lm, "speech_lm")
        tokenizer = SemanticTokenizer.from_preset(preset)
        score_recordings(audio_folder, model.score, tokenizer.tokenize, submission_file)
    return contrast_accuracy(pairs, read_scores(submission_file))
