"""Does it say words? A recognizer's confidence in a continuation, against tokens in disorder."""

import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.segmentation import speech_turns
from keras_speechssm.evaluation.generate import read_benchmark
from keras_speechssm.evaluation.models.transcribers import OFFLINE_TRANSCRIBER, open_transcriber
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.presets import DEFAULT_PRESET
from keras_speechssm.shapes import SAMPLE_RATE, TOKEN_RATE


def shuffle_tokens(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The runs of equal tokens of int (time,) in disorder: the same sounds, no words."""
    edges = np.flatnonzero(np.diff(tokens)) + 1
    runs = np.split(tokens, edges)
    return np.concatenate([runs[place] for place in rng.permutation(len(runs))])


def confidence_report(confidences: dict[str, Sequence[float]]) -> dict[str, float]:
    """Shares of words that the recognizer is surer of than of the middle one of the shuffled.

    Args:
        confidences: of each word, by kind; `shuffled` is one of the kinds.

    Returns:
        for each other kind the share, `<kind>_above_shuffled`, words as sure as the middle one
        counting half (by chance 0.5); for all the number of words, `<kind>_words`, and their
        mean confidence, `<kind>_confidence`. Without a word share and confidence are 0.

    Raises:
        ValueError: the shuffled tokens gave no word, or all words are equally sure.
    """
    if not len(confidences["shuffled"]):
        raise ValueError("The recognizer heard no word in the shuffled tokens; give longer ones.")
    if len({value for values in confidences.values() for value in values}) == 1:
        raise ValueError("This recognizer is equally sure of all words; take pocketsphinx.")
    threshold = float(np.median(confidences["shuffled"]))
    report: dict[str, float] = {}
    for kind, values in confidences.items():
        if kind != "shuffled":
            marks = 0.5 * (np.sign(np.asarray(values) - threshold) + 1.0)
            share = marks.mean() if len(values) else 0.0
            report[f"{kind}_above_shuffled"] = float(share)
        report[f"{kind}_words"] = len(values)
        report[f"{kind}_confidence"] = float(np.mean(values)) if len(values) else 0.0
    return report


def evaluate_confidence(
    benchmark_folder: str | Path,
    *,
    preset: str = DEFAULT_PRESET,
    transcriber: str = OFFLINE_TRANSCRIBER,
    prompt_seconds: float = 10.0,
    seconds: float = 30.0,
    subset: int | None = 10,
    temperature: float = 1.0,
    seed: int = 0,
) -> dict[str, float]:
    """Words heard in continuations, in resynthesized truth, and in shuffled tokens.

    All three are spoken in the prompt's voice by the same pipeline: the tokens of the language
    model, those of the true continuation, and the first in disorder, run by run. Prompt and
    truth are tokenized together, so the prompt's last tokens have heard what follows.

    Args:
        benchmark_folder: recordings, each a prompt and its true continuation.
        preset: a pipeline preset.
        transcriber: `pocketsphinx`, offline; or a name or folder of a speech recognizer that
            `transformers` loads, such as `whisper-small.en`.
        prompt_seconds: length of the prompts.
        seconds: length of each continuation.
        subset: recordings at most, drawn once for all. Defaults to `10`.
        temperature: of the language model's samples.
        seed: of all samples.

    Returns:
        See `confidence_report`: of `continuation`, `truth` and `shuffled`.
    """
    check_at_least(1.0, prompt_seconds=prompt_seconds, seconds=seconds)
    check_at_least(0, temperature=temperature, seed=seed)
    items = read_benchmark(benchmark_folder, prompt_seconds, least_reference=seconds, subset=subset)
    speech, transcribe = SpeechContinuation.from_preset(preset), open_transcriber(transcriber)
    confidences: dict[str, list[float]] = {"continuation": [], "truth": [], "shuffled": []}
    for number, item in enumerate(items, start=1):
        print(f"{number} of {len(items)}: {item.name}", file=sys.stderr)
        recording = read_audio(item.audio, duration=prompt_seconds + seconds)
        own = (seed, zlib.crc32(item.name.encode()))
        try:
            spoken = _speak(speech, recording, prompt_seconds, temperature, own)
        except ValueError as error:
            raise ValueError(f"{item.audio}: {error}") from None
        for kind, waveform in spoken.items():
            # Recognizers make words of silence too, and sure ones.
            words = transcribe(waveform) if speech_turns(waveform) else []
            confidences[kind] += [word.confidence for word in words]
    return confidence_report(confidences)


def _speak(
    speech: SpeechContinuation,
    recording: np.ndarray,
    prompt_seconds: float,
    temperature: float,
    seeds: tuple[int, int],
) -> dict[str, np.ndarray]:
    """What is compared of one recording, as waveforms."""
    rng = np.random.default_rng(seeds)
    drawn = int(rng.integers(2**31))
    prompt = recording[: round(prompt_seconds * SAMPLE_RATE)]
    tokens, length = speech.tokenize(recording), round(prompt_seconds * TOKEN_RATE)
    generate: Callable = speech.speech_lm.generate
    made = generate(
        tokens[None, :length], len(tokens) - length, temperature=temperature, seed=drawn
    )
    said = {"continuation": np.asarray(made)[0], "truth": tokens[length:]}
    said["shuffled"] = shuffle_tokens(said["continuation"], rng)
    return {kind: speech.speak_tokens(t, prompt, seed=drawn) for kind, t in said.items()}
