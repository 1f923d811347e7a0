"""Whether each measure sees what it is meant to see: real speech against its own ruins."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.evaluation.compare import (
    EvaluationModels,
    load_evaluation_models,
    measure_item,
)
from keras_speechssm.evaluation.generate import check_times
from keras_speechssm.evaluation.metrics.side_by_side import Judge, judge_pairs, win_rates
from keras_speechssm.evaluation.models.judges import LikelihoodJudge
from keras_speechssm.evaluation.models.mean_opinion_score import minute_spans
from keras_speechssm.evaluation.models.sentence_embedders import OFFLINE_EMBEDDER
from keras_speechssm.evaluation.models.text_models import OFFLINE_TEXT_MODEL
from keras_speechssm.evaluation.models.transcribers import OFFLINE_TRANSCRIBER, Word
from keras_speechssm.evaluation.report import markdown_table
from keras_speechssm.files import atomic_write
from keras_speechssm.shapes import SAMPLE_RATE

LESS_IS_BETTER = {
    "nll_nats_per_unit",
    "auto_bleu",
    "repeated_4_grams",
    "non_speech_share",
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
    "noise": ("non_speech_share", "n_mos_t", "num_words"),
    "silence": ("silence_fraction", "non_speech_share", "n_mos_t", "num_words"),
}
"""Ruins, and the measures that are meant to catch each, or might be thought to."""

_SHOWN = ("truth", "ruined")


@dataclass(frozen=True)
class Reference:
    """What one person says: a prompt and what follows, float (samples,)."""

    name: str
    prompt: np.ndarray
    continuation: np.ndarray


def read_speakers(
    speaker_folders: Sequence[str | Path], prompt_seconds: float, seconds: float
) -> list[Reference]:
    """Each folder's recordings in a row, up to `seconds`, as one person's speech."""
    if len({Path(folder).resolve() for folder in speaker_folders}) < max(2, len(speaker_folders)):
        raise ValueError("Give the folders of at least two speakers, each once.")
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
            raise ValueError(f"{folder} holds less than {2 * prompt_seconds:g} s of speech.")
        speakers.append(Reference(Path(folder).name, waveform[:cut], waveform[cut:]))
    return speakers


def corrupt(kind: str, speech: Reference, other: Reference, seed: int = 0) -> np.ndarray:
    """A continuation that is wrong in one way, as long as the true one."""
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


class _ShuffledWords:
    """A transcriber that tells the words in another order."""

    def __init__(self, transcriber, keep: np.ndarray, seed: int):
        self.name = f"{transcriber.name}, shuffled"
        self._transcriber = transcriber
        self._keep = keep  # the prompt, whose words stay
        self._seed = seed

    def __call__(self, waveform: np.ndarray) -> list[Word]:
        words = self._transcriber(waveform)
        if waveform is self._keep:
            return words
        order = np.random.default_rng(self._seed).permutation(len(words))
        return [
            Word(words[place].text, word.start, word.end, word.confidence)
            for word, place in zip(words, order, strict=True)
        ]


def evaluate_sanity(
    speaker_folders: Sequence[str | Path],
    output_folder: str | Path,
    *,
    prompt_seconds: float = 10.0,
    seconds: float = 60.0,
    transcriber: str = OFFLINE_TRANSCRIBER,
    text_model: str = OFFLINE_TEXT_MODEL,
    embedder: str = OFFLINE_EMBEDDER,
    seed: int = 0,
) -> dict:
    """Measures real speech and its ruins: each measure must see what it is meant to see.

    Args:
        speaker_folders: recordings of one speaker each, two or more.
        output_folder: gets `sanity.md`, the table; keeps the transcripts, so that a second run
            is quick.
        prompt_seconds: length of the prompts.
        seconds: of speech from each folder, prompt included.
        transcriber, text_model, embedder: as `speechssm evaluate continuations` takes them.
        seed: of shuffling and noise.

    Returns:
        for each ruin and measure `{"truth": mean, "ruined": mean, "caught": share of the
        speakers for whom the truth is better}`; `null` where nothing can be measured: a ruin
        is then caught, unless the truth could not be measured either. `side_by_side` has win
        rates for means, by the likelihood judge.
    """
    check_times(prompt_seconds, seconds)
    if seconds < 2 * prompt_seconds:
        raise ValueError(f"seconds is {seconds:g}; expected twice the prompt's or more.")
    speakers = read_speakers(speaker_folders, prompt_seconds, seconds)
    transcripts = Path(output_folder) / "transcripts"
    instruments = load_evaluation_models(transcripts, transcriber, text_model, embedder)
    truths = [_measure(speech, speech.continuation, instruments) for speech in speakers]
    report: dict = {"speakers": [speech.name for speech in speakers]}
    for kind, measures in CAUGHT_BY.items():
        ruined = []
        for number, speech in enumerate(speakers):
            other = speakers[(number + 1) % len(speakers)]
            judged = instruments
            if kind == "shuffled words":
                heard = _ShuffledWords(instruments.transcriber, speech.prompt, seed)
                judged = replace(instruments, transcriber=heard)
            waveform = corrupt(kind, speech, other, seed)
            ruined.append(_measure(speech, waveform, judged))
        report[kind] = {
            name: _games(truths, ruined, LikelihoodJudge(instruments.text_model))
            if name == "side_by_side"
            else _verdict(name, truths, ruined)
            for name in measures
        }
    with atomic_write(Path(output_folder) / "sanity.md") as temporary:
        temporary.write_text(sanity_table(report), encoding="utf-8")
    return report


def sanity_table(report: dict) -> str:
    """The report of `evaluate_sanity` as a table in Markdown."""
    rows = []
    for kind in CAUGHT_BY:
        for name, found in report[kind].items():
            numbers = ["-" if found[key] is None else f"{found[key]:.3g}" for key in _SHOWN]
            rows.append([kind, name, *numbers, f"{found['caught']:.0%}"])
    return markdown_table(["ruin", "measure", "truth", "ruined", "caught"], rows)


def _measure(speech: Reference, continuation: np.ndarray, instruments: EvaluationModels) -> dict:
    prompt_seconds = len(speech.prompt) / SAMPLE_RATE
    seconds = len(speech.continuation) / SAMPLE_RATE
    found = measure_item(
        speech.prompt,
        continuation,
        speech.continuation,
        instruments,
        minute_spans(speech.name, prompt_seconds, prompt_seconds + seconds),
        seconds,
        seconds,
    )
    minutes = found["over_time"]
    return {
        **found,
        "n_mos_t": _mean(found["n_mos_t"]),
        "sc_l": _mean(found["sc_l"]),
        "silence_fraction": float(np.mean([minute["silence_fraction"] for minute in minutes])),
        "non_speech_share": float(np.mean([minute["non_speech_share"] for minute in minutes])),
    }


def _verdict(name: str, truths: Sequence[dict], ruined: Sequence[dict]) -> dict:
    """Means of both, and how often the truth is better; what cannot be measured is worse."""
    sign = -1.0 if name in LESS_IS_BETTER else 1.0
    caught = [
        truth[name] is not None and (wrong[name] is None or sign * truth[name] > sign * wrong[name])
        for truth, wrong in zip(truths, ruined, strict=True)
    ]
    return {
        "truth": _mean([truth[name] for truth in truths]),
        "ruined": _mean([wrong[name] for wrong in ruined]),
        "caught": float(np.mean(caught)),
    }


def _games(truths: Sequence[dict], ruined: Sequence[dict], judge: Judge) -> dict:
    """The truth's and the ruin's win rates, and how often the truth wins both games."""
    texts = [[found["text"] for found in side] for side in (truths, ruined)]
    games = judge_pairs(judge, *texts, prompts=[found["prompt_text"] for found in truths])
    won = win_rates(games)["win_rate"]
    caught = [min(pair) > 0 for pair in games]
    return {"truth": won, "ruined": 100.0 - won, "caught": float(np.mean(caught))}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else None
