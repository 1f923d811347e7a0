"""Choice of a checkpoint by the transcript perplexity of its generations.

The paper generates continuations with five checkpoints on a fixed subset of LibriSpeech-Long's
dev-clean and keeps the checkpoint with the lowest perplexity (section 5, appendix B.1). A faster
measure is `evaluate word-cover`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from keras_speechssm.audio.io import read_audio
from keras_speechssm.data.segmentation import speech_turns
from keras_speechssm.evaluation.generate import (
    DEFAULT_SAMPLING,
    SamplingOptions,
    check_times,
    generate_continuations,
    read_benchmark,
)
from keras_speechssm.evaluation.metrics.repetition import repeated_fraction
from keras_speechssm.evaluation.metrics.transcript_perplexity import transcript_perplexity
from keras_speechssm.evaluation.models.text_models import OFFLINE_TEXT_MODEL, load_text_model
from keras_speechssm.evaluation.models.transcribers import (
    DEFAULT_TRANSCRIBER,
    CachedTranscriber,
    load_transcriber,
)
from keras_speechssm.evaluation.models.transcript import plain_words, words_to_text
from keras_speechssm.files import write_json
from keras_speechssm.presets import DEFAULT_PRESET

logger = logging.getLogger(__name__)


def evaluate_checkpoints(
    checkpoints: Sequence[str | Path],
    benchmark_folder: str | Path,
    output_folder: str | Path,
    *,
    preset: str = DEFAULT_PRESET,
    prompt_seconds: float = 10.0,
    until_seconds: float = 240.0,
    subset: int | None = None,
    transcriber: str = DEFAULT_TRANSCRIBER,
    text_model: str = OFFLINE_TEXT_MODEL,
    sampling: SamplingOptions = DEFAULT_SAMPLING,
) -> dict:
    """Generate with each checkpoint and find the one with the lowest transcript perplexity.

    Checkpoints that are silent in more recordings than others are not chosen. An interrupted run
    resumes.

    Args:
        checkpoints: Presets of language models, such as `run/presets/*` of `speechssm train
            speech-lm --keep-presets-every`.
        benchmark_folder: Recordings to continue, such as `librispeech-long/dev-clean`.
        output_folder: Folder to write: the continuations of each checkpoint, and
            `selection.json`.
        preset: Pipeline preset that synthesizes.
        prompt_seconds: Length of the prompts.
        until_seconds: End of the continuations, from the start of the prompt.
        subset: Maximal number of recordings; all checkpoints continue the same ones.
        transcriber: Transcriber, as in `evaluate continuations`.
        text_model: Text model, as in `evaluate continuations`.
        sampling: How tokens are sampled; all checkpoints use the same seed.

    Returns:
        `best`, the path of the best checkpoint, and `checkpoints`, for each path its transcript
        perplexity and `repeated_4_grams`. Repetitive models have low perplexities: look at both.

    Raises:
        ValueError: No word was recognized for any checkpoint, or two have the same name.
    """
    names = [Path(checkpoint).name for checkpoint in checkpoints]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"Expected checkpoints with different names; got {', '.join(names) or 'none'}."
        )
    check_times(prompt_seconds, until_seconds)
    items = read_benchmark(benchmark_folder, prompt_seconds, subset=subset)
    output, found = Path(output_folder), {}
    transcribe = CachedTranscriber(load_transcriber(transcriber), output / "transcripts")
    scorer = load_text_model(text_model)
    for checkpoint, name in zip(checkpoints, names, strict=True):
        logger.info("Generating with %s.", name)
        generate_continuations(
            benchmark_folder,
            output / name,
            preset=preset,
            speech_lm=str(checkpoint),
            prompt_seconds=prompt_seconds,
            until_seconds=until_seconds,
            subset=subset,
            sampling=sampling,
        )
        audio = (read_audio(output / name / f"{item.name}.flac") for item in items)
        # Recognizers hear words in silence too.
        texts = [words_to_text(transcribe(w)) if speech_turns(w) else "" for w in audio]
        repeated = [repeated_fraction(plain_words(text)) for text in texts]
        found[str(checkpoint)] = {
            **transcript_perplexity(texts, scorer),
            "repeated_4_grams": sum(repeated) / len(repeated),
        }
    speaking = {path: entry for path, entry in found.items() if entry["num_units"]}
    if not speaking:
        raise ValueError("No word was recognized in the continuations of any checkpoint.")
    # A model with one fluent recording among silent ones is not the best.
    fewest = min(entry["num_empty"] for entry in speaking.values())
    speaking = {path: e for path, e in speaking.items() if e["num_empty"] == fewest}
    best = min(speaking, key=lambda path: speaking[path]["nll_nats_per_unit"])
    report = {"best": best, "checkpoints": found}
    write_json(output / "selection.json", report)
    return report
