"""Which checkpoint to keep: the one whose generations read best (paper, section 5, appendix B.1).

The paper generates continuations with five checkpoints on a fixed subset of LibriSpeech-Long's
dev-clean and takes the one of the least transcript perplexity.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from keras_speechssm.audio.io import read_audio
from keras_speechssm.data.segmentation import speech_turns
from keras_speechssm.evaluation.generate import check_times, generate_continuations, read_benchmark
from keras_speechssm.evaluation.metrics.repetition import repeated_fraction
from keras_speechssm.evaluation.metrics.transcript_perplexity import transcript_perplexity
from keras_speechssm.evaluation.models.text_models import OFFLINE_TEXT_MODEL, open_text_model
from keras_speechssm.evaluation.models.transcribers import (
    OFFLINE_TRANSCRIBER,
    TranscriptStore,
    open_transcriber,
    plain_words,
    words_to_text,
)
from keras_speechssm.files import write_json
from keras_speechssm.presets import DEFAULT_PRESET


def evaluate_checkpoints(
    checkpoints: Sequence[str | Path],
    benchmark_folder: str | Path,
    output_folder: str | Path,
    *,
    preset: str = DEFAULT_PRESET,
    prompt_seconds: float = 10.0,
    until_seconds: float = 240.0,
    subset: int | None = None,
    transcriber: str = OFFLINE_TRANSCRIBER,
    text_model: str = OFFLINE_TEXT_MODEL,
    seed: int = 0,
) -> dict:
    """Generates with each checkpoint and finds the one of the least transcript perplexity.

    Those that fall silent in more recordings than others are not taken. Run again, it goes
    on where it was.

    Args:
        checkpoints: presets of language models, such as `run/presets/*` of `speechssm train
            speech-lm --keep-presets-every`.
        benchmark_folder: recordings to continue, such as `librispeech-long/dev-clean`.
        output_folder: gets a folder of continuations for each, and `selection.json`.
        preset: pipeline that speaks.
        prompt_seconds, until_seconds, subset, seed: as `speechssm evaluate generate` takes them;
            all checkpoints continue the same recordings with the same seeds.
        transcriber, text_model: as `speechssm evaluate continuations` takes them.

    Returns:
        `{"best": path, "checkpoints": {path: transcript_perplexity's, and
        "repeated_4_grams"}}`. A model that repeats itself reads well, so look at both.

    Raises:
        ValueError: no checkpoint said a word.
    """
    names = [Path(checkpoint).name for checkpoint in checkpoints]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Give checkpoints of different names; got {', '.join(names) or 'none'}.")
    check_times(prompt_seconds, until_seconds)
    items = read_benchmark(benchmark_folder, prompt_seconds, subset=subset)
    output, found = Path(output_folder), {}
    transcribe = TranscriptStore(open_transcriber(transcriber), output / "transcripts")
    judge = open_text_model(text_model)
    for checkpoint, name in zip(checkpoints, names, strict=True):
        print(f"{name}:", file=sys.stderr)
        generate_continuations(
            benchmark_folder,
            output / name,
            preset=preset,
            speech_lm=str(checkpoint),
            prompt_seconds=prompt_seconds,
            until_seconds=until_seconds,
            subset=subset,
            seed=seed,
        )
        audio = (read_audio(output / name / f"{item.name}.flac") for item in items)
        # Recognizers make words of silence too: only who is heard has said something.
        texts = [words_to_text(transcribe(w)) if speech_turns(w) else "" for w in audio]
        repeated = [repeated_fraction(plain_words(text)) for text in texts]
        found[str(checkpoint)] = {
            **transcript_perplexity(texts, judge),
            "repeated_4_grams": sum(repeated) / len(repeated),
        }
    speaking = {path: entry for path, entry in found.items() if entry["num_units"]}
    if not speaking:
        raise ValueError("No word was recognized in any checkpoint's continuations.")
    # One fluent recording among silent ones is no model to keep.
    fewest = min(entry["num_empty"] for entry in speaking.values())
    speaking = {path: e for path, e in speaking.items() if e["num_empty"] == fewest}
    best = min(speaking, key=lambda path: speaking[path]["nll_nats_per_unit"])
    report = {"best": best, "checkpoints": found}
    write_json(output / "selection.json", report)
    return report
