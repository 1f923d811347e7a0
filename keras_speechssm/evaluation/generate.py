"""Continuations of a benchmark's recordings, by a fixed protocol.

Short form: 7 s after a prompt of 3 s (paper, section 6). Long form: after a prompt of 10 s up to
4 or 16 min, counted from the start of the prompt (section 7).
"""

import dataclasses
import functools
import itertools
import json
import logging
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_speechssm.audio.io import MIN_PROMPT_SECONDS, AudioWriter, read_audio, read_duration
from keras_speechssm.checks import check_at_least, check_between
from keras_speechssm.data.corpora import name_recordings
from keras_speechssm.evaluation.metrics.token_perplexity import extend_max_length
from keras_speechssm.files import (
    OPTIONS,
    checksum,
    remove_partial_files,
    run_lock,
    save_run_config,
)
from keras_speechssm.models.speech_transformer.slide_and_prompt import SlideAndPrompt
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.presets import DEFAULT_PRESET, fetch_folder, fingerprint
from keras_speechssm.shapes import TOKEN_RATE

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class BenchmarkProtocol:
    """What is continued, and how far.

    Attributes:
        prompt_seconds: Length of the prompt.
        until_seconds: End of the continuation, counted from the start of the prompt.
        min_reference_seconds: Items with a shorter true continuation are left out.
    """

    prompt_seconds: float
    until_seconds: float
    min_reference_seconds: float = 0.0


PROTOCOLS = {
    "short-form": BenchmarkProtocol(3.0, 10.0, 5.0),
    "long-form-4min": BenchmarkProtocol(10.0, 240.0),
    "long-form-16min": BenchmarkProtocol(10.0, 960.0),
}
"""The protocols of the paper (sections 6 and 7)."""

# With less audio after the prompt, there is nothing to compare with.
_MIN_REFERENCE_SECONDS = 1.0

