"""Folders of recordings -> a store of training sequences: `speechssm prepare sequences`."""

import functools
import json
import multiprocessing
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.data.corpora import name_recordings, read_turns
from keras_speechssm.data.segmentation import Span, cut_at_pauses, cut_at_turns, monologue_spans
from keras_speechssm.data.token_store import (
    MANIFEST,
    TokenSequence,
    check_shard,
    finish_token_folder,
    read_manifest,
    write_shard,
    write_store_manifest,
    write_tokens,
)
from keras_speechssm.files import (
    check_run_config,
    remove_partial_files,
    save_run_config,
    write_json,
)
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.presets import DEFAULT_PRESET, has_weights
from keras_speechssm.shapes import SAMPLE_RATE, SAMPLES_PER_TOKEN, TOKEN_RATE


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
    check_run_config(output_folder, preset=preset)
    tokenizer = SemanticTokenizer.from_preset(preset)
    save_run_config(output_folder, preset=preset)
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


_SHORTEST = 1 / TOKEN_RATE
"""Seconds; what a cut leaves over of less than a token is nothing."""


@dataclass(frozen=True)
class SequencePlan:
    """How sequences are made; what `plan.json` keeps beside the names of the recordings.

    Attributes:
        preset: of the tokenizer.
        vocabulary_size: of the tokenizer.
        target_seconds: longest sequence, before its end is dropped.
        drop_last_seconds: what is dropped of each sequence's end, after tokenizing.
        speech: `"read"` or `"spontaneous"`.
        recordings_per_shard: recordings that make one shard.
    """

    preset: str
    vocabulary_size: int
    target_seconds: float
    drop_last_seconds: float
    speech: str
    recordings_per_shard: int


@dataclass(frozen=True)
class ShardTask:
    """What one worker does: a shard's number and its recordings."""

    folder: str
    number: int
    recordings: tuple[tuple[str, str], ...]
    plan: SequencePlan

    @property
    def name(self) -> str:
        return f"shard-{self.number:05d}"

    @property
    def report(self) -> Path:
        return Path(self.folder) / f"{self.name}.json"


def make_shard(task: ShardTask) -> dict:
    """Makes a shard, unless it lies there intact, and returns what `shard-*.json` says of it.

    A shard in which recordings were skipped is made again: they may have been mended.

    Returns:
        dict: `file`, `bytes`, `sha256`, `lengths`; `skipped`, a list of `recording` and `error`;
        `seconds` of the audio read; `unused`, recordings of which nothing could be used.
    """
    folder = Path(task.folder)
    path = folder / f"{task.name}.array_record"
    shard = read_report(task) if task.report.is_file() and path.is_file() else None
    if shard is not None and not shard["skipped"]:
        check_shard(folder, shard)
        return shard
    skipped, unused, seconds = [], [], []
    sequences = _sequences(task, skipped, unused, seconds)
    shard = write_shard(path, sequences, task.plan.vocabulary_size)
    shard.update(skipped=skipped, unused=unused, seconds=round(sum(seconds), 3))
    write_json(task.report, shard)
    return shard


def _sequences(task: ShardTask, skipped, unused, seconds) -> Iterator[TokenSequence]:
    plan = task.plan
    dropped = round(plan.drop_last_seconds * TOKEN_RATE)
    for name, path in task.recordings:
        try:
            waveform = read_audio(path)
            spans = find_spans(waveform, read_turns(path), plan)
        except (ValueError, OSError) as error:
            skipped.append({"recording": name, "error": " ".join(str(error).split())})
            continue
        seconds.append(len(waveform) / SAMPLE_RATE)
        kept = 0
        for span in spans:
            start, stop = (round(second, 3) for second in span)  # what the record says is cut
            if stop - start < _SHORTEST:
                continue
            piece = waveform[round(start * SAMPLE_RATE) : round(stop * SAMPLE_RATE)]
            tokens = _tokenizer(plan.preset).tokenize(piece)
            tokens = tokens[: max(0, len(tokens) - dropped)]
            if len(tokens):
                kept += 1
                yield TokenSequence(name, start, stop, tokens)
        if not kept:
            unused.append(name)


def read_report(task: ShardTask) -> dict:
    """What `make_shard` has written of a shard.

    Raises:
        ValueError: it is damaged.
    """
    try:
        shard = json.loads(task.report.read_text(encoding="utf-8"))
        whole = all(isinstance(shard[key], list) for key in ("lengths", "skipped", "unused"))
        if whole and shard["seconds"] >= 0 and shard["bytes"] > 0 and shard["file"]:
            return shard
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{task.report} is damaged; delete it, and run the preparation again.")


