"""Sharded stores of training sequences: ArrayRecord files, checksums, and a manifest.

    <folder>/plan.json                      what is prepared, and how; written first
    <folder>/shard-00000.array_record       one record a sequence
    <folder>/shard-00000.json               its sequences, checksum, skipped recordings
    <folder>/manifest.json                  all of it, written last: a store without is unfinished

A record is one line of JSON (`recording`, `start`, `stop`, `width`) and the tokens behind it,
little-endian, `width` bytes each. Needs the packages `grain` and `array-record` (extra `prepare`).
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from keras_speechssm.data.token_store import MANIFEST, check_tokens
from keras_speechssm.whole_files import checksum, whole_file, write_json

FORMAT = "sequence_store"


@dataclass(frozen=True)
class TokenSequence:
    """A training sequence.

    Attributes:
        recording: name of the recording it is of.
        start, stop: the span of the recording, in seconds.
        tokens: int32 (time,).
    """

    recording: str
    start: float
    stop: float
    tokens: np.ndarray


def write_shard(path: str | Path, sequences: Iterable[TokenSequence], vocabulary_size: int) -> dict:
    """Writes an ArrayRecord file; it appears whole or not at all.

    Returns:
        dict: `file`, `bytes`, `sha256` and `lengths`, the number of tokens of each sequence.

    Raises:
        ValueError: a token is no number below `vocabulary_size`.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    path = Path(path)
    lengths = []
    with whole_file(path) as temporary:
        # One record a group, so that training reads single sequences in any order.
        writer = ArrayRecordWriter(str(temporary), "group_size:1")
        try:
            for sequence in sequences:
                writer.write(_pack(sequence, vocabulary_size))
                lengths.append(len(sequence.tokens))
        finally:
            writer.close()
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": checksum(path),
        "lengths": lengths,
    }


def write_store_manifest(folder: str | Path, plan: dict, shards: list[dict]) -> dict:
    """Writes `manifest.json`, which makes the store one that can be read; returns it."""
    lengths = [length for shard in shards for length in shard["lengths"]]
    manifest = {
        "format": FORMAT,
        **plan,
        "num_sequences": len(lengths),
        "num_tokens": sum(lengths),
        "skipped": [entry for shard in shards for entry in shard.get("skipped", [])],
        "shards": shards,
    }
    write_json(Path(folder) / MANIFEST, manifest)
    return manifest


def is_sequence_store(folder: str | Path) -> bool:
    """Whether the folder is a finished store of sequences, rather than a folder of tokens."""
    try:
        content = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


class SequenceStore:
    """Random access to a store's sequences: `len(store)`, `store[index]`.

    It is a data source of Grain: `grain.MapDataset.source(store)`.

    Args:
        folder: of the store.
        verify: compare every shard with its checksum first. Defaults to `True`.

    Attributes:
        manifest: dict, what `manifest.json` holds.
        vocabulary_size: every token is below it.
        lengths: int64 (len(store),), the number of tokens of each sequence.

    Raises:
        ValueError: the folder is no finished store, or a shard is missing or damaged.
    """

    def __init__(self, folder: str | Path, verify: bool = True):
        from grain.sources import ArrayRecordDataSource

        self.folder = Path(folder)
        if not is_sequence_store(folder):
            raise ValueError(
                f"{folder} is no finished store of sequences; run speechssm prepare sequences."
            )
        self.manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        try:
            self.vocabulary_size = int(self.manifest["vocabulary_size"])
            shards = [shard for shard in self.manifest["shards"] if shard["lengths"]]
            lengths = [length for shard in shards for length in shard["lengths"]]
            self.lengths = np.array(lengths, "int64")
            for shard in shards:
                check_shard(self.folder, shard, verify)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder}/{MANIFEST} is damaged ({error!r}).") from error
        paths = [str(self.folder / shard["file"]) for shard in shards]
        self._records = ArrayRecordDataSource(paths) if paths else []
        if len(self._records) != len(self.lengths):
            raise ValueError(
                f"{folder} holds {len(self._records)} sequences, its {MANIFEST} says "
                f"{len(self.lengths)}; prepare it again."
            )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> TokenSequence:
        return _unpack(self._records[int(index)])


def check_shard(folder: Path, shard: dict, verify: bool = True) -> None:
    """Compares a shard with what is known of it.

    Raises:
        ValueError: it is missing, of another size or, with `verify`, of another checksum.
    """
    path = Path(folder) / shard["file"]
    if not path.is_file():
        raise ValueError(f"{path} is missing; run the preparation again.")
    intact = path.stat().st_size == shard["bytes"]
    if not intact or (verify and checksum(path) != shard["sha256"]):
        raise ValueError(
            f"{path} is damaged; delete it and its .json, and run the preparation again."
        )


def _pack(sequence: TokenSequence, vocabulary_size: int) -> bytes:
    tokens = check_tokens(sequence.tokens, sequence.recording, vocabulary_size)
    width = 2 if vocabulary_size <= 2**16 else 4
    about = {key: value for key, value in asdict(sequence).items() if key != "tokens"}
    header = json.dumps({**about, "width": width})
    return header.encode() + b"\n" + tokens.astype(f"<u{width}").tobytes()


def _unpack(record: bytes) -> TokenSequence:
    header, _, tokens = record.partition(b"\n")
    about = json.loads(header)
    tokens = np.frombuffer(tokens, f"<u{about.pop('width')}").astype("int32")
    return TokenSequence(**about, tokens=tokens)
