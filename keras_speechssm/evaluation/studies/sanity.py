"""Sanity checks of the metrics: real speech against corrupted versions of itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.evaluation.compare import (
    DEFAULT_MODELS,
    EvaluationModelNames,
    EvaluationModels,
    measure_item,
)
from keras_speechssm.evaluation.generate import check_times
from keras_speechssm.evaluation.metrics.naturalness import minute_spans
from keras_speechssm.evaluation.metrics.side_by_side import judge_pairs, win_rates
from keras_speechssm.evaluation.models.judges import Judge, LikelihoodJudge
from keras_speechssm.evaluation.models.transcribers import Transcriber
from keras_speechssm.evaluation.models.transcript import Word
from keras_speechssm.evaluation.tables import markdown_table
from keras_speechssm.files import atomic_write
from keras_speechssm.shapes import SAMPLE_RATE

LESS_IS_BETTER = {
    "nll_nats_per_unit",
    "auto_bleu",
    "repeated_4_grams",
    "non_speech_fraction",
    "silence_fraction",
}

CAUGHT_BY = {
    "shuffled words": ("nll_nats_per_unit", "side_by_side"),
    "time-reversed": (
        "word_confidence",
        "nll_nats_per_unit",
        "semantic_similarity",
        "speaker_similarity",
    ),
    "another speaker": ("speaker_similarity", "semantic_similarity", "sc_l"),
    "looped": ("repeated_4_grams", "auto_bleu", "semantic_similarity"),
    "noise": ("non_speech_fraction", "n_mos_t", "num_words"),
    "silence": ("silence_fraction", "non_speech_fraction", "n_mos_t", "num_words"),
}
"""Corruptions, and the measures that should detect each."""


@dataclass(frozen=True)
class Reference:
    """Real speech of one person: a prompt and what follows it.

    Attributes:
        name: Name of the speaker.
        prompt: float (samples,).
        continuation: float (samples,).
    """

    name: str
    prompt: np.ndarray
    continuation: np.ndarray


def evaluate_sanity(
    speaker_folders: Sequence[str | Path],
    output_folder: str | Path,
    *,
    prompt_seconds: float = 10.0,
    seconds: float = 60.0,
    models: EvaluationModelNames = DEFAULT_MODELS,
    seed: int = 0,
) -> dict:
    """Check that each metric detects the corruptions of real speech that it should detect.

    Args:
        speaker_folders: Recordings of one speaker each, two or more.
        output_folder: Folder to write: `sanity.md`, the table, and the transcripts, so that a
            second run is fast.
        prompt_seconds: Length of the prompts.
        seconds: Seconds of speech from each folder, prompt included.
        models: Names of the models that measure.
        seed: Seed of shuffling and noise.

    Returns:
        For each corruption and measure `truth` and `corrupted`, the means, and `caught`, the
        fraction of speakers for whom the truth is better. Where nothing can be measured the mean
        is `None`, and the corruption counts as caught unless the truth cannot be measured either.
        `side_by_side` has win rates instead of means, by the likelihood judge.
    """
    check_times(prompt_seconds, seconds)
    if seconds < 2 * prompt_seconds:
        raise ValueError(
            f"seconds is {seconds:g}; expected at least twice the prompt's {prompt_seconds:g}."
        )
    speakers = read_speakers(speaker_folders, prompt_seconds, seconds)
    loaded = EvaluationModels.load(models, Path(output_folder) / "transcripts")
    truths = [_measure(speech, speech.continuation, loaded) for speech in speakers]
    report: dict = {"speakers": [speech.name for speech in speakers]}
    for kind, measures in CAUGHT_BY.items():
        corrupted = []
        for number, speech in enumerate(speakers):
            other = speakers[(number + 1) % len(speakers)]
            used = loaded
            if kind == "shuffled words":
                shuffled = _ShuffledWords(loaded.transcriber, speech.prompt, seed)
                used = replace(loaded, transcriber=shuffled)
            corrupted.append(_measure(speech, corrupt(kind, speech, other, seed), used))
        report[kind] = {
            name: _compare_texts(truths, corrupted, LikelihoodJudge(loaded.text_model))
            if name == "side_by_side"
            else _compare_numbers(name, truths, corrupted)
            for name in measures
        }
    with atomic_write(Path(output_folder) / "sanity.md") as temporary:
        temporary.write_text(sanity_table(report), encoding="utf-8")
    return report


def read_speakers(
    speaker_folders: Sequence[str | Path], prompt_seconds: float, seconds: float
) -> list[Reference]:
    """Read each folder's recordings one after another, up to `seconds`, as one person's speech.

    Args:
        speaker_folders: Recordings of one speaker each, two or more.
        prompt_seconds: Length of the prompts.
        seconds: Length of the speech, prompts included.

    Raises:
        ValueError: There are fewer than two folders, one is given twice, or one is too short.
    """
    if len({Path(folder).resolve() for folder in speaker_folders}) < max(2, len(speaker_folders)):
        raise ValueError("Expected the folders of at least two speakers, each once.")
    speakers = []
    for folder in speaker_folders:
        parts, length = [], 0
        for path in find_audio(folder):
            parts.append(read_audio(path))
            length += len(parts[-1])
            if length >= seconds * SAMPLE_RATE:
                break
        waveform = np.concatenate(parts)[: round(seconds * SAMPLE_RATE)]
        cut = round(prompt_seconds * SAMPLE_RATE)
        if len(waveform) < 2 * cut:
            raise ValueError(f"{folder} has less than {2 * prompt_seconds:g} s of speech.")
        speakers.append(Reference(Path(folder).name, waveform[:cut], waveform[cut:]))
    return speakers


def corrupt(kind: str, speech: Reference, other: Reference, seed: int = 0) -> np.ndarray:
    """Corrupt a true continuation in one way; the length is unchanged.

    Args:
        kind: One of `CAUGHT_BY`. The words of `shuffled words` are shuffled after transcription.
        speech: Real speech.
        other: Real speech of another speaker.
        seed: Seed of the noise. Defaults to `0`.
    """
    true = speech.continuation
    if kind == "time-reversed":
        return true[::-1].copy()
    if kind == "another speaker":
        return np.resize(other.continuation, len(true))
    if kind == "looped":
        return np.resize(true[: 5 * SAMPLE_RATE], len(true))
    if kind == "silence":
        return np.zeros_like(true)
    if kind == "noise":
        noise = np.random.default_rng(seed).standard_normal(len(true))
        return (noise * np.sqrt(np.mean(true**2))).astype("float32")
    return true


def sanity_table(report: dict) -> str:
    """Render the report of `evaluate_sanity` as a Markdown table."""
    rows = []
    for kind in CAUGHT_BY:
        for name, found in report[kind].items():
            numbers = [
                "-" if found[key] is None else f"{found[key]:.3g}" for key in ("truth", "corrupted")
            ]
            rows.append([kind, name, *numbers, f"{found['caught']:.0%}"])
    return markdown_table(["corruption", "measure", "truth", "corrupted", "caught"], rows)


class _ShuffledWords:
    """A transcriber that returns the words in random order, except for the prompt's."""

    def __init__(self, transcriber: Transcriber, prompt: np.ndarray, seed: int):
        self.name = f"{transcriber.name}, shuffled"
        self._transcriber = transcriber
        self._prompt = prompt
        self._seed = seed

    def __call__(self, waveform: np.ndarray) -> list[Word]:
        words = self._transcriber(waveform)
        if waveform is self._prompt:
            return words
        kept = 0  # of the prompt, if it is transcribed together with the continuation
        if np.array_equal(waveform[: len(self._prompt)], self._prompt):
            kept = sum(word.start < len(self._prompt) / SAMPLE_RATE for word in words)
        order = kept + np.random.default_rng(self._seed).permutation(len(words) - kept)
        places = [*range(kept), *order]
        return [
            replace(word, text=words[place].text) for word, place in zip(words, places, strict=True)
        ]


