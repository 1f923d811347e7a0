"""Generating over a benchmark: every item once, through kills, by a fixed protocol.

Short form: 7 s after 3 s of prompt (paper, section 6). Long form: after 10 s of prompt up to
4 or 16 min, counted from the start of the prompt (section 7).
"""

import dataclasses
import json
import sys
import time
import zlib
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import MIN_PROMPT_SECONDS, AudioWriter, read_audio, read_duration
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import name_recordings
from keras_speechssm.evaluation.studies.token_perplexity import extend_max_length
from keras_speechssm.files import OPTIONS, checksum, remove_partial_files, run_lock, save_run_config
from keras_speechssm.models.speech_transformer.slide_and_prompt import SlideAndPrompt
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.presets import DEFAULT_PRESET, fetch_folder, fingerprint
from keras_speechssm.shapes import TOKEN_RATE

_NAME = "generation.jsonl"


def log_item(folder: Path, item: str, recording: str, seconds: float, wall_seconds: float) -> None:
    """Notes that an item is done.

    Args:
        folder: of the continuations.
        item: its name.
        recording: checksum of the recording that is continued.
        seconds: of audio.
        wall_seconds: that it took.
    """
    line = {
        "item": item,
        "recording": recording,
        "seconds": seconds,
        "wall_seconds": round(wall_seconds, 2),
    }
    with open(folder / _NAME, "ab+") as file:
        file.seek(max(0, file.tell() - 1))
        cut = file.read(1) not in (b"", b"\n")  # by a kill
        file.write(("\n" * cut + json.dumps(line) + "\n").encode())


def read_log(folder: str | Path) -> list[dict]:
    """The lines that are whole and of this form; a kill may have cut one."""
    path, lines = Path(folder) / _NAME, []
    if not path.is_file():
        return lines
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            times = {name: float(line[name]) for name in ("seconds", "wall_seconds")}
            lines.append({**line, **times, "item": str(line["item"])})
        except (ValueError, TypeError, KeyError):
            continue
    return lines


def check_options(folder: str | Path, prompt_seconds: float, seconds: float) -> None:
    """Refuses to judge continuations as others than they are: `ValueError`.

    Args:
        folder: of continuations; one that `evaluate generate` did not write passes.
        prompt_seconds: length of the prompts.
        seconds: up to where they are judged, from the start of the prompt.
    """
    options = _read_options(folder)
    prompt, until = options.get("prompt_seconds"), options.get("until_seconds")
    if prompt not in (None, prompt_seconds):
        raise ValueError(f"{folder} goes on from prompts of {prompt:g} s: give prompt_seconds.")
    if until is not None and seconds > until + 1:
        raise ValueError(f"{folder} goes on to {until:g} s: give until_seconds of at most that.")


def read_least_reference(folder: str | Path) -> float:
    """Seconds that had to follow the prompt in a recording; 0 where nothing was noted."""
    return float(_read_options(folder).get("least_reference") or 0.0)


def _read_options(folder: str | Path) -> dict:
    """Of `evaluate generate`; none for others' folders."""
    path = Path(folder) / OPTIONS
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(f"{path} is damaged.") from None


def read_real_time_factor(folder: str | Path) -> float | None:
    """Seconds of generation for each second of audio; `None` where nothing was noted."""
    lines = read_log(folder)
    spoken = sum(line["seconds"] for line in lines)
    return round(sum(line["wall_seconds"] for line in lines) / spoken, 3) if spoken else None


@dataclasses.dataclass(frozen=True)
class BenchmarkProtocol:
    """What is continued, and how far.

    Attributes:
        prompt_seconds: length of the prompt.
        until_seconds: where a continuation ends, counted from the start of the prompt.
        least_reference: items whose true continuation is shorter are left out.
    """

    prompt_seconds: float
    until_seconds: float
    least_reference: float = 0.0


PROTOCOLS = {
    "short-form": BenchmarkProtocol(3.0, 10.0, 5.0),
    "long-form-4min": BenchmarkProtocol(10.0, 240.0),
    "long-form-16min": BenchmarkProtocol(10.0, 960.0),
}
"""The paper's (sections 6 and 7)."""

_LEAST_REFERENCE = 1.0
"""Seconds after the prompt, below which there is nothing to compare with."""


@dataclasses.dataclass(frozen=True)
class BenchmarkItem:
    """A recording to continue.

    Attributes:
        name: its path below the benchmark's folder, without ending.
        audio: its file, prompt and true continuation.
        seconds: its length.
    """

    name: str
    audio: Path
    seconds: float


