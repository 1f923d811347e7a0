"""Stores of tokens: ArrayRecord shards, checksums, and a manifest.

    <folder>/plan.json                      what is prepared, and how; written first
    <folder>/shard-00000.array_record       one record per sequence
    <folder>/shard-00000.json               its sequences, checksum, skipped recordings
    <folder>/manifest.json                  all of it, written last; it completes the store

A record is one line of JSON (`recording`, `start`, `stop`, `width`) followed by the tokens,
little-endian, `width` bytes each. In a store of token pairs (`prepare_token_pairs`) the acoustic
tokens follow, `levels` per frame with `acoustic_width` bytes each. Needs the package `array-record`
(extra `prepare`).

Folders of `.npy` files, which earlier versions wrote, are read too:

    <folder>/manifest.json                  vocabulary size, and every recording's length
    <folder>/<book>/0000.npy                uint16 or int32 (time,)
"""

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_speechssm.checks import check_at_least, first_line, to_int, token_array
from keras_speechssm.files import (
    DAMAGED_ARRAYS,
    atomic_write,
    checksum,
    is_bucket,
    open_path,
    write_json,
)
from keras_speechssm.shapes import FRAMES_PER_TOKEN, TOKEN_RATE

MANIFEST = "manifest.json"
TOKEN_SHAPE = ("(time,)",)
FORMAT = "token_store"
# Earlier versions wrote the same layout under another name.
FORMATS = (FORMAT, "sequence_store")


@dataclass(frozen=True)
class TokenSequence:
    """A contiguous stretch of a recording as tokens.

    Attributes:
        recording: Name of the recording.
        start: Start in the recording, in seconds.
        stop: End in the recording, in seconds.
        tokens: int32 (time,).
        acoustic: Acoustic tokens int32 (2 * time, levels) of the same stretch, in a store of token
            pairs; else `None`.
    """

    recording: str
    start: float
    stop: float
    tokens: np.ndarray
    acoustic: np.ndarray | None = None


def write_token_store(
    folder: str | Path,
    recordings: Mapping[str, np.ndarray],
    vocabulary_size: int,
    preset: str = "",
) -> dict:
    """Write a store of one shard with one sequence per recording.

    Args:
        folder: Folder of the store. Created if missing.
        recordings: Tokens of each recording by name.
        vocabulary_size: Vocabulary size of the tokenizer.
        preset: Name or handle of the tokenizer.

    Returns:
        The manifest.

    Raises:
        ValueError: If a token is not below `vocabulary_size`.

    Example:

    ```python
    import numpy as np
    from keras_speechssm.data import TokenStore, write_token_store

    write_token_store("store", {"a": np.arange(50)}, vocabulary_size=96)
    len(TokenStore("store"))  # 1
    ```
    """
    check_at_least(1, vocabulary_size=to_int("vocabulary_size", vocabulary_size))
    sequences = []
    for name, tokens in recordings.items():
        tokens = token_array(tokens, f"Recording {name!r}", shapes=TOKEN_SHAPE, allow_empty=True)
        sequences.append(TokenSequence(name, 0.0, len(tokens) / TOKEN_RATE, tokens))
    shard = write_shard(Path(folder) / "shard-00000.array_record", sequences, vocabulary_size)
    return write_manifest(folder, {"preset": preset, "vocabulary_size": vocabulary_size}, [shard])


