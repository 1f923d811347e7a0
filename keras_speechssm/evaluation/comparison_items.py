"""Which continuations belong to which recording: systems' folders against a benchmark's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_speechssm.audio import read_audio
from keras_speechssm.data.corpora import name_recordings
from keras_speechssm.evaluation.generation import BenchmarkItem, read_benchmark
from keras_speechssm.shapes import SAMPLE_RATE

GROUND_TRUTH = "ground truth"


@dataclass(frozen=True)
class ComparedItem:
    """A benchmark's recording, and each system's continuation of it.

    Attributes:
        item: the recording.
        continuations: files by system; systems that lack it are not in it.
        until_seconds: where what is judged ends, from the start of the prompt.
    """

    item: BenchmarkItem
    continuations: dict[str, Path]
    until_seconds: float


def parse_systems(systems: Sequence[str]) -> dict[str, Path]:
    """Folders by system from `name=folder` (or a folder, which its own name names)."""
    found: dict[str, Path] = {}
    for entry in systems:
        name, sign, folder = str(entry).partition("=")
        if not sign:
            name, folder = Path(entry).name, str(entry)
        if not name or name in found or name == GROUND_TRUTH:
            raise ValueError(f"{name!r} cannot name a system here; write another name=folder.")
        if not Path(folder).is_dir():
            raise ValueError(f"The folder {folder} of the system {name!r} does not exist.")
        found[name] = Path(folder)
    if not found:
        raise ValueError("Name at least one system: name=folder.")
    return found


def compare_folders(
    systems: Sequence[str],
    benchmark_folder: str | Path,
    prompt_seconds: float,
    until_seconds: float | None,
    limit: int | None,
) -> list[ComparedItem]:
    """The recordings that at least one system has continued, in order.

    Args:
        systems: `name=folder` each.
        benchmark_folder: the recordings.
        prompt_seconds: length of the prompts.
        until_seconds: where the judged time ends, or `None` for the recordings' ends.
        limit: only the first so many.

    Raises:
        ValueError: a folder is missing, or a system has none of the recordings.
    """
    folders = parse_systems(systems)
    items = read_benchmark(benchmark_folder, prompt_seconds)
    found = {name: name_recordings([folder]) for name, folder in folders.items()}
    names = {item.name for item in items}
    for name, recordings in found.items():
        if not names & set(recordings):
            example = next(iter(sorted(names)))
            raise ValueError(
                f"The system {name!r} has none of the benchmark's recordings, such as {example!r}."
            )
    compared = []
    for item in items:
        there = {name: known[item.name] for name, known in found.items() if item.name in known}
        if there:
            until = item.seconds if until_seconds is None else until_seconds
            compared.append(ComparedItem(item, there, until))
    return compared[:limit]


def read_continuation(
    entry: ComparedItem, system: str, with_prompt: bool, prompt_seconds: float
) -> np.ndarray:
    """A system's continuation up to where it is judged, float32 (samples,)."""
    if system == GROUND_TRUTH:
        path, start = entry.item.audio, prompt_seconds
    else:
        path, start = entry.continuations[system], prompt_seconds if with_prompt else 0.0
    wanted = round((entry.until_seconds - prompt_seconds) * SAMPLE_RATE)
    # The whole, not a part: what is resampled would differ at the cut.
    return read_audio(path)[round(start * SAMPLE_RATE) :][:wanted]
