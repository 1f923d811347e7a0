"""Confidence of a recognizer in a continuation's words, against tokens in random order."""

import logging
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio, to_mono_16khz
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.segmentation import speech_turns
from keras_speechssm.evaluation.generate import (
    DEFAULT_SAMPLING,
    SamplingOptions,
    read_benchmark,
)
from keras_speechssm.evaluation.metrics.word_cover import shuffle_runs
from keras_speechssm.evaluation.models.transcribers import DEFAULT_TRANSCRIBER, load_transcriber
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.presets import DEFAULT_PRESET
from keras_speechssm.shapes import SAMPLE_RATE, TOKEN_RATE

logger = logging.getLogger(__name__)


def evaluate_confidence(
    benchmark_folder: str | Path,
    *,
    preset: str = DEFAULT_PRESET,
    transcriber: str = DEFAULT_TRANSCRIBER,
    prompt_seconds: float = 10.0,
    seconds: float = 30.0,
    subset: int | None = 10,
    sampling: SamplingOptions = DEFAULT_SAMPLING,
) -> dict[str, float]:
    """Measure how confident a recognizer is in continuations, true speech and shuffled tokens.

    The same pipeline synthesizes all three in the prompt's voice: the tokens of the language
    model, those of the true continuation, and the former with their runs shuffled. Prompt and
    truth are tokenized together, so the last tokens of the prompt depend on what follows.

    Args:
        benchmark_folder: Recordings, each a prompt and its true continuation.
        preset: Pipeline preset.
        transcriber: A transcriber that reports confidence, such as `moonshine-tiny`,
            `whisper-base` or `pocketsphinx`.
        prompt_seconds: Length of the prompts.
        seconds: Length of each continuation.
        subset: Maximal number of recordings. Defaults to `10`.
        sampling: How tokens are sampled. Defaults to the preset's sampling with seed 0.

    Returns:
        See `confidence_report`, for the kinds `continuation`, `truth` and `shuffled`.
    """
    check_at_least(1.0, prompt_seconds=prompt_seconds, seconds=seconds)
    items = read_benchmark(
        benchmark_folder, prompt_seconds, min_reference_seconds=seconds, subset=subset
    )
    speech, transcribe = SpeechContinuation.from_preset(preset), load_transcriber(transcriber)
    options = sampling.resolve(speech)
    confidences: dict[str, list[float]] = {"continuation": [], "truth": [], "shuffled": []}
    for number, item in enumerate(items, start=1):
        logger.info("%d of %d: %s", number, len(items), item.name)
        recording = read_audio(item.audio, duration=prompt_seconds + seconds)
        rng = np.random.default_rng((sampling.seed, zlib.crc32(item.name.encode())))
        try:
            spoken = _synthesize(speech, recording, prompt_seconds, options, rng)
        except ValueError as error:
            raise ValueError(f"{item.audio}: {error}") from None
        for kind, waveform in spoken.items():
            # Recognizers hear words in silence too, with high confidence.
            words = transcribe(waveform) if speech_turns(waveform) else []
            confidences[kind] += [word.confidence for word in words]
    return confidence_report(confidences)


def confidence_report(confidences: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Compute the fraction of words with more confidence than the median shuffled word.

    Args:
        confidences: Confidence of each word, by kind; `shuffled` is one of the kinds.

    Returns:
        For each other kind `<kind>_above_shuffled`, the fraction (0.5 by chance; words as
        confident as the median count half); for all kinds `<kind>_words`, the number of words,
        and `<kind>_confidence`, their mean confidence. Without words, both are 0.

    Raises:
        ValueError: The shuffled tokens have no words, or all words are equally confident.
    """
    if not len(confidences["shuffled"]):
        raise ValueError("No word was recognized in the shuffled tokens; use longer recordings.")
    if len({value for values in confidences.values() for value in values}) == 1:
        raise ValueError(
            "This transcriber reports the same confidence for all words; use moonshine-tiny."
        )
    threshold = float(np.median(confidences["shuffled"]))
    report: dict[str, float] = {}
    for kind, values in confidences.items():
        if kind != "shuffled":
            marks = 0.5 * (np.sign(np.asarray(values) - threshold) + 1.0)
            report[f"{kind}_above_shuffled"] = float(marks.mean()) if len(values) else 0.0
        report[f"{kind}_words"] = len(values)
        report[f"{kind}_confidence"] = float(np.mean(values)) if len(values) else 0.0
    return report


def _synthesize(
    speech: SpeechContinuation,
    recording: np.ndarray,
    prompt_seconds: float,
    sampling: Mapping[str, float | None],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Waveforms of a continuation, the true continuation, and shuffled tokens."""
    seed = int(rng.integers(2**31))
    prompt = recording[: round(prompt_seconds * SAMPLE_RATE)]
    tokens, length = speech.tokenize(recording), round(prompt_seconds * TOKEN_RATE)
    generated = speech.speech_lm.generate(
        tokens[None, :length], len(tokens) - length, seed=seed, **sampling
    )
    said = {"continuation": np.asarray(generated)[0], "truth": tokens[length:]}
    said["shuffled"] = shuffle_runs(said["continuation"], rng)
    return {
        kind: to_mono_16khz(speech.speak_tokens(t, prompt, seed=seed), speech.sample_rate)
        for kind, t in said.items()
    }
