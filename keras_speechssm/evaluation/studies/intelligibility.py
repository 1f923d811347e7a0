"""Whether words survive resynthesis: the word error of recordings before and after."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import MIN_PROMPT_SECONDS, read_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import find_audio, read_segments
from keras_speechssm.evaluation.metrics.edit_distance import edit_distance
from keras_speechssm.evaluation.models.transcribers import (
    OFFLINE_TRANSCRIBER,
    open_transcriber,
    plain_words,
)
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.presets import DEFAULT_PRESET

Excerpt = tuple[np.ndarray, str]
"""A waveform (samples,) and the words that are said in it."""


def word_errors(
    excerpts: Sequence[Excerpt], restore: Callable[[np.ndarray], np.ndarray], transcribe: Callable
) -> dict[str, float]:
    """Word error rates of excerpts, and of what `restore` makes of them.

    Args:
        excerpts: waveforms and their words.
        restore: what is judged, from waveform to waveform.
        transcribe: a `Transcriber`.

    Returns:
        `original` and `resynthesized`, edits for each word that was said, over all excerpts
        together; their `ratio` (NaN where the originals have none), `num_words` and
        `num_excerpts`.
    """
    edits = {"original": 0, "resynthesized": 0}
    num_words = 0
    for waveform, text in excerpts:
        said = plain_words(text)
        num_words += len(said)
        for name, heard in (("original", waveform), ("resynthesized", restore(waveform))):
            words = [plain for word in transcribe(heard) for plain in plain_words(word.text)]
            edits[name] += edit_distance(said, words)
    if not num_words:
        raise ValueError("No word is said in the excerpts; give transcribed recordings.")
    rates = {name: count / num_words for name, count in edits.items()}
    return {
        **rates,
        "ratio": rates["resynthesized"] / rates["original"] if rates["original"] else float("nan"),
        "num_words": num_words,
        "num_excerpts": len(excerpts),
    }


def evaluate_intelligibility(
    audio_folders: Sequence[str | Path],
    *,
    preset: str = DEFAULT_PRESET,
    transcriber: str = OFFLINE_TRANSCRIBER,
    name_contains: str = "",
    excerpt_seconds: float = 20.0,
    max_excerpts: int = 30,
    seed: int = 0,
) -> dict[str, float]:
    """Word error of transcribed recordings, and after the tokens and back in their own voice.

    An excerpt is a run of whole segments from the beginning of a recording; its first 3 s are
    the voice prompt.

    Args:
        audio_folders: folders of recordings with sidecars of what is said in them, as
            `speechssm prepare synthesized` writes them.
        preset: a pipeline preset.
        transcriber: `pocketsphinx`, offline; or a name or folder of a speech recognizer that
            `transformers` loads, such as `whisper-small.en`.
        name_contains: only recordings with this in their name, such as `flite`.
        excerpt_seconds: longest excerpt.
        max_excerpts: spread evenly over the recordings.
        seed: of SoundStorm's samples.

    Returns:
        See `word_errors`.
    """
    check_at_least(1, max_excerpts=max_excerpts, excerpt_seconds=excerpt_seconds)
    paths = [path for path in find_audio(audio_folders) if name_contains in path.stem]
    found = [(path, span) for path in paths if (span := _span(path, excerpt_seconds))]
    if not found:
        named = f" named *{name_contains}*" if name_contains else ""
        raise ValueError(
            f"No transcribed recording{named} begins with a segment of at most "
            f"{excerpt_seconds:g} s."
        )
    chosen = np.linspace(0, len(found) - 1, min(max_excerpts, len(found))).round().astype(int)
    excerpts = [
        (read_audio(path, start=start, duration=end - start), text)
        for path, (start, end, text) in (found[place] for place in chosen)
    ]
    transcribe = open_transcriber(transcriber)
    speech = SpeechContinuation.from_preset(preset)
    return word_errors(excerpts, lambda x: speech.resynthesize(x, seed=seed), transcribe)


def _span(path: Path, seconds: float) -> tuple[float, float, str] | None:
    """Start, end and words of the first segments that fit, or `None`.

    They end where the words are not known, and are long enough for a voice prompt.
    """
    segments = read_segments(path) or []
    fitting = list(
        itertools.takewhile(lambda s: s.text and s.end - segments[0].start <= seconds, segments)
    )
    if not fitting or fitting[-1].end - fitting[0].start < MIN_PROMPT_SECONDS:
        return None
    return fitting[0].start, fitting[-1].end, " ".join(segment.text for segment in fitting)