def find_spans(waveform: np.ndarray, turns: list[Span] | None, plan: SequencePlan) -> list[Span]:
    """The spans of a recording that become sequences.

    Args:
        waveform: float (samples,) at 16 kHz.
        turns: when somebody speaks, where a sidecar tells; else `None`.
        plan: read speech is cut between turns or, where none are known, at pauses, and all of
            it is kept. Of spontaneous speech the monologues are kept.
    """
    duration = len(waveform) / SAMPLE_RATE
    if turns is not None:
        turns = [(max(0.0, start), min(stop, duration)) for start, stop in turns]
        turns = [turn for turn in turns if turn[1] > turn[0]]
    if plan.speech == "spontaneous":
        return _monologue(waveform, turns, plan.target_seconds)
    if turns is None:
        return cut_at_pauses(waveform, plan.target_seconds)
    return cut_at_turns(turns, duration, plan.target_seconds)


def _monologue(waveform, turns, target_seconds) -> list[Span]:
    if turns is None:
        from keras_speechssm.data.segmentation import speech_turns

        turns = speech_turns(waveform)

    def embed(span: Span) -> np.ndarray:
        start, stop = (round(second * SAMPLE_RATE) for second in span)
        return _speaker_embedder()(waveform[start:stop])

    return monologue_spans(turns, embed, target_seconds)


@functools.cache
def _tokenizer(preset: str) -> SemanticTokenizer:
    return SemanticTokenizer.from_preset(preset)


@functools.cache
def _speaker_embedder():
    from keras_speechssm.data.speaker_embedding import open_speaker_embedder

    return open_speaker_embedder()


def plan_content(plan: SequencePlan, names: list[str]) -> dict:
    """What `plan.json` holds: a store is gone on with only by the same."""
    return {**asdict(plan), "token_rate": TOKEN_RATE, "recordings": names}