def read_benchmark(
    folder: str | Path,
    prompt_seconds: float,
    *,
    least_reference: float = 0.0,
    subset: int | None = None,
    subset_seed: int = 0,
) -> list[BenchmarkItem]:
    """The items of a benchmark folder that a protocol takes, in order.

    Args:
        folder: of recordings, such as a split of LibriSpeech-Long.
        prompt_seconds: length of the prompts.
        least_reference: seconds that must follow the prompt, at least one.
        subset: only so many, drawn once for all: the same folder and `subset_seed` give the
            same items. Defaults to `None`: all.
        subset_seed: of the draw.

    Raises:
        ValueError: nothing is long enough, or an option is out of range.
    """
    check_at_least(1, subset=subset)
    check_at_least(0, least_reference=least_reference, subset_seed=subset_seed)
    items = []
    for name, path in name_recordings([folder]).items():
        seconds = read_duration(path)
        if seconds >= prompt_seconds + max(least_reference, _LEAST_REFERENCE):
            items.append(BenchmarkItem(name, path, seconds))
    if not items:
        raise ValueError(
            f"No recording in {folder} goes on for {max(least_reference, _LEAST_REFERENCE):g} s "
            f"after a prompt of {prompt_seconds:g} s."
        )
    if subset is not None and subset < len(items):
        chosen = np.random.default_rng(subset_seed).permutation(len(items))[:subset]
        items = [items[place] for place in sorted(chosen)]
    return items


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
    subset: int | None = None,
    subset_seed: int = 0,
    temperature: float = 1.0,
    seed: int = 0,
) -> dict:
    """Continues every recording of a benchmark; run again, it goes on with what is missing.

    Writes `<name>.flac`, the continuation without its prompt, for each item, and
    `generation.jsonl` with the seconds each took. An item's samples are drawn by its name and
    `seed`, whatever the subset or the order.

    Args:
        benchmark_folder: recordings, such as `librispeech-long/test-clean`.
        output_folder: the system's folder; one for each system.
        preset: pipeline that speaks.
        speech_lm: preset of another language model over the same semantic tokens, such as a
            `SpeechTransformer`. Defaults to the pipeline's own.
        protocol: `short-form`, `long-form-4min` or `long-form-16min`.
        prompt_seconds, until_seconds: in place of the protocol's.
        slide_and_prompt_seconds: longest sequence of the language model, prompt included, from
            whose last 3 s it goes on. Defaults to `None`: the model by itself, a Transformer
            past the length that it was trained on too.
        subset: only so many recordings, drawn once for all: the same folder and `subset_seed` give
            the same. Defaults to `None`: all.
        subset_seed: of the draw.
        temperature: of the language model's samples.
        seed: of all samples.

    Returns:
        `{"generated": items made now, "items": items in all, "real_time_factor": of those made
        now}`.

    Raises:
        ValueError: an unknown protocol, options out of range, a folder that another process is
            writing, that was begun with other options, that continues other recordings of the
            same names, or that lies inside the benchmark; and, when all others are done,
            recordings that could not be continued.
    """
    plan = _plan(protocol, prompt_seconds, until_seconds)
    check_at_least(0, temperature=temperature, seed=seed)
    check_at_least(0, slide_and_prompt_seconds=slide_and_prompt_seconds)
    output = Path(output_folder).resolve()
    if Path(benchmark_folder).resolve() in (output, *output.parents):
        raise ValueError(f"{output_folder} lies in the benchmark, of which it would become a part.")
    items = read_benchmark(
        benchmark_folder,
        plan.prompt_seconds,
        least_reference=plan.least_reference,
        subset=subset,
        subset_seed=subset_seed,
    )
    kept = {
        "preset": _one_name(preset),
        "speech_lm": None if speech_lm is None else _one_name(speech_lm),
        # A training that goes on puts other weights under the same name.
        "weights": [fingerprint(fetch_folder(name)) for name in (speech_lm, preset) if name],
        **dataclasses.asdict(plan),
        "slide_and_prompt_seconds": slide_and_prompt_seconds,
        "temperature": temperature,
        "seed": seed,
    }
    speech = _load(preset, speech_lm, slide_and_prompt_seconds, plan.until_seconds)
    save_run_config(output_folder, **kept)
    folder = Path(output_folder)
    # Two at once would make every item twice, and clear each other's unfinished files away.
    with run_lock(folder):
        missing = _missing(items, folder)
        factor = _generate_all(speech, missing, plan, folder, temperature, seed, len(items))
    return {"generated": len(missing), "items": len(items), "real_time_factor": factor}


