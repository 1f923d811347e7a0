"""Recordings to tokens: `speechssm tokenize`, `prepare sequences` and `prepare token-pairs`."""

import functools
import hashlib
import json
import logging
import multiprocessing
import shlex
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.checks import check_at_least, check_between
from keras_speechssm.data.corpora import name_recordings, read_turns
from keras_speechssm.data.segmentation import Span, cut_at_pauses, cut_at_turns, monologue_spans
from keras_speechssm.data.token_store import (
    TokenSequence,
    check_shard,
    write_manifest,
    write_shard,
    write_tokens,
)
from keras_speechssm.files import (
    is_bucket,
    open_path,
    remove_partial_files,
    resolve_path,
    write_json,
)
from keras_speechssm.models.preset_mixin import load_part
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.models.soundstream.soundstream import SoundStream
from keras_speechssm.presets import DEFAULT_PRESET, has_weights
from keras_speechssm.shapes import FRAMES_PER_TOKEN, SAMPLE_RATE, SAMPLES_PER_FRAME, TOKEN_RATE

logger = logging.getLogger(__name__)

SPEECH_KINDS = ("read", "spontaneous", "whole")
MAX_DEFAULT_SHARDS = 1024
# A shard file has at least 128 KiB, and an interrupt costs at most one shard.
MIN_DEFAULT_RECORDINGS = 16
# What a cut leaves over of less than one token is dropped.
_SHORTEST_SECONDS = 1 / TOKEN_RATE
# Training of SoundStorm reads a whole sequence for one crop of up to 30 s.
_PAIR_SECONDS = 120.0
# The codec encodes pieces with context before and after, so that memory does not grow.
_PIECE_SAMPLES = 30 * SAMPLE_RATE
_CONTEXT_SAMPLES = 2 * SAMPLE_RATE
_STEP_SAMPLES = 4 * SAMPLE_RATE


def tokenize_file(
    audio_path: str | Path, output_path: str | Path, preset: str = DEFAULT_PRESET
) -> int:
    """Write the semantic tokens of one recording as a `.npy` file.

    Args:
        audio_path: The recording.
        output_path: Path that ends in `.npy`. Written atomically.
        preset: Preset of a `SemanticTokenizer` or a pipeline.

    Returns:
        The number of tokens, 25 per second.

    Raises:
        ValueError: If the recording, the name of the output or the preset cannot be used.
    """
    output_path = Path(output_path)
    if output_path.suffix != ".npy":
        raise ValueError(f"Token files must end in .npy. Received: {output_path}.")
    waveform = read_audio(audio_path)
    tokens = load_part(preset, SemanticTokenizer.preset_part).tokenize(waveform)
    write_tokens(output_path, tokens)
    return len(tokens)


def tokenize_recordings(
    audio: Sequence[str | Path], output_folder: str | Path, preset: str = DEFAULT_PRESET
) -> int:
    """Write a token store with one sequence per recording, without cutting.

    If interrupted, run it again to resume with the missing shards.

    Args:
        audio: Folders of recordings, or recordings. Names in the store are the paths below a
            single folder; with several, each begins with the name of its folder.
        output_folder: Folder of the store. Created if missing.
        preset: Preset of a `SemanticTokenizer` or a pipeline.

    Returns:
        The number of tokens in the store.

    Raises:
        ValueError: If a recording or the preset cannot be used, two recordings have the same
            name, or the store was started with other recordings or another preset.
    """
    counts = prepare_sequences(
        audio, output_folder, preset=preset, speech="whole", max_unreadable_fraction=0.0
    )
    return counts["tokens"]