def make_shards_with_beam(
    tasks: Sequence[ShardTask], options: Sequence[str]
) -> Iterator[tuple[int, dict]]:
    """Makes the shards in a Beam pipeline, waits for its end, and gives what they hold.

    Args:
        tasks: one a shard. Their folders must be mounted under the same paths on all workers
            and here.
        options: of the pipeline, as on its command line: `--runner=DataflowRunner`, ...

    Returns:
        Number and report of each shard, in order.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        _ = (
            pipeline
            | "Shards" >> beam.Create(list(tasks))
            | "Spread" >> beam.Reshuffle()
            | "Make" >> beam.Map(make_shard)
        )
    for task in tasks:
        yield task.number, read_report(task)


MAX_DEFAULT_SHARDS = 1024
MIN_DEFAULT_RECORDINGS = 16
"""A file has at least 128 KiB, and what a kill costs is one shard."""


def prepare_sequences(
    audio_folders: Sequence[str | Path],
    output_folder: str | Path,
    *,
    preset: str = DEFAULT_PRESET,
    target_seconds: float = 240.0,
    drop_last_seconds: float | None = None,
    speech: str = "read",
    recordings_per_shard: int | None = None,
    max_unreadable_share: float = 0.02,
    workers: int = 1,
    beam_options: str | None = None,
) -> dict:
    """Cuts and tokenizes recordings into a store of sequences to train a language model on.

    The paper's (sections 3 and 5, appendix B.1): sequences of up to 30 s, 4 min or 16 min, cut
    along utterances, tokenized in windows of 30 s, of which the last goes on with the
    sequence's own beginning. Run again after an interrupt or a kill, it goes on with the
    shards that are missing. The result does not depend on `workers` or Beam.

    Args:
        audio_folders: folders of recordings. A `.json` beside a recording may tell when
            somebody speaks (`voice_activity` as in LibriLight, or `segments`); read speech
            without one is cut at its quietest places.
        output_folder: of the store; made if missing.
        preset: of a `SemanticTokenizer` or a pipeline.
        target_seconds: longest sequence: 30, 240 or 960 in the paper.
        drop_last_seconds: dropped from each sequence's end, so that shorter ones vanish.
            Defaults to 10 above 30 s (the paper found that generation stops there without),
            else 0.
        speech: `read`, all of it, or `spontaneous`: only contiguous turns of monologues
            (the paper's appendix B.4), found by voice activity and speaker embeddings.
        recordings_per_shard: defaults to 16, or as many more as make at most 1024 shards.
        max_unreadable_share: share of the recordings that may be unreadable, 0 to 1. They
            are listed and skipped; beyond the share the run stops.
        workers: processes at once.
        beam_options: options of an Apache Beam pipeline as on its command line, such as
            `--runner=DirectRunner`, which then makes the shards (extra `beam`). All its workers
            must see both folders under the same paths. In a shell write
            `--beam-options="--runner=..."`.

    Returns:
        dict of counts: recordings, skipped, unused, sequences, tokens, shards, hours of audio.

    Raises:
        ValueError: too many unreadable recordings, none of which anything is left, a folder
            made with other options, a damaged shard, or arguments out of range.
    """
    names = name_recordings([*audio_folders])
    plan = _make_plan(
        preset, target_seconds, drop_last_seconds, speech, recordings_per_shard, len(names)
    )
    if not 0 <= max_unreadable_share <= 1:
        raise ValueError(f"max_unreadable_share is {max_unreadable_share}; expected 0 to 1.")
    if workers < 1:
        raise ValueError(f"workers is {workers}; expected at least 1.")
    pipeline_options = None if beam_options is None else _split(beam_options)
    folder = Path(output_folder)
    content = plan_content(plan, list(names))
    _keep_plan(folder, content)
    tasks = _make_tasks(folder, names, plan)
    if pipeline_options is not None:
        made = make_shards_with_beam(tasks, pipeline_options)
    else:
        made = _make_shards(tasks, workers)
    shards = _collect(made, len(tasks), max_unreadable_share * len(names))
    if not any(shard["lengths"] for shard in shards):
        raise ValueError(
            f"Nothing is left of the recordings: none has speech of more than the "
            f"{plan.drop_last_seconds:g} s that are dropped at its end; give a smaller "
            "--drop-last-seconds (or --target-seconds 30, which drops none) and another folder."
        )
    manifest = write_store_manifest(folder, content, shards)
    return {
        "recordings": len(names),
        "skipped": len(manifest["skipped"]),
        "unused": sum(len(shard["unused"]) for shard in shards),
        "sequences": manifest["num_sequences"],
        "tokens": manifest["num_tokens"],
        "shards": len(shards),
        "hours": round(sum(shard["seconds"] for shard in shards) / 3600, 3),
    }


def _make_plan(preset, target_seconds, drop_last_seconds, speech, per_shard, count) -> SequencePlan:
    if not 1 <= target_seconds < float("inf"):
        raise ValueError(f"target_seconds is {target_seconds}; expected at least 1.")
    if drop_last_seconds is None:
        drop_last_seconds = 10.0 if target_seconds > 30 else 0.0
    if not 0 <= drop_last_seconds < target_seconds:
        raise ValueError(
            f"drop_last_seconds is {drop_last_seconds}; expected 0 to less than {target_seconds}."
        )
    if speech not in ("read", "spontaneous"):
        raise ValueError(f"speech is {speech!r}; expected 'read' or 'spontaneous'.")
    if per_shard is None:
        per_shard = max(MIN_DEFAULT_RECORDINGS, -(-count // MAX_DEFAULT_SHARDS))
    if per_shard < 1:
        raise ValueError(f"recordings_per_shard is {per_shard}; expected at least 1.")
    if not has_weights(SemanticTokenizer, preset):
        raise ValueError(f"The preset {preset!r} has no weights to tokenize with.")
    tokenizer = SemanticTokenizer.from_preset(preset, load_weights=False)
    return SequencePlan(
        preset,
        tokenizer.vocabulary_size,
        float(target_seconds),
        float(drop_last_seconds),
        speech,
        per_shard,
    )


def _split(beam_options: str) -> list[str]:
    try:
        return shlex.split(beam_options)
    except ValueError as error:
        raise ValueError(f"beam_options is {beam_options!r}: {error}.") from None


def _keep_plan(folder: Path, content: dict) -> None:
    """Writes `plan.json`, or compares with the one that is there."""
    path = folder / "plan.json"
    if folder.is_file():
        raise ValueError(f"Cannot write a store to {folder}: a file lies there.")
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds other things; give an empty folder.")
        write_json(path, content)
        return
    try:
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(f"{path} is damaged; give an empty folder.") from None
    other = [key for key in content if known.get(key) != content[key]]
    if other:
        raise ValueError(f"{folder} was begun with other {', '.join(other)}; give an empty folder.")
    remove_partial_files(folder)


def _make_tasks(folder: Path, names: dict[str, Path], plan: SequencePlan) -> list[ShardTask]:
    recordings = [(name, str(path.resolve())) for name, path in names.items()]
    size = plan.recordings_per_shard
    starts = range(0, len(recordings), size)
    return [
        ShardTask(str(folder.resolve()), number, tuple(recordings[start : start + size]), plan)
        for number, start in enumerate(starts)
    ]


def _make_shards(tasks: list[ShardTask], workers: int) -> Iterator[tuple[int, dict]]:
    """The shards as they are made, each with its number."""
    if workers == 1 or len(tasks) == 1:
        for task in tasks:
            yield task.number, make_shard(task)
        return
    # Spawned: a fork would share JAX's threads, which do not survive it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context)
    try:
        numbers = {pool.submit(make_shard, task): task.number for task in tasks}
        for future in as_completed(numbers):
            yield numbers[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _collect(made: Iterable[tuple[int, dict]], count: int, may_skip: float) -> list[dict]:
    """All shards in order; stops as soon as too much has been skipped."""
    shards, began, shown = {}, time.monotonic(), 0.0
    for number, shard in made:
        shards[number] = shard
        skipped = [entry for shard in shards.values() for entry in shard["skipped"]]
        if len(skipped) > may_skip:
            raise ValueError(
                f"{len(skipped)} of the recordings cannot be read, of which {may_skip:g} may be "
                f"(max_unreadable_share); the first: {skipped[0]['error']}"
            )
        now = time.monotonic()
        if now - shown > 5 or len(shards) == count:
            shown = now
            hours = sum(shard["seconds"] for shard in shards.values()) / 3600
            print(
                f"{len(shards)} of {count} shards, {hours:.2f} h of audio, {len(skipped)} skipped, "
                f"{now - began:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    return [shards[number] for number in sorted(shards)]
