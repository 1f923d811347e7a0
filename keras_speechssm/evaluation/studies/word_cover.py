"""Word cover of a language model's tokens: words without audio and without a recognizer."""

import logging
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import PHONEMES
from keras_speechssm.evaluation.generate import read_benchmark
from keras_speechssm.evaluation.metrics.word_cover import (
    MIN_PHONEMES,
    mean_word_cover,
    shuffle_runs,
)
from keras_speechssm.evaluation.models.lexicon import COMMON_WORDS, Lexicon, load_lexicon
from keras_speechssm.models import SemanticTokenizer
from keras_speechssm.models.preset_mixin import load_part
from keras_speechssm.presets import DEFAULT_PRESET
from keras_speechssm.shapes import TOKEN_RATE

logger = logging.getLogger(__name__)


def evaluate_word_cover(
    benchmark_folder: str | Path,
    *,
    preset: str = DEFAULT_PRESET,
    speech_lms: Sequence[str] = (),
    prompt_seconds: float = 10.0,
    seconds: float = 30.0,
    subset: int | None = 8,
    lexicon: str = COMMON_WORDS,
    min_phonemes: int = MIN_PHONEMES,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> dict:
    """Measure which fraction of the generated phonemes is inside words of a lexicon.

    The tokenizer's phoneme head reads the tokens; nothing is synthesized, so this takes
    seconds. Use it to choose among checkpoints. The true continuations and the shuffled runs of
    the generated tokens show the scale: no model should exceed the former by much, and the
    latter have no words.

    Args:
        benchmark_folder: Recordings, each a prompt and its true continuation.
        preset: Tokenizer and language model; a pipeline preset.
        speech_lms: Presets of other language models over the same tokens, such as
            `run/presets/*`. Defaults to the pipeline's own.
        prompt_seconds: Length of the prompts.
        seconds: Length of each continuation.
        subset: Maximal number of recordings, drawn once for all. Defaults to `8`.
        lexicon: `common`, `stories`, or a text file with one word per line, optionally followed
            by its phonemes.
        min_phonemes: Shortest word that counts.
        temperature: Temperature of the language model's samples.
        top_k: Sample from the k most probable tokens only.
        top_p: Sample from the smallest set of tokens whose probabilities sum to `top_p`.
        seed: Seed of all samples.

    Returns:
        `truth`, and for each language model `continuation` and `shuffled`: each with `cover`
        and `phonemes_per_second`; `cover_of_truth` is the model's cover divided by the truth's.
    """
    check_at_least(1, prompt_seconds=prompt_seconds, seconds=seconds, min_phonemes=min_phonemes)
    check_at_least(0, temperature=temperature, seed=seed)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    words = load_lexicon(lexicon)
    items = read_benchmark(
        benchmark_folder, prompt_seconds, min_reference_seconds=seconds, subset=subset
    )
    tokenizer = SemanticTokenizer.from_preset(preset)
    prompt_tokens, num_tokens = round(prompt_seconds * TOKEN_RATE), round(seconds * TOKEN_RATE)
    recordings = [read_audio(item.audio, duration=prompt_seconds + seconds) for item in items]
    tokens = [tokenizer.tokenize(x)[: prompt_tokens + num_tokens] for x in recordings]
    report: dict = {"num_recordings": len(items)}
    for name in speech_lms or (preset,):
        logger.info("Measuring %s.", name)
        model = load_part(name, "speech_lm")
        report |= compare_word_cover(
            {name: model}, tokenizer, np.stack(tokens), prompt_tokens, words, min_phonemes, sampling
        )
    return report


def compare_word_cover(
    models: Mapping[str, Any],
    tokenizer: Any,
    tokens: np.ndarray,
    prompt_tokens: int,
    lexicon: Lexicon,
    min_phonemes: int = MIN_PHONEMES,
    sampling: Mapping[str, Any] | None = None,
) -> dict:
    """Compare the word cover of language models with the truth and with shuffled tokens.

    Args:
        models: Language models by name.
        tokenizer: Their `SemanticTokenizer`, trained with phonemes.
        tokens: int (batch, time), recordings of equal length.
        prompt_tokens: Tokens of each recording that are the prompt.
        lexicon: Pronunciations, from `load_lexicon`.
        min_phonemes: Shortest word that counts. Defaults to `4`.
        sampling: Arguments of `generate`: `temperature`, `top_k`, `top_p`, `seed`. Defaults to
            `None`: those of `generate`, and seed 0.

    Returns:
        See `evaluate_word_cover`.
    """
    sampling = {"seed": 0, **(sampling or {})}

    def measure(rows: np.ndarray) -> dict[str, float]:
        phonemes = read_phonemes(tokenizer, rows)
        return {
            "cover": mean_word_cover(phonemes, lexicon, min_phonemes),
            "phonemes_per_second": sum(map(len, phonemes)) / (rows.size / TOKEN_RATE),
        }

    prompts, truth = tokens[:, :prompt_tokens], tokens[:, prompt_tokens:]
    report: dict = {"truth": measure(truth)}
    for name, model in models.items():
        generated = np.asarray(model.generate(prompts, truth.shape[1], **sampling))
        rng = np.random.default_rng((sampling["seed"], zlib.crc32(b"shuffled")))
        shuffled = np.stack([shuffle_runs(row, rng) for row in generated])
        found: dict = {"continuation": measure(generated), "shuffled": measure(shuffled)}
        cover = report["truth"]["cover"]
        found["cover_of_truth"] = found["continuation"]["cover"] / cover if cover else float("nan")
        report[name] = found
    return report


def read_phonemes(tokenizer: SemanticTokenizer, tokens: np.ndarray) -> list[list[str]]:
    """Read tokens with the tokenizer's phoneme head.

    Args:
        tokenizer: A tokenizer that was trained with phonemes.
        tokens: int (batch, time).

    Returns:
        The names of the phonemes of each row, by greedy CTC decoding.
    """
    if tokenizer.labels is not None:
        raise ValueError("The tokenizer was trained with text; word cover needs phonemes.")
    return [[PHONEMES[number - 1] for number in row] for row in tokenizer.phonemes(tokens)]