def _generate_all(
    speech: SpeechContinuation,
    missing: list[BenchmarkItem],
    plan: BenchmarkProtocol,
    folder: Path,
    temperature: float,
    seed: int,
    num_items: int,
) -> float | None:
    """Continues what is missing, and says the real-time factor."""
    spoken = taken = 0.0
    failed = []
    for number, item in enumerate(missing, start=1):
        try:
            seconds, wall = _generate(speech, item, plan, folder, temperature, seed)
        except ValueError as error:  # a silent prompt, say; the others go on
            failed.append(f"{item.audio}: {error}")
            continue
        spoken, taken = spoken + seconds, taken + wall
        print(
            f"{number} of {len(missing)}: {item.name}, {seconds:.0f} s in {wall:.0f} s",
            file=sys.stderr,
        )
    if failed:
        raise ValueError(f"{len(failed)} of {num_items} recordings were not continued: {failed[0]}")
    return round(taken / spoken, 3) if spoken else None


def _one_name(preset: str) -> str:
    """A preset's name; of a folder its whole path, however it was written."""
    return str(Path(preset).resolve()) if Path(preset).is_dir() else str(preset)


def _missing(items: list[BenchmarkItem], folder: Path) -> list[BenchmarkItem]:
    """Items without a continuation, or with one that was not noted as done."""
    done = {line["item"]: line.get("recording") for line in read_log(folder)}
    missing = []
    for item in items:
        if item.name not in done or not (folder / f"{item.name}.flac").is_file():
            missing.append(item)
        elif done[item.name] != checksum(item.audio):
            raise ValueError(
                f"{folder} continues another recording than {item.audio} under the name "
                f"{item.name!r}; give another output_folder."
            )
    return missing


def check_times(prompt_seconds: float, until_seconds: float | None) -> None:
    """Refuses prompts that are too short, and ends that do not lie behind them."""
    check_at_least(MIN_PROMPT_SECONDS, prompt_seconds=prompt_seconds)
    if until_seconds is not None and not prompt_seconds < until_seconds < float("inf"):
        raise ValueError(
            f"until_seconds is {until_seconds:g}; expected more than the prompt's "
            f"{prompt_seconds:g}, and no infinity."
        )


def _plan(
    protocol: str, prompt_seconds: float | None, until_seconds: float | None
) -> BenchmarkProtocol:
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; expected one of {', '.join(PROTOCOLS)}.")
    plan = PROTOCOLS[protocol]
    prompt = plan.prompt_seconds if prompt_seconds is None else prompt_seconds
    until = plan.until_seconds if until_seconds is None else until_seconds
    check_times(prompt, until)
    return BenchmarkProtocol(prompt, until, plan.least_reference)


def _load(
    preset: str, speech_lm: str | None, slide_seconds: float | None, until_seconds: float
) -> SpeechContinuation:
    speech = SpeechContinuation.from_preset(preset, speech_lm=speech_lm)
    if slide_seconds is not None:
        limit = round(slide_seconds * TOKEN_RATE)
        speech.speech_lm = SlideAndPrompt(speech.speech_lm, limit)
    else:
        # Synthesis looks a window and a block ahead.
        extend_max_length(speech.speech_lm, round(until_seconds * TOKEN_RATE) + speech.window + 500)
    return speech


def _generate(
    speech: SpeechContinuation,
    item: BenchmarkItem,
    plan: BenchmarkProtocol,
    folder: Path,
    temperature: float,
    seed: int,
) -> tuple[float, float]:
    """Writes one continuation; its seconds, and those that it took."""
    path = folder / f"{item.name}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_partial_files(path.parent)
    prompt = read_audio(item.audio, duration=plan.prompt_seconds)
    seeds = np.random.SeedSequence((seed, zlib.crc32(item.name.encode())))
    seconds = plan.until_seconds - plan.prompt_seconds
    began = time.monotonic()
    # An interrupt must leave no shorter file: it would count as done.
    with AudioWriter(path, keep_interrupted=False) as writer:
        for block in speech.stream(
            prompt, seed=int(seeds.generate_state(1)[0]), temperature=temperature, seconds=seconds
        ):
            writer.write(block)
    wall = time.monotonic() - began
    log_item(folder, item.name, checksum(item.audio), seconds, wall)
    return seconds, wall