@dataclass(frozen=True)
class SequencePlan:
    """How sequences are made. `plan.json` stores it with the names of the recordings.

    Attributes:
        preset: Preset of the tokenizer.
        vocabulary_size: Vocabulary size of the tokenizer.
        target_seconds: Longest sequence before its end is dropped; None without cuts.
        drop_last_seconds: Seconds of each sequence's end to drop after tokenization.
        speech: One of `SPEECH_KINDS`.
        recordings_per_shard: Number of recordings per shard.
        codec_preset: Preset of the codec of a store of token pairs; else `None`.
        codebook_size: The codec's codes per level.
        num_levels: The codec's levels.
        models: Checksum of the weights of tokenizer and codec.
        same_voice: See `monologue_spans`; `None` unless the speech is spontaneous.
        monologue_fraction: See `monologue_spans`; `None` unless the speech is spontaneous.
        longest_pause: See `monologue_spans`; `None` unless the speech is spontaneous.
    """

    preset: str
    vocabulary_size: int
    target_seconds: float | None
    drop_last_seconds: float
    speech: str
    recordings_per_shard: int
    codec_preset: str | None = None
    codebook_size: int | None = None
    num_levels: int | None = None
    models: str | None = None
    same_voice: float | None = None
    monologue_fraction: float | None = None
    longest_pause: float | None = None


@dataclass(frozen=True)
class ShardTask:
    """The work of one worker: a shard's number and its recordings.

    A shard depends on the plan and its own recordings only, so it is the same whoever makes
    it: one process, several, or a worker of Apache Beam.
    """

    folder: str
    number: int
    recordings: tuple[tuple[str, str], ...]
    plan: SequencePlan

    @property
    def name(self) -> str:
        """Name of the shard's files without suffix."""
        return f"shard-{self.number:05d}"

    @property
    def report(self) -> Path:
        """Path of the shard's report."""
        return open_path(self.folder) / f"{self.name}.json"


def make_shard(task: ShardTask) -> dict:
    """Make a shard unless it exists intact, and return its report.

    A shard with skipped recordings is made again, because they may have been repaired.

    Returns:
        dict: `file`, `bytes`, `sha256`, `lengths`; `skipped`, a list of `recording` and `error`;
        `seconds` of the audio read; `unused`, recordings of which nothing could be used.
    """
    folder = open_path(task.folder)
    path = folder / f"{task.name}.array_record"
    shard = read_report(task) if task.report.is_file() and path.is_file() else None
    if shard is not None and not shard["skipped"]:
        check_shard(folder, shard)
        return shard
    skipped, unused, seconds = [], [], []
    sequences = _tokenize_spans(task, skipped, unused, seconds)
    shard = write_shard(path, sequences, task.plan.vocabulary_size, task.plan.codebook_size)
    shard.update(skipped=skipped, unused=unused, seconds=round(sum(seconds), 3))
    write_json(task.report, shard)
    return shard