def write_shard(
    path: str | Path,
    sequences: Iterable[TokenSequence],
    vocabulary_size: int,
    codebook_size: int | None = None,
) -> dict:
    """Write an ArrayRecord file atomically.

    Args:
        path: Path of the file.
        sequences: What it contains.
        vocabulary_size: Number of semantic tokens.
        codebook_size: Number of acoustic tokens per level. Defaults to `None`: there are none.

    Returns:
        dict: `file`, `bytes`, `sha256` and `lengths`, the number of tokens of each sequence.

    Raises:
        ValueError: If a token is not below `vocabulary_size`, or `codebook_size`.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    lengths = []
    with atomic_write(path) as temporary:
        # Groups of one record, so that training reads single sequences in any order.
        writer = ArrayRecordWriter(str(temporary), "group_size:1")
        try:
            for sequence in sequences:
                writer.write(_pack(sequence, vocabulary_size, codebook_size))
                lengths.append(len(sequence.tokens))
        finally:
            writer.close()
        return {
            "file": Path(path).name,
            "bytes": temporary.stat().st_size,
            "sha256": checksum(temporary),
            "lengths": lengths,
        }


def write_manifest(folder: str | Path, plan: dict, shards: list[dict]) -> dict:
    """Write `manifest.json`, which completes a store, and return it.

    Args:
        folder: Folder of the store.
        plan: How the store was made; `vocabulary_size` at least.
        shards: Reports of `write_shard`.
    """
    lengths = [length for shard in shards for length in shard["lengths"]]
    manifest = {
        "format": FORMAT,
        "token_rate": TOKEN_RATE,
        **plan,
        "num_sequences": len(lengths),
        "num_tokens": sum(lengths),
        "skipped": [entry for shard in shards for entry in shard.get("skipped", [])],
        "shards": shards,
    }
    write_json(open_path(folder) / MANIFEST, manifest)
    return manifest


_VERIFIED_BYTES = 2 * 2**30


def is_token_store(folder: str | Path) -> bool:
    """Return whether the folder is a finished store or a finished folder of `.npy` tokens."""
    try:
        content = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(content, dict):
        return False
    return content.get("format") in FORMATS or "recordings" in content


class TokenStore:
    """Random access to the sequences of a store: `len(store)`, `store[index]`.

    It is a data source for Grain: `grain.MapDataset.source(store)`.

    Args:
        folder: A finished store, or a folder of `.npy` tokens of an earlier version.
        verify: Whether to compare every shard with its checksum first, unless there are more than
            2 GiB: reading them would take minutes, and ArrayRecord finds damage in what it reads.
            Defaults to `True`.

    Attributes:
        manifest: Content of `manifest.json`.
        vocabulary_size: Every token is below it.
        lengths: int64 (len(store),), the number of tokens of each sequence.

    Raises:
        ValueError: If the folder is not a finished store, or a shard is missing or damaged.
    """

    def __init__(self, folder: str | Path, verify: bool = True):
        self.folder = Path(folder)
        if not is_token_store(folder):
            raise ValueError(
                f"{folder} is not a finished token store (no usable {MANIFEST}); run `speechssm "
                "prepare sequences` or `speechssm tokenize`."
            )
        self.manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        try:
            self.vocabulary_size = int(self.manifest["vocabulary_size"])
            if self.manifest.get("format") in FORMATS:
                lengths = self._open_shards(verify)
            else:
                lengths = self._open_npy_files()
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{folder}/{MANIFEST} is damaged ({error!r}); prepare it again."
            ) from error
        self.lengths = np.array(lengths, "int64")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> TokenSequence:
        # Raises IndexError past the end, which ends a loop over the store.
        index = range(len(self))[int(index)]
        if self._records is None:
            return self._read_npy(index)
        header, _, content = self._records[index].partition(b"\n")
        about = json.loads(header)
        width, levels = about.pop("width"), about.pop("levels", 0)
        if not levels:
            return TokenSequence(
                **about, tokens=np.frombuffer(content, f"<u{width}").astype("int32")
            )
        acoustic_width = about.pop("acoustic_width")
        time = len(content) // (width + FRAMES_PER_TOKEN * levels * acoustic_width)
        tokens = np.frombuffer(content, f"<u{width}", time).astype("int32")
        acoustic = np.frombuffer(content, f"<u{acoustic_width}", offset=time * width)
        return TokenSequence(
            **about, tokens=tokens, acoustic=acoustic.reshape(-1, levels).astype("int32")
        )

    def _open_shards(self, verify: bool) -> np.ndarray:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        shards = [shard for shard in self.manifest["shards"] if shard["lengths"]]
        for shard in shards:  # millions of Python's integers take ten times as much memory
            shard["lengths"] = np.array(shard["lengths"], "int64")
        lengths = np.concatenate([[], *(shard["lengths"] for shard in shards)])
        verify = verify and sum(shard["bytes"] for shard in shards) <= _VERIFIED_BYTES
        for shard in shards:
            check_shard(self.folder, shard, verify)
        paths = [str(self.folder / shard["file"]) for shard in shards]
        self._records = ArrayRecordDataSource(paths) if paths else []
        if len(self._records) != len(lengths):
            raise ValueError(
                f"{self.folder} holds {len(self._records)} sequences, but its {MANIFEST} lists "
                f"{len(lengths)}; prepare it again."
            )
        return lengths

    def _open_npy_files(self) -> list[int]:
        self._records = None
        self._files = sorted(
            (str(name), int(count)) for name, count in self.manifest["recordings"].items()
        )
        # Report damage now rather than in the middle of training.
        for index in range(len(self._files)):
            self._read_npy(index)
        return [length for _, length in self._files]

    def _read_npy(self, index: int) -> TokenSequence:
        name, length = self._files[index]
        tokens = read_tokens(self.folder / f"{name}.npy", self.vocabulary_size)
        if len(tokens) != length:
            raise ValueError(
                f"{name} in {self.folder} has {len(tokens)} tokens, but {MANIFEST} lists "
                f"{length}; tokenize it again."
            )
        rate = float(self.manifest.get("token_rate", TOKEN_RATE))
        return TokenSequence(name, 0.0, length / rate, tokens)


class TokenSource(NamedTuple):
    """The sequences of several stores, read on demand.

    Attributes:
        vocabulary_size: Every token is below it.
        lengths: Number of tokens of each sequence.
        read: Function from the index of a sequence to its tokens, int32 (time,).
    """

    vocabulary_size: int
    lengths: np.ndarray
    read: Callable[[int], np.ndarray]


def open_tokens(folders: Sequence[str | Path]) -> TokenSource:
    """Open several stores as one list of sequences.

    Args:
        folders: Stores of `speechssm prepare sequences` or `speechssm tokenize`.

    Raises:
        ValueError: If a folder is not a store, is damaged, or has another vocabulary size.
    """
    stores = {str(folder): TokenStore(folder) for folder in folders}
    sizes = {folder: store.vocabulary_size for folder, store in stores.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(
            f"Token stores must share one tokenizer. Received vocabulary sizes: {sizes}."
        )
    opened = list(stores.values())
    lengths = np.concatenate([store.lengths for store in opened])
    ends = np.cumsum([len(store) for store in opened])
    read = functools.partial(_read_sequence, opened, ends)  # worker processes pickle it
    return TokenSource(next(iter(sizes.values())), lengths, read)


def _read_sequence(stores: list[TokenStore], ends: np.ndarray, number: int) -> np.ndarray:
    place = int(np.searchsorted(ends, number, side="right"))
    first = int(ends[place - 1]) if place else 0
    return stores[place][number - first].tokens


def check_shard(folder: str | Path, shard: dict, verify: bool = True) -> None:
    """Compare a shard with its report. In a bucket, which verifies its content, only the size.

    Raises:
        ValueError: If it is missing, or its size or (with `verify`) checksum differs.
    """
    path = open_path(folder) / shard["file"]
    if not path.is_file():
        raise ValueError(f"{path} is missing; run the preparation again.")
    if is_bucket(path):
        intact = path.stat().length == shard["bytes"]
    else:
        intact = path.stat().st_size == shard["bytes"]
        intact = intact and (not verify or checksum(path) == shard["sha256"])
    if not intact:
        raise ValueError(
            f"{path} is damaged; delete it and its .json, and run the preparation again."
        )


def write_tokens(path: str | Path, tokens: np.ndarray) -> None:
    """Write the tokens of one recording as a `.npy` file, atomically.

    Args:
        path: Path that ends in `.npy`. Its folder is created if missing.
        tokens: Non-negative integers (time,).

    Raises:
        ValueError: If the tokens or the path are something else.
    """
    path = Path(path)
    tokens = token_array(tokens, shapes=TOKEN_SHAPE, allow_empty=True)
    if path.suffix != ".npy":
        raise ValueError(f"Token files must end in .npy. Received: {path}.")
    small = tokens.size == 0 or tokens.max() < 2**16
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.save(file, tokens.astype("uint16" if small else "int32"), allow_pickle=False)


def read_tokens(path: str | Path, vocabulary_size: int | None = None) -> np.ndarray:
    """Read the tokens of one recording from a `.npy` file.

    Args:
        path: Path of the file.
        vocabulary_size: If given, every token must be below it.

    Returns:
        int32 (time,).

    Raises:
        ValueError: If the file is missing, damaged, or not a file of tokens.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"The token file {path} does not exist; tokenize the recording first.")
    try:
        tokens = np.load(path, allow_pickle=False)
    except (*DAMAGED_ARRAYS, OSError) as error:
        raise ValueError(
            f"{path} is not a token file ({first_line(error)}); tokenize it again."
        ) from error
    return token_array(
        tokens,
        str(path),
        vocabulary_size=vocabulary_size,
        shapes=TOKEN_SHAPE,
        allow_empty=True,
    )


