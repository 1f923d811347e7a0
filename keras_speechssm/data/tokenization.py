"""Recordings -> files of semantic tokens, one by one, or as a folder to train on."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from keras_speechssm.audio import read_audio
from keras_speechssm.data.corpora import name_recordings
from keras_speechssm.data.token_store import (
    MANIFEST,
    finish_token_folder,
    read_manifest,
    write_tokens,
)
from keras_speechssm.preset_registry import DEFAULT_PRESET
from keras_speechssm.semantic import SemanticTokenizer
from keras_speechssm.shapes import SAMPLE_RATE, SAMPLES_PER_TOKEN
from keras_speechssm.whole_files import check_kept_options, keep_options


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def tokenize_file(
    audio_path: str | Path, output_path: str | Path, preset: str = DEFAULT_PRESET
) -> int:
    """Writes the semantic tokens of one recording as a `.npy` file.

    Args:
        audio_path: the recording.
        output_path: ends in `.npy`; appears whole or not at all.
        preset: of a `SemanticTokenizer` or a pipeline.

    Returns:
        The number of tokens, 25 for each second.

    Raises:
        ValueError: the recording, the output's name or the preset cannot be used.
    """
    output_path = Path(output_path)
    if output_path.suffix != ".npy":
        raise ValueError(f"Cannot write tokens to {output_path}: the name must end in .npy.")
    waveform = read_audio(audio_path)
    tokens = SemanticTokenizer.from_preset(preset).tokenize(waveform)
    write_tokens(output_path, tokens)
    return len(tokens)


def tokenize_recordings(
    audio: Sequence[str | Path],
    output_folder: str | Path,
    preset: str = DEFAULT_PRESET,
    progress: Callable[[str], None] | None = _to_stderr,
) -> int:
    """Writes a folder of tokens, as `keras_speechssm.data.token_store` describes it.

    Run again after an interrupt, it goes on with the recordings that are missing.

    Args:
        audio: folders of recordings, or recordings. Below a single folder the paths are
            mirrored; of several, each goes to a folder of its own name.
        output_folder: made if missing.
        preset: of a `SemanticTokenizer` or a pipeline.
        progress: called with a line now and then; `None` for silence.

    Returns:
        The number of tokens in the folder.

    Raises:
        ValueError: a recording or the preset cannot be used, two recordings have the
            same name, or the folder was made with another preset.
    """
    output_folder = Path(output_folder)
    if output_folder.is_file():
        raise ValueError(f"Cannot write tokens to {output_folder}: a file lies there.")
    if (output_folder / MANIFEST).is_file() and read_manifest(output_folder).preset != preset:
        raise ValueError(
            f"{output_folder} was made with preset {read_manifest(output_folder).preset!r}, not "
            f"{preset!r}; give an empty folder."
        )
    names = name_recordings(audio)
    check_kept_options(output_folder, preset=preset)
    tokenizer = SemanticTokenizer.from_preset(preset)
    keep_options(output_folder, preset=preset)
    missing = [name for name in names if not (output_folder / f"{name}.npy").is_file()]
    began, shown, seconds = time.monotonic(), time.monotonic(), 0.0
    for number, name in enumerate(missing, start=1):
        tokens = tokenizer.tokenize(read_audio(names[name]))
        write_tokens(output_folder / f"{name}.npy", tokens)
        seconds += len(tokens) * SAMPLES_PER_TOKEN / SAMPLE_RATE
        if progress and (time.monotonic() - shown > 5 or number == len(missing)):
            shown = time.monotonic()
            speed = seconds / (shown - began)
            progress(f"{number} of {len(missing)} recordings, {speed:.0f} s of audio a second")
    return finish_token_folder(
        output_folder, tokenizer.vocabulary_size, preset=preset, names=names
    ).num_tokens
