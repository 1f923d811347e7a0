"""Folders of recordings -> a store of training sequences: `speechssm prepare sequences`."""

import json
import multiprocessing
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from keras_speechssm.data.corpora import name_recordings
from keras_speechssm.data.sequence_shards import SequencePlan, ShardTask, make_shard, plan_content
from keras_speechssm.data.sequence_store import write_store_manifest
from keras_speechssm.preset_registry import DEFAULT_PRESET, has_weights
from keras_speechssm.semantic import SemanticTokenizer
from keras_speechssm.whole_files import remove_partial_files, write_json

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
    """Cuts and tokenises recordings into a store of sequences to train a language model on.

    The paper's (sections 3 and 5, appendix B.1): sequences of up to 30 s, 4 min or 16 min, cut
    along utterances, tokenised in windows of 30 s, of which the last goes on with the
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
        from keras_speechssm.data.beam_runner import make_shards_with_beam

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
        raise ValueError(f"The preset {preset!r} has no weights to tokenise with.")
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