def _pack(sequence: TokenSequence, vocabulary_size: int, codebook_size: int | None) -> bytes:
    tokens = token_array(
        sequence.tokens,
        sequence.recording,
        vocabulary_size=vocabulary_size,
        shapes=TOKEN_SHAPE,
        allow_empty=True,
    )
    width = 2 if vocabulary_size <= 2**16 else 4
    about = {"recording": sequence.recording, "start": sequence.start, "stop": sequence.stop}
    about["width"] = width
    content = tokens.astype(f"<u{width}").tobytes()
    if codebook_size is not None:
        acoustic = token_array(
            sequence.acoustic,
            sequence.recording,
            vocabulary_size=codebook_size,
            shapes=("(frames, levels)",),
            allow_empty=True,
        )
        if len(acoustic) != FRAMES_PER_TOKEN * len(tokens):
            raise ValueError(
                f"{sequence.recording} has {len(acoustic)} acoustic frames for {len(tokens)} "
                f"semantic tokens; expected {FRAMES_PER_TOKEN} per token."
            )
        acoustic_width = 2 if codebook_size <= 2**16 else 4
        about |= {"levels": acoustic.shape[1], "acoustic_width": acoustic_width}
        content += acoustic.astype(f"<u{acoustic_width}").tobytes()
    return json.dumps(about).encode() + b"\n" + content