_LOG = "generation.jsonl"
"""Name of the log; several processes write `generation-0.jsonl` and so on."""


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """How the language model's tokens are sampled.

    Attributes:
        temperature: Temperature of the samples. Defaults to the preset's.
        top_k: Sample from the k most probable tokens only. Defaults to the preset's.
        top_p: Nucleus sampling: sample from the smallest set of tokens whose probabilities sum to
            at least `top_p`. Defaults to the preset's.
        seed: Seed of all samples.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self):
        check_at_least(0, temperature=self.temperature, seed=self.seed)
        check_at_least(1, top_k=self.top_k)
        check_between(0, 1, top_p=self.top_p)

    def given(self) -> dict[str, Any]:
        """Return the options of the language model that are not left to the preset."""
        options = {name: getattr(self, name) for name in ("temperature", "top_k", "top_p")}
        return {name: value for name, value in options.items() if value is not None}

    def resolve(self, speech: SpeechContinuation) -> dict[str, Any]:
        """Return all options of the language model, with the defaults of a pipeline."""
        return {**speech.sampling._asdict(), **self.given()}


DEFAULT_SAMPLING = SamplingOptions()


@dataclasses.dataclass(frozen=True)
class BenchmarkItem:
    """A recording to continue.

    Attributes:
        name: Its path below the benchmark's folder, without suffix.
        audio: Its file: the prompt and its true continuation.
        seconds: Its length.
    """

    name: str
    audio: Path
    seconds: float


def read_benchmark(
    folder: str | Path,
    prompt_seconds: float,
    *,
    min_reference_seconds: float = 0.0,
    subset: int | None = None,
    subset_seed: int = 0,
) -> list[BenchmarkItem]:
    """List the items of a benchmark folder that are long enough, in order.

    Args:
        folder: Folder of recordings, such as a split of LibriSpeech-Long.
        prompt_seconds: Length of the prompts.
        min_reference_seconds: Seconds that must follow the prompt; at least one.
        subset: Maximal number of items. The same folder and `subset_seed` give the same items.
            Defaults to `None`: all.
        subset_seed: Seed of the subset.

    Raises:
        ValueError: No recording is long enough, or an option is out of range.
    """
    check_at_least(1, subset=subset)
    check_at_least(0, min_reference_seconds=min_reference_seconds, subset_seed=subset_seed)
    needed = max(min_reference_seconds, _MIN_REFERENCE_SECONDS)
    items = []
    for name, path in name_recordings([folder]).items():
        seconds = read_duration(path)
        if seconds >= prompt_seconds + needed:
            items.append(BenchmarkItem(name, path, seconds))
    if not items:
        raise ValueError(
            f"No recording in {folder} has {needed:g} s after a prompt of {prompt_seconds:g} s."
        )
    if subset is not None and subset < len(items):
        chosen = np.random.default_rng(subset_seed).permutation(len(items))[:subset]
        items = [items[place] for place in sorted(chosen)]
    return items


def check_times(prompt_seconds: float, until_seconds: float | None) -> None:
    """Refuse prompts that are too short, and ends that are not after the prompt.

    Raises:
        ValueError: A time is out of range.
    """
    check_at_least(MIN_PROMPT_SECONDS, prompt_seconds=prompt_seconds)
    if until_seconds is not None and not prompt_seconds < until_seconds < float("inf"):
        raise ValueError(
            f"until_seconds is {until_seconds:g}; expected a finite number above the prompt's "
            f"{prompt_seconds:g} s."
        )


def generate_continuations(
    benchmark_folder: str | Path,
    output_folder: str | Path,
    *,
    preset: str = DEFAULT_PRESET,
    speech_lm: str | None = None,
    protocol: str = "long-form-4min",
    prompt_seconds: float | None = None,
    until_seconds: float | None = None,
    slide_and_prompt_seconds: float | None = None,
    windows: Literal["paper", "growing"] = "paper",
    subset: int | None = None,
    subset_seed: int = 0,
    sampling: SamplingOptions = DEFAULT_SAMPLING,
    batch_size: int = 1,
    num_processes: int = 1,
    process_id: int = 0,
) -> dict:
    """Continue every recording of a benchmark.

    Writes `<name>.flac`, the continuation without its prompt, for each item, and
    `generation.jsonl` with the seconds that each took. An interrupted run resumes with the
    missing items. An item's samples depend on its name and the seed only, not on the items that
    it shares a batch with.

    Args:
        benchmark_folder: Recordings, such as `librispeech-long/test-clean`.
        output_folder: Folder to write; one per system.
        preset: Pipeline preset.
        speech_lm: Preset of another language model over the same semantic tokens, such as a
            `SpeechTransformer`. Defaults to the pipeline's own.
        protocol: `short-form`, `long-form-4min` or `long-form-16min`.
        prompt_seconds: Length of the prompts, instead of the protocol's.
        until_seconds: End of the continuations, instead of the protocol's.
        slide_and_prompt_seconds: Longest sequence of the language model, prompt included; it then
            restarts from its last 3 s. Defaults to `None`: a single sequence, also for a
            Transformer beyond its training length.
        windows: Plan of the synthesis windows: `paper`, with seams after 25, 48, 71 s and so on,
            or `growing`, the plan of `speechssm continue`. Defaults to `paper`.
        subset: Maximal number of recordings. The same folder and `subset_seed` give the same
            recordings. Defaults to `None`: all.
        subset_seed: Seed of the subset.
        sampling: How tokens are sampled. Defaults to the preset's sampling with seed 0.
        batch_size: Number of recordings that the language model continues at a time, which is
            faster on accelerators.
        num_processes: Number of processes, on one or many hosts, that share the recordings and
            the output folder. Start each with its own `process_id`.
        process_id: Number of this process, from 0.

    Returns:
        `generated`, the number of items made by this run; `items`, the number of all items; and
        `real_time_factor` of the items made by this run.

    Raises:
        ValueError: The protocol is unknown, an option is out of range, the folder is in use, was
            started with other options, continues other recordings of the same names, or is inside
            the benchmark. Recordings that cannot be continued are reported after the others are
            done.
    """
    plan = _plan(protocol, prompt_seconds, until_seconds)
    check_at_least(0, slide_and_prompt_seconds=slide_and_prompt_seconds)
    check_at_least(1, batch_size=batch_size, num_processes=num_processes)
    check_between(0, num_processes - 1, process_id=process_id)
    folder = Path(output_folder)
    if Path(benchmark_folder).resolve() in (folder.resolve(), *folder.resolve().parents):
        raise ValueError(
            f"{output_folder} is inside the benchmark and would become part of it; choose another "
            "output folder."
        )
    items = read_benchmark(
        benchmark_folder,
        plan.prompt_seconds,
        min_reference_seconds=plan.min_reference_seconds,
        subset=subset,
        subset_seed=subset_seed,
    )
    config = {
        "preset": _absolute_name(preset),
        "speech_lm": None if speech_lm is None else _absolute_name(speech_lm),
        # A training run that continues writes other weights under the same name.
        "weights": [fingerprint(fetch_folder(name)) for name in (speech_lm, preset) if name],
        "prompt_seconds": plan.prompt_seconds,
        "until_seconds": plan.until_seconds,
        "least_reference": plan.min_reference_seconds,
        "slide_and_prompt_seconds": slide_and_prompt_seconds,
        "windows": windows,
        "seed": sampling.seed,
    }
    speech = _load(preset, speech_lm, slide_and_prompt_seconds, plan.until_seconds)
    config |= sampling.resolve(speech)
    save_run_config(output_folder, **config)
    # A second process would make every item twice, and delete unfinished files of the first.
    number = f"-{process_id}" if num_processes > 1 else ""
    with run_lock(folder, f".lock{number}"):
        missing = _missing(items[process_id::num_processes], folder)
        log = folder / _LOG.replace(".", f"{number}.")
        options = {"windows": windows, **sampling.given()}
        start = functools.partial(_start_streams, speech, plan, sampling.seed, options)
        factor = _generate_all(start, speech.sample_rate, missing, log, batch_size, len(items))
    return {"generated": len(missing), "items": len(items), "real_time_factor": factor}


def log_item(path: Path, item: str, recording: str, seconds: float, wall_seconds: float) -> None:
    """Record in `generation.jsonl` that an item is done.

    Args:
        path: The log, in the folder of the continuations.
        item: Name of the item.
        recording: Checksum of the recording that is continued.
        seconds: Length of the continuation.
        wall_seconds: Time that it took.
    """
    line = {
        "item": item,
        "recording": recording,
        "seconds": seconds,
        "wall_seconds": round(wall_seconds, 4),
    }
    with open(path, "ab+") as file:
        file.seek(max(0, file.tell() - 1))
        # An interrupted run may have left an incomplete line.
        is_cut = file.read(1) not in (b"", b"\n")
        file.write(("\n" * is_cut + json.dumps(line) + "\n").encode())


def read_log(folder: str | Path) -> list[dict]:
    """Read the complete lines of `generation.jsonl`, or of those of several processes."""
    lines: list[dict] = []
    logs = sorted(Path(folder).glob(_LOG.replace(".", "*.")))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in logs]
    for text in itertools.chain.from_iterable(map(str.splitlines, texts)):
        try:
            line = json.loads(text)
            times = {name: float(line[name]) for name in ("seconds", "wall_seconds")}
            lines.append({**line, **times, "item": str(line["item"])})
        except (ValueError, TypeError, KeyError):
            continue
    return lines


def check_options(folder: str | Path, prompt_seconds: float, seconds: float) -> None:
    """Refuse to compare continuations by other times than they were generated with.

    Args:
        folder: Folder of continuations. Folders that `evaluate generate` did not write pass.
        prompt_seconds: Length of the prompts.
        seconds: End of what is compared, from the start of the prompt.

    Raises:
        ValueError: The folder was generated with other prompts, or not as far.
    """
    options = _read_options(folder)
    prompt, until = options.get("prompt_seconds"), options.get("until_seconds")
    if prompt not in (None, prompt_seconds):
        raise ValueError(
            f"{folder} continues prompts of {prompt:g} s, but prompt_seconds is "
            f"{prompt_seconds:g}; set --prompt-seconds {prompt:g}."
        )
    if until is not None and seconds > until + 1:
        raise ValueError(
            f"{folder} ends at {until:g} s, but the comparison at {seconds:g} s; set "
            f"--until-seconds {until:g}."
        )


def read_min_reference_seconds(folder: str | Path) -> float:
    """Read how many seconds had to follow the prompt in a recording; 0 if not recorded."""
    return float(_read_options(folder).get("least_reference") or 0.0)


def _read_options(folder: str | Path) -> dict:
    """The options of `evaluate generate`; empty for other folders."""
    path = Path(folder) / OPTIONS
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(f"{path} is damaged; generate into a new folder.") from None


def read_real_time_factor(folder: str | Path) -> float | None:
    """Read the seconds of generation per second of audio; `None` if not recorded."""
    lines = read_log(folder)
    spoken = sum(line["seconds"] for line in lines)
    return _three_digits(sum(line["wall_seconds"] for line in lines) / spoken) if spoken else None


def _three_digits(factor: float) -> float:
    return float(f"{factor:.3g}")


def _plan(
    protocol: str, prompt_seconds: float | None, until_seconds: float | None
) -> BenchmarkProtocol:
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; expected one of {', '.join(PROTOCOLS)}.")
    plan = PROTOCOLS[protocol]
    prompt = plan.prompt_seconds if prompt_seconds is None else prompt_seconds
    until = plan.until_seconds if until_seconds is None else until_seconds
    check_times(prompt, until)
    return BenchmarkProtocol(prompt, until, plan.min_reference_seconds)


def _absolute_name(preset: str) -> str:
    """The name of a preset; for a folder its absolute path."""
    return str(Path(preset).resolve()) if Path(preset).is_dir() else str(preset)


def _load(
    preset: str, speech_lm: str | None, slide_seconds: float | None, until_seconds: float
) -> SpeechContinuation:
    speech = SpeechContinuation.from_preset(preset, speech_lm=speech_lm)
    if slide_seconds is not None:
        limit = round(slide_seconds * TOKEN_RATE)
        speech.speech_lm = SlideAndPrompt(speech.speech_lm, limit)
    else:
        # Synthesis looks ahead by a window and a block.
        room = speech.synthesis.window + 500
        extend_max_length(speech.speech_lm, round(until_seconds * TOKEN_RATE) + room)
    return speech


def _missing(items: Sequence[BenchmarkItem], folder: Path) -> list[BenchmarkItem]:
    """Items without a continuation, or with one that was not recorded as done."""
    done = {line["item"]: line.get("recording") for line in read_log(folder)}
    missing = []
    for item in items:
        if item.name not in done or not (folder / f"{item.name}.flac").is_file():
            missing.append(item)
        elif done[item.name] != checksum(item.audio):
            raise ValueError(
                f"{folder} continues another recording than {item.audio} under the name "
                f"{item.name!r}; choose another output folder."
            )
    return missing


def _start_streams(
    speech: SpeechContinuation,
    plan: BenchmarkProtocol,
    seed: int,
    options: dict[str, Any],
    items: Sequence[BenchmarkItem],
) -> list[Iterator[np.ndarray]]:
    """Start to continue some items as one batch."""
    prompts = [read_audio(item.audio, duration=plan.prompt_seconds) for item in items]
    sequences = [np.random.SeedSequence((seed, zlib.crc32(item.name.encode()))) for item in items]
    seeds = [int(sequence.generate_state(1)[0]) for sequence in sequences]
    seconds = plan.until_seconds - plan.prompt_seconds
    return speech.stream_batch(prompts, seeds, seconds=seconds, **options)


def _generate_all(
    start: Callable[[Sequence[BenchmarkItem]], list[Iterator[np.ndarray]]],
    sample_rate: int,
    missing: Sequence[BenchmarkItem],
    log: Path,
    batch_size: int,
    num_items: int,
) -> float | None:
    """Continue the missing items and return the real-time factor."""
    spoken = taken = 0.0
    number, failed = 0, []
    for first in range(0, len(missing), batch_size):
        batch = missing[first : first + batch_size]
        started = time.monotonic()
        try:
            streams = start(batch)
        except ValueError:  # one by one: only the recording that it is about is left out
            streams = [None] * len(batch)
        for item, stream in zip(batch, streams, strict=True):
            number += 1
            try:
                blocks = start([item])[0] if stream is None else stream
                seconds = _write_continuation(blocks, sample_rate, log.parent / f"{item.name}.flac")
            except ValueError as error:  # such as a silent prompt; the other items continue
                failed.append(f"{item.audio}: {error}")
                continue
            wall = time.monotonic() - started
            log_item(log, item.name, checksum(item.audio), seconds, wall)
            started = time.monotonic()
            spoken, taken = spoken + seconds, taken + wall
            logger.info(
                "%d of %d: %s, %.0f s in %.0f s", number, len(missing), item.name, seconds, wall
            )
    if failed:
        raise ValueError(f"{len(failed)} of {num_items} recordings were not continued: {failed[0]}")
    return _three_digits(taken / spoken) if spoken else None


def _write_continuation(blocks: Iterator[np.ndarray], sample_rate: int, path: Path) -> float:
    """Write one continuation and return its length in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_partial_files(path.parent, path.name)
    # After an interrupt, a shorter file must not remain: it would count as done.
    with AudioWriter(path, sample_rate, keep_interrupted=False) as writer:
        for block in blocks:
            writer.write(block)
    return writer.seconds