def _measure(speech: Reference, continuation: np.ndarray, models: EvaluationModels) -> dict:
    prompt_seconds = len(speech.prompt) / SAMPLE_RATE
    seconds = len(speech.continuation) / SAMPLE_RATE
    found = measure_item(
        speech.prompt,
        continuation,
        speech.continuation,
        models,
        minute_spans(speech.name, prompt_seconds, prompt_seconds + seconds),
        seconds,
        seconds,
    )
    minutes = found["over_time"]
    return {
        **found,
        "n_mos_t": _mean(found["n_mos_t"]),
        "sc_l": _mean(found["sc_l"]),
        **{
            name: float(np.mean([minute[name] for minute in minutes]))
            for name in ("silence_fraction", "non_speech_fraction")
        },
    }


def _compare_numbers(name: str, truths: Sequence[dict], corrupted: Sequence[dict]) -> dict:
    """Means of both, and how often the truth is better; what cannot be measured is worse."""
    sign = -1.0 if name in LESS_IS_BETTER else 1.0
    caught = [
        truth[name] is not None and (wrong[name] is None or sign * truth[name] > sign * wrong[name])
        for truth, wrong in zip(truths, corrupted, strict=True)
    ]
    return {
        "truth": _mean([truth[name] for truth in truths]),
        "corrupted": _mean([wrong[name] for wrong in corrupted]),
        "caught": float(np.mean(caught)),
    }


def _compare_texts(truths: Sequence[dict], corrupted: Sequence[dict], judge: Judge) -> dict:
    """Win rates of both, and how often the truth wins in both orders."""
    ours, theirs = ([found["joint_text"] for found in side] for side in (truths, corrupted))
    verdicts = judge_pairs(judge, ours, theirs)
    won = win_rates(verdicts)["win_rate"]
    caught = [all(verdict is not None and verdict > 0 for verdict in pair) for pair in verdicts]
    return {"truth": won, "corrupted": 100.0 - won, "caught": float(np.mean(caught))}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else None