def _tokenize_spans(task: ShardTask, skipped, unused, seconds) -> Iterator[TokenSequence]:
    plan = task.plan
    dropped = round(plan.drop_last_seconds * TOKEN_RATE)
    for name, path in task.recordings:
        try:
            with _local_recording(path) as local:
                waveform = read_audio(local)
                turns = read_turns(local)
            spans = find_spans(waveform, turns, plan)
        except (ValueError, OSError) as error:
            skipped.append({"recording": name, "error": " ".join(str(error).split())})
            continue
        seconds.append(len(waveform) / SAMPLE_RATE)
        kept = 0
        for span in spans:
            # Round first, so that the record describes exactly what was cut.
            start, stop = (round(second, 3) for second in span)
            if stop - start < _SHORTEST_SECONDS:
                continue
            piece = waveform[round(start * SAMPLE_RATE) : round(stop * SAMPLE_RATE)]
            tokens = _tokenizer(plan.preset).tokenize(piece)
            tokens, acoustic = tokens[: max(0, len(tokens) - dropped)], None
            if plan.codec_preset is not None:
                acoustic = encode_acoustic(_codec(plan.codec_preset), piece)
                # The last token may have been made of padding in part.
                tokens = tokens[: len(acoustic) // FRAMES_PER_TOKEN]
                acoustic = acoustic[: len(tokens) * FRAMES_PER_TOKEN]
            if len(tokens):
                kept += 1
                yield TokenSequence(name, start, stop, np.asarray(tokens), acoustic)
        if not kept:
            unused.append(name)


@contextmanager
def _local_recording(path: str) -> Iterator[Path]:
    """Yield a recording on this machine; one in a bucket is downloaded, with its `.json`."""
    if not is_bucket(path):
        yield Path(path)
        return
    remote = open_path(path)
    with tempfile.TemporaryDirectory() as folder:
        for source in (remote, remote.with_suffix(".json")):
            if source.exists():
                (Path(folder) / source.name).write_bytes(source.read_bytes())
        try:
            yield Path(folder) / remote.name
        except ValueError as error:
            raise ValueError(str(error).replace(folder, str(remote.parent))) from error


def read_report(task: ShardTask) -> dict:
    """Read the report that `make_shard` wrote.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        shard = json.loads(task.report.read_text(encoding="utf-8"))
        has_lists = all(isinstance(shard[key], list) for key in ("lengths", "skipped", "unused"))
        if has_lists and shard["seconds"] >= 0 and shard["bytes"] > 0 and shard["file"]:
            return shard
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{task.report} is damaged; delete it, and run the preparation again.")


def find_spans(waveform: np.ndarray, turns: list[Span] | None, plan: SequencePlan) -> list[Span]:
    """Return the spans of a recording that become sequences.

    Args:
        waveform: float (samples,) at 16 kHz.
        turns: Turns of speech in seconds from a sidecar; `None` if there is none.
        plan: Read speech is cut between turns or, without turns, at pauses, and all of it is
            kept. Of spontaneous speech the monologues are kept. "whole" does not cut.
    """
    duration = len(waveform) / SAMPLE_RATE
    if plan.speech == "whole":
        return [(0.0, duration)]
    if turns is not None:
        turns = [(max(0.0, start), min(stop, duration)) for start, stop in turns]
        turns = [turn for turn in turns if turn[1] > turn[0]]
    if plan.speech == "spontaneous":
        return _find_monologues(waveform, turns, plan)
    if turns is None:
        return cut_at_pauses(waveform, plan.target_seconds)
    return cut_at_turns(turns, duration, plan.target_seconds)


def _find_monologues(
    waveform: np.ndarray, turns: list[Span] | None, plan: SequencePlan
) -> list[Span]:
    if turns is None:
        from keras_speechssm.data.segmentation import speech_turns

        turns = speech_turns(waveform)

    def embed(span: Span) -> np.ndarray:
        start, stop = (round(second * SAMPLE_RATE) for second in span)
        return _speaker_embedder()(waveform[start:stop])

    return monologue_spans(
        turns,
        embed,
        plan.target_seconds,
        same_voice=plan.same_voice,
        monologue_fraction=plan.monologue_fraction,
        longest_pause=plan.longest_pause,
    )


@functools.cache
def _tokenizer(preset: str) -> SemanticTokenizer:
    return load_part(preset, SemanticTokenizer.preset_part)


@functools.cache
def _codec(preset: str) -> SoundStream:
    return load_part(preset, SoundStream.preset_part)


def encode_acoustic(codec: SoundStream, waveform: np.ndarray) -> np.ndarray:
    """Encode a recording of any length in pieces of 30 s, with 2 s of context on both sides.

    Args:
        codec: A `SoundStream`, or another model with its `encode`.
        waveform: float32 (samples,) at 16 kHz.

    Returns:
        int32 (frames, levels), complete frames only.
    """
    frames = []
    for start in range(0, len(waveform), _PIECE_SAMPLES):
        first = max(0, start - _CONTEXT_SAMPLES)
        end = min(start + _PIECE_SAMPLES, len(waveform)) // SAMPLES_PER_FRAME
        piece = waveform[first : start + _PIECE_SAMPLES + _CONTEXT_SAMPLES]
        # Padded, so that few shapes are compiled.
        encoded = np.asarray(codec.encode(np.pad(piece, (0, -len(piece) % _STEP_SAMPLES))))
        offset = first // SAMPLES_PER_FRAME
        frames.append(encoded[start // SAMPLES_PER_FRAME - offset : end - offset])
    return np.concatenate(frames).astype("int32")


def checksum_of_models(*models) -> str:
    """Return a checksum of the weights of models, whatever the order of each one's weights.

    Args:
        *models: Keras models. The order of a model's weights may differ between backends.
    """
    digests = [
        sorted(
            hashlib.sha256(np.ascontiguousarray(weight).tobytes()).hexdigest()
            for weight in model.get_weights()
        )
        for model in models
    ]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


@functools.cache
def _speaker_embedder():
    from keras_speechssm.data.speaker_embedding import open_speaker_embedder

    return open_speaker_embedder()


def make_shards_with_beam(
    tasks: Sequence[ShardTask], options: Sequence[str]
) -> Iterator[tuple[int, dict]]:
    """Make the shards in a Beam pipeline, wait for its end, and yield their reports.

    Args:
        tasks: One task per shard. Their folders must be in buckets, or mounted under the same
            paths on all workers and on this machine.
        options: Options of the pipeline as on its command line: `--runner=DataflowRunner`, ...

    Yields:
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


def prepare_sequences(
    audio_folders: Sequence[str | Path],
    output_folder: str | Path,
    *,
    preset: str = DEFAULT_PRESET,
    target_seconds: float = 240.0,
    drop_last_seconds: float | None = None,
    speech: str = "read",
    same_voice: float = 0.75,
    monologue_fraction: float = 0.9,
    longest_pause: float = 10.0,
    recordings_per_shard: int | None = None,
    max_unreadable_fraction: float = 0.02,
    workers: int = 1,
    beam_options: str | None = None,
) -> dict:
    """Cut and tokenize recordings into a token store for training language models.

    Follows the paper (sections 3 and 5, appendix B.1): sequences of up to 30 s, 4 min or
    16 min are cut along utterances and tokenized in windows of 30 s, the last of which is
    filled with the beginning of the sequence. If interrupted, run it again to resume with the
    missing shards. The result does not depend on `workers` or Beam.

    Args:
        audio_folders: Folders of recordings, local or in a bucket (`gs://`, `s3://`). A `.json`
            next to a recording may say when somebody speaks (`voice_activity` as in LibriLight,
            or `segments`); read speech without one is cut at its quietest places.
        output_folder: Folder of the store, local or in a bucket. Created if missing. Training
            reads local folders only.
        preset: Preset of a `SemanticTokenizer` or a pipeline.
        target_seconds: Longest sequence: 30, 240 or 960 in the paper.
        drop_last_seconds: Seconds to drop from each sequence's end; shorter sequences
            vanish. Defaults to 10 between 30 s and 16 min, as the paper's 4 min have it
            (generation stopped there otherwise), else 0.
        speech: `read` keeps all speech, `spontaneous` keeps contiguous turns of monologues (the
            paper's appendix B.4), found by voice activity and speaker embeddings, and `whole`
            makes one sequence of each recording, without cutting or dropping anything.
        same_voice: Of spontaneous speech: smallest cosine to the main voice of a recording for a
            turn to be that voice's.
        monologue_fraction: Of spontaneous speech: smallest fraction of the speech of a recording
            that must be the main voice's. Other recordings are not used.
        longest_pause: Of spontaneous speech: seconds of silence after which a sequence ends.
        recordings_per_shard: Defaults to 16, or more if there would be more than 1024 shards.
        max_unreadable_fraction: Fraction of the recordings that may be unreadable, 0 to 1. They
            are listed and skipped; above the fraction the run stops.
        workers: Number of processes.
        beam_options: Options of an Apache Beam pipeline as on its command line, such as
            `--runner=DirectRunner`, which then makes the shards (extra `beam`). Both folders must
            be in buckets, or mounted under the same paths on all workers. In a shell write
            `--beam-options="--runner=..."`.

    Returns:
        dict of counts: recordings, skipped, unused, sequences, tokens, shards, hours of audio.

    Raises:
        ValueError: If there are too many unreadable recordings, nothing is left of any, the
            folder was made with other options, a shard is damaged, or an argument is out of
            range.
    """
    names = name_recordings([*audio_folders])
    plan = _make_plan(
        preset, target_seconds, drop_last_seconds, speech, recordings_per_shard, len(names)
    )
    check_between(-1, 1, same_voice=same_voice)
    check_between(0, 1, monologue_fraction=monologue_fraction)
    check_at_least(0, longest_pause=longest_pause)
    if speech == "spontaneous":
        plan = replace(
            plan,
            same_voice=same_voice,
            monologue_fraction=monologue_fraction,
            longest_pause=longest_pause,
        )
    return _make_store(names, output_folder, plan, max_unreadable_fraction, workers, beam_options)


def prepare_token_pairs(
    audio_folders: Sequence[str | Path],
    output_folder: str | Path,
    *,
    tokenizer_preset: str = DEFAULT_PRESET,
    codec_preset: str = DEFAULT_PRESET,
    recordings_per_shard: int | None = None,
    max_unreadable_fraction: float = 0.02,
    workers: int = 1,
    beam_options: str | None = None,
) -> dict:
    """Tokenize recordings with tokenizer and codec into a store for training SoundStorm.

    `speechssm train soundstorm` does this itself for folders of audio, in one process; give it
    the store as an audio folder instead. Recordings of more than two minutes are cut at pauses;
    nothing is dropped. If interrupted, run it again to resume with the missing shards.

    Args:
        audio_folders: Folders of audio files, local or in a bucket (`gs://`, `s3://`).
        output_folder: Folder of the store, local or in a bucket. Created if missing. Training
            reads local folders only.
        tokenizer_preset: Preset of a `SemanticTokenizer` or a pipeline.
        codec_preset: Preset of a `SoundStream` or a pipeline.
        recordings_per_shard: Defaults to 16, or more if there would be more than 1024 shards.
        max_unreadable_fraction: Fraction of the recordings that may be unreadable, 0 to 1.
        workers: Number of processes.
        beam_options: Options of an Apache Beam pipeline as on its command line, such as
            `--runner=DirectRunner`, which then makes the shards (extra `beam`).

    Returns:
        dict of counts, as `prepare_sequences` returns it.

    Raises:
        ValueError: See `prepare_sequences`; or the folder was made with other models.
    """
    names = name_recordings([*audio_folders])
    plan = _make_plan(
        tokenizer_preset, _PAIR_SECONDS, 0.0, "read", recordings_per_shard, len(names)
    )
    if not has_weights(SoundStream, codec_preset):
        raise ValueError(f"The preset {codec_preset!r} has no weights to encode with.")
    codec = _codec(codec_preset)
    plan = replace(
        plan,
        codec_preset=codec_preset,
        codebook_size=codec.codebook_size,
        num_levels=codec.num_quantizers,
        models=checksum_of_models(_tokenizer(tokenizer_preset), codec),
    )
    return _make_store(names, output_folder, plan, max_unreadable_fraction, workers, beam_options)


def _make_store(
    names: dict[str, Path],
    output_folder: str | Path,
    plan: SequencePlan,
    max_unreadable_fraction: float,
    workers: int,
    beam_options: str | None,
) -> dict:
    check_between(0, 1, max_unreadable_fraction=max_unreadable_fraction)
    check_at_least(1, workers=workers)
    try:
        pipeline_options = None if beam_options is None else shlex.split(beam_options)
    except ValueError as error:
        raise ValueError(f"beam_options is {beam_options!r}: {error}.") from None
    folder = open_path(output_folder)
    content = {**asdict(plan), "token_rate": TOKEN_RATE, "recordings": list(names)}
    _save_plan(folder, content)
    recordings = [(name, str(resolve_path(path))) for name, path in names.items()]
    starts = range(0, len(recordings), plan.recordings_per_shard)
    tasks = [
        ShardTask(
            str(resolve_path(folder)),
            number,
            tuple(recordings[start : start + plan.recordings_per_shard]),
            plan,
        )
        for number, start in enumerate(starts)
    ]
    if pipeline_options is not None:
        made = make_shards_with_beam(tasks, pipeline_options)
    else:
        made = _make_shards(tasks, workers)
    shards = _collect_shards(made, len(tasks), max_unreadable_fraction * len(names))
    if not any(shard["lengths"] for shard in shards):
        raise ValueError(
            f"Nothing is left of the recordings: none has more speech than the "
            f"{plan.drop_last_seconds:g} s that are dropped at its end; give a smaller "
            "--drop-last-seconds (or --target-seconds 30, which drops nothing) and another folder."
        )
    manifest = write_manifest(folder, content, shards)
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
    if speech not in SPEECH_KINDS:
        raise ValueError(f"speech is {speech!r}; expected one of {', '.join(SPEECH_KINDS)}.")
    check_at_least(1, target_seconds=target_seconds)
    if drop_last_seconds is None:
        drop_last_seconds = 10.0 if 30 < target_seconds < 960 else 0.0
    if speech == "whole":
        target_seconds, drop_last_seconds = None, 0.0
    elif not 0 <= drop_last_seconds < target_seconds:
        raise ValueError(
            f"drop_last_seconds is {drop_last_seconds}; expected 0 to less than {target_seconds}."
        )
    if per_shard is None:
        per_shard = max(MIN_DEFAULT_RECORDINGS, -(-count // MAX_DEFAULT_SHARDS))
    check_at_least(1, recordings_per_shard=per_shard)
    if not has_weights(SemanticTokenizer, preset):
        raise ValueError(f"The preset {preset!r} has no weights to tokenize with.")
    tokenizer = load_part(preset, SemanticTokenizer.preset_part, load_weights=False)
    return SequencePlan(
        preset,
        tokenizer.vocabulary_size,
        None if target_seconds is None else float(target_seconds),
        float(drop_last_seconds),
        speech,
        per_shard,
    )


def _save_plan(folder: Path, content: dict) -> None:
    """Write `plan.json`, or compare with the one that exists."""
    path = folder / "plan.json"
    if folder.is_file():
        raise ValueError(f"Cannot write a store to {folder}: it is a file; give a folder.")
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
        raise ValueError(
            f"{folder} was started with other {', '.join(other)}; give an empty folder."
        )
    remove_partial_files(folder)


def _make_shards(tasks: list[ShardTask], workers: int) -> Iterator[tuple[int, dict]]:
    """Yield number and report of each shard as it is made."""
    if workers == 1 or len(tasks) == 1:
        for task in tasks:
            yield task.number, make_shard(task)
        return
    # Spawned, because JAX's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context)
    try:
        numbers = {pool.submit(make_shard, task): task.number for task in tasks}
        for future in as_completed(numbers):
            yield numbers[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _collect_shards(made: Iterable[tuple[int, dict]], count: int, may_skip: float) -> list[dict]:
    """Return all shards in order; raise as soon as too many recordings were skipped."""
    shards, start, reported = {}, time.monotonic(), 0.0
    for number, shard in made:
        shards[number] = shard
        skipped = [entry for shard in shards.values() for entry in shard["skipped"]]
        if len(skipped) > may_skip:
            raise ValueError(
                f"{len(skipped)} of the recordings cannot be read; at most {may_skip:g} may be "
                f"unreadable (max_unreadable_fraction). The first: {skipped[0]['error']}"
            )
        now = time.monotonic()
        if now - reported > 5 or len(shards) == count:
            reported = now
            hours = sum(shard["seconds"] for shard in shards.values()) / 3600
            logger.info(
                "%d of %d shards, %.2f h of audio, %d skipped, %.0f s left",
                len(shards),
                count,
                hours,
                len(skipped),
                (now - start) / len(shards) * (count - len(shards)),
            )
    return [shards[number] for number in sorted(shards)]
