"""Intelligibility of resynthesis: word errors of recordings before and after."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import MIN_PROMPT_SECONDS, read_audio, to_mono_16khz
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import find_audio, read_segments
from keras_speechssm.evaluation.metrics.word_error import error_rate, normalize_words
from keras_speechssm.evaluation.models.transcribers import (
    DEFAULT_TRANSCRIBER,
    Transcriber,
    load_transcriber,
)
from keras_speechssm.evaluation.models.transcript import words_to_text
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.presets import DEFAULT_PRESET

Excerpt = tuple[np.ndarray, str]
"""A waveform (samples,) and its words."""


def evaluate_intelligibility(
    audio_folders: Sequence[str | Path],
    *,
    preset: str = DEFAULT_PRESET,
    transcriber: str = DEFAULT_TRANSCRIBER,
    name_contains: str = "",
    excerpt_seconds: float = 20.0,
    max_excerpts: int = 30,
    seed: int = 0,
) -> dict[str, float]:
    """Measure the word errors of transcribed recordings before and after resynthesis.

    An excerpt is a run of whole segments from the beginning of a recording. The recording's own
    first 3 s are the voice prompt.

    Args:
        audio_folders: Folders of recordings with their words in sidecar files, from `speechssm
            prepare synthesized` or `speechssm prepare transcribed`.
        preset: Pipeline preset.
        transcriber: Transcriber, as in `evaluate continuations`.
        name_contains: Use only recordings with this text in their names, such as `flite`.
        excerpt_seconds: Longest excerpt.
        max_excerpts: Maximal number of excerpts, spread evenly over the recordings.
        seed: Seed of SoundStorm's samples.

    Returns:
        See `compare_word_errors`.
    """
    check_at_least(1, max_excerpts=max_excerpts, excerpt_seconds=excerpt_seconds)
    paths = [path for path in find_audio(audio_folders) if name_contains in path.stem]
    found = [(path, span) for path in paths if (span := _span(path, excerpt_seconds))]
    if not found:
        named = f" with {name_contains!r} in its name" if name_contains else ""
        raise ValueError(
            f"No transcribed recording{named} begins with a segment of at most "
            f"{excerpt_seconds:g} s."
        )
    chosen = np.linspace(0, len(found) - 1, min(max_excerpts, len(found))).round().astype(int)
    excerpts = [
        (read_audio(path, start=start, duration=end - start), text)
        for path, (start, end, text) in (found[place] for place in chosen)
    ]
    transcribe = load_transcriber(transcriber)
    speech = SpeechContinuation.from_preset(preset)

    def restore(waveform: np.ndarray) -> np.ndarray:
        return to_mono_16khz(speech.resynthesize(waveform, seed=seed), speech.sample_rate)

    return compare_word_errors(excerpts, restore, transcribe)


def compare_word_errors(
    excerpts: Sequence[Excerpt],
    restore: Callable[[np.ndarray], np.ndarray],
    transcribe: Transcriber,
) -> dict[str, float]:
    """Compare the word error rates of excerpts before and after `restore`.

    Args:
        excerpts: Waveforms and their words.
        restore: Function from waveform to waveform that is judged.
        transcribe: Transcriber.

    Returns:
        `original` and `resynthesized`, edits per true word over all excerpts together; `ratio`,
        the latter divided by the former (NaN if the originals have no errors); `num_words` and
        `num_excerpts`.

    Raises:
        ValueError: The excerpts have no words.
    """
    truth = [normalize_words(text) for _, text in excerpts]
    if not sum(map(len, truth)):
        raise ValueError("The excerpts have no words; use transcribed recordings.")
    recognized: dict[str, list] = {"original": [], "resynthesized": []}
    for waveform, _ in excerpts:
        for kind, audio in (("original", waveform), ("resynthesized", restore(waveform))):
            recognized[kind].append(normalize_words(words_to_text(transcribe(audio))))
    rates = {kind: error_rate(truth, texts) for kind, texts in recognized.items()}
    return {
        **rates,
        "ratio": rates["resynthesized"] / rates["original"] if rates["original"] else float("nan"),
        "num_words": sum(map(len, truth)),
        "num_excerpts": len(excerpts),
    }


def _span(path: Path, seconds: float) -> tuple[float, float, str] | None:
    """Start, end and words of the first segments that fit, or `None`.

    The span ends where words are unknown, and is long enough for a voice prompt.
    """
    segments = read_segments(path) or []
    fitting = list(
        itertools.takewhile(lambda s: s.text and s.end - segments[0].start <= seconds, segments)
    )
    if not fitting or fitting[-1].end - fitting[0].start < MIN_PROMPT_SECONDS:
        return None
    return fitting[0].start, fitting[-1].end, " ".join(segment.text for segment in fitting)
