"""Which continuations belong to which recording: systems' folders against a benchmark's."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_speechssm.audio import read_audio, read_duration
from keras_speechssm.data.corpora import name_recordings
from keras_speechssm.evaluation.generation import BenchmarkItem, check_times, read_benchmark
from keras_speechssm.evaluation.generation_log import check_options, read_least_reference
from keras_speechssm.evaluation.naturalness import LONGEST_FOURTH_MINUTE, minute_spans
from keras_speechssm.shapes import SAMPLE_RATE

GROUND_TRUTH = "ground truth"


@dataclass(frozen=True)
class ComparedItem:
    """A benchmark's recording, and each system's continuation of it.

    Attributes:
        item: the recording.
        continuations: files by system.
        prompt_seconds: how much of the recording is its prompt.
        until_seconds: where what is judged ends, from the start of the prompt.
        with_prompt: systems whose audio begins with the prompt.
    """

    item: BenchmarkItem
    continuations: dict[str, Path]
    prompt_seconds: float
    until_seconds: float
    with_prompt: frozenset[str]

    @property
    def systems(self) -> list[str]:
        """All that are compared, the ground truth last."""
        return [*self.continuations, GROUND_TRUTH]

    def read_prompt(self) -> np.ndarray:
        """float32 (samples,)."""
        return read_audio(self.item.audio)[: round(self.prompt_seconds * SAMPLE_RATE)]

    def read(self, system: str) -> np.ndarray:
        """A system's continuation up to where it is judged, float32 (samples,)."""
        path = self.continuations.get(system, self.item.audio)
        has_prompt = system == GROUND_TRUTH or system in self.with_prompt
        start = self.prompt_seconds if has_prompt else 0.0
        if path.stat().st_size == 0 or read_duration(path) == 0.0:
            return np.zeros(0, "float32")  # a system that failed and wrote a file of nothing
        # The whole, not a part: what is resampled would differ at the cut.
        return read_audio(path)[round(start * SAMPLE_RATE) :][: self.judged_samples]

    @property
    def judged_samples(self) -> int:
        """How long a continuation is where it is judged."""
        return round((self.until_seconds - self.prompt_seconds) * SAMPLE_RATE)

    @property
    def has_reference(self) -> bool:
        """Whether the recording goes on, to a minute, as long as what is judged."""
        return self.until_seconds - self.item.seconds <= 60.0

    def spans(self, system: str) -> list[tuple[float, float] | None]:
        """The 5 s of each minute, the same for all; the truth has none beyond its own end.

        In four minutes nobody has: the last of them ends where the truth does, as the paper's
        t_max (section 7.2).
        """
        end = self.until_seconds
        if end <= LONGEST_FOURTH_MINUTE:
            end = min(end, self.item.seconds)
        spans = minute_spans(self.item.name, self.prompt_seconds, end)
        if system != GROUND_TRUTH:
            return spans
        return [span if span and span[1] <= self.item.seconds + 0.01 else None for span in spans]


def parse_systems(systems: Sequence[str]) -> dict[str, Path]:
    """Folders by system from `name=folder` (or a folder, which its own name names).

    Raises:
        ValueError: no system, a folder is missing, or a name is taken, or holds other than
            letters, digits, spaces, dots, plus, minus and underscores.
    """
    found: dict[str, Path] = {}
    taken = {folder_name(GROUND_TRUTH), "prompt"}  # both are heard beside the systems
    for entry in map(str, systems):
        name, sign, folder = entry.partition("=")
        if not sign or Path(entry).is_dir():
            name, folder = Path(entry).resolve().name, entry
        plain = re.fullmatch(r"\w[\w .+-]*", name)
        if not plain or folder_name(name) in taken:
            raise ValueError(f"{name!r} cannot name a system here; write another name=folder.")
        if not Path(folder).is_dir():
            raise ValueError(f"The folder {folder} of the system {name!r} does not exist.")
        found[name] = Path(folder)
        taken.add(folder_name(name))
    if not found:
        raise ValueError("Name at least one system: name=folder.")
    return found


def folder_name(system: str) -> str:
    """What a system's folder in a report is called."""
    return system.replace(" ", "_").casefold()


def compare_folders(
    systems: Sequence[str],
    benchmark_folder: str | Path,
    *,
    prompt_seconds: float,
    until_seconds: float | None,
    with_prompt: Sequence[str] = (),
    least_reference: float | None = None,
    subset: int | None = None,
    subset_seed: int = 0,
) -> tuple[list[ComparedItem], dict[str, int]]:
    """The recordings that all systems have continued, in order.

    Args:
        systems: `name=folder` each.
        benchmark_folder: the recordings.
        prompt_seconds: length of the prompts.
        until_seconds: where the judged time ends, or `None` for the recordings' ends.
        with_prompt: systems whose audio begins with the prompt.
        least_reference, subset, subset_seed: see `generation.read_benchmark`. Without
            `least_reference`, it is what the folders were generated with, so that a subset is
            drawn from the same recordings.

    Returns:
        The recordings, and by system how many it lacks.

    Raises:
        ValueError: a folder is missing, numbers are out of range, no recording was continued
            by all, or a folder was generated with other prompts or not as far.
    """
    check_times(prompt_seconds, until_seconds)
    folders = parse_systems(systems)
    unknown = sorted(set(with_prompt) - set(folders))
    if unknown:
        raise ValueError(f"with_prompt names {unknown[0]!r}, which is no system.")
    if least_reference is None:
        least_reference = max(map(read_least_reference, folders.values()))
    items = read_benchmark(
        benchmark_folder,
        prompt_seconds,
        least_reference=least_reference,
        subset=subset,
        subset_seed=subset_seed,
    )
    found = {name: name_recordings([folder]) for name, folder in folders.items()}
    lacking = {name: sum(i.name not in known for i in items) for name, known in found.items()}
    compared = [
        ComparedItem(
            item,
            {name: known[item.name] for name, known in found.items()},
            prompt_seconds,
            item.seconds if until_seconds is None else until_seconds,
            frozenset(with_prompt),
        )
        for item in items
        if all(item.name in known for known in found.values())
    ]
    if not compared:
        fewest = max(lacking, key=lacking.get)
        raise ValueError(
            f"No recording of {benchmark_folder} was continued by all systems; {fewest!r} lacks "
            f"{lacking[fewest]} of {len(items)}, such as {items[0].name!r}."
        )
    longest = max(entry.item.seconds for entry in compared)
    for folder in folders.values():
        check_options(folder, prompt_seconds, until_seconds or longest)
    return compared, lacking
