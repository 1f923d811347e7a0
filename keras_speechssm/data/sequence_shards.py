"""One shard of a store of training sequences: recordings -> spans -> tokens -> a file.

A shard depends on the plan and its own recordings only, so it is the same whoever makes it: one
process, several, or a worker of Apache Beam somewhere else.
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from keras_speechssm.audio import read_audio
from keras_speechssm.data.corpora import read_turns
from keras_speechssm.data.segments import Span, cut_at_pauses, cut_at_turns, monologue_spans
from keras_speechssm.data.sequence_store import TokenSequence, check_shard, write_shard
from keras_speechssm.semantic import SemanticTokenizer
from keras_speechssm.shapes import SAMPLE_RATE, TOKEN_RATE
from keras_speechssm.whole_files import write_json

_SHORTEST = 1 / TOKEN_RATE
"""Seconds; what a cut leaves over of less than a token is nothing."""


@dataclass(frozen=True)
class SequencePlan:
    """How sequences are made; what `plan.json` keeps beside the names of the recordings.

    Attributes:
        preset: of the tokenizer.
        vocabulary_size: of the tokenizer.
        target_seconds: longest sequence, before its end is dropped.
        drop_last_seconds: what is dropped of each sequence's end, after tokenising.
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
        from keras_speechssm.data.voice_activity import speech_turns

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
