"""Folders of semantic tokens: one `.npy` for each recording, and a manifest.

    <folder>/manifest.json        what the tokens are, and every recording's length
    <folder>/<book>/0000.npy      uint16 (time,), or int32 for vocabularies above 65536

The paths mirror those of the recordings. Everything appears whole or not at all, so a
preparation that was interrupted goes on where it was: `recording_names` of the folder
tells what is there.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_speechssm.files import atomic_write, checksum, write_json
from keras_speechssm.shapes import TOKEN_RATE

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What a folder of tokens holds.

    Attributes:
        vocabulary_size: Every token is below it.
        preset: Name or handle of the tokenizer that made the tokens.
        token_rate: Tokens in a second.
        recordings: Name of a recording (its path in the folder, without ending, with
            forward slashes) -> its number of tokens.
    """

    vocabulary_size: int
    preset: str = ""
    token_rate: float = TOKEN_RATE
    recordings: dict[str, int] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Tokens in all recordings together."""
        return sum(self.recordings.values())


def write_tokens(path: str | Path, tokens: np.ndarray) -> None:
    """Writes the tokens of one recording; the file appears whole or not at all.

    Args:
        path: Ends in `.npy`; its folder is made if missing.
        tokens: Integers (time,), 0 or more.

    Raises:
        ValueError: If the tokens or the path are not of that kind.
    """
    path = Path(path)
    tokens = check_tokens(tokens, "The tokens")
    if path.suffix != ".npy":
        raise ValueError(f"Cannot write tokens to {path}: expected a name that ends in .npy.")
    small = tokens.size == 0 or tokens.max() < 2**16
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.save(file, tokens.astype("uint16" if small else "int32"), allow_pickle=False)


def read_tokens(path: str | Path) -> np.ndarray:
    """The tokens of one recording, int32 (time,).

    Raises:
        ValueError: If the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"The token file {path} does not exist; tokenize the recording first.")
    try:
        tokens = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a file of tokens ({error}); make it again.") from error
    return check_tokens(tokens, str(path))


def write_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Writes `manifest.json`; it appears whole or not at all.

    Raises:
        ValueError: If `vocabulary_size` or `token_rate` is not positive.
    """
    if manifest.vocabulary_size < 1 or not manifest.token_rate > 0:
        raise ValueError(
            f"vocabulary_size {manifest.vocabulary_size}, token_rate {manifest.token_rate}: "
            "expected both to be positive."
        )
    write_json(Path(folder) / MANIFEST, asdict(manifest))


def read_manifest(folder: str | Path) -> Manifest:
    """Reads `manifest.json`; fields that are not known are passed over.

    Raises:
        ValueError: If it is missing or damaged.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} has no {MANIFEST}; expected a folder of tokens.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Manifest(
            int(content["vocabulary_size"]),
            str(content.get("preset", "")),
            float(content.get("token_rate", TOKEN_RATE)),
            {str(name): int(count) for name, count in content["recordings"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); make the folder again.") from error


def recording_names(folder: str | Path) -> list[str]:
    """The names of the recordings whose tokens lie in the folder, sorted."""
    folder = Path(folder)
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("*.npy")
        if not path.name.startswith(".")
    )


def finish_token_folder(
    folder: str | Path,
    vocabulary_size: int,
    preset: str = "",
    token_rate: float = TOKEN_RATE,
    names: Iterable[str] | None = None,
) -> Manifest:
    """Checks the token files of a folder and writes the manifest over them.

    Args:
        folder: Where `write_tokens` has put the recordings.
        vocabulary_size: Of the tokenizer.
        preset: Name or handle of the tokenizer.
        token_rate: Tokens in a second.
        names: The recordings to list; None for all that are there.

    Returns:
        The manifest that was written.

    Raises:
        ValueError: If there are none, one is damaged, or a token is too large.
    """
    names = recording_names(folder) if names is None else sorted(names)
    if not names:
        raise ValueError(f"{folder} holds no .npy files of tokens; tokenize recordings into it.")
    recordings = {}
    for name in names:
        tokens = check_tokens(read_tokens(Path(folder) / f"{name}.npy"), name, vocabulary_size)
        recordings[name] = len(tokens)
    manifest = Manifest(vocabulary_size, preset, token_rate, recordings)
    write_manifest(folder, manifest)
    return manifest


def read_token_folder(folder: str | Path) -> list[np.ndarray]:
    """The tokens of all recordings that the manifest lists, in the order of their names.

    Returns:
        A list of int32 (time,).

    Raises:
        ValueError: If the manifest or a recording is missing, damaged, or not what the
            manifest says.
    """
    manifest = read_manifest(folder)
    recordings = []
    for name, num_tokens in sorted(manifest.recordings.items()):
        tokens = read_tokens(Path(folder) / f"{name}.npy")
        if len(tokens) != num_tokens:
            raise ValueError(
                f"{name} in {folder} has {len(tokens)} tokens, but {MANIFEST} says {num_tokens}; "
                "make the manifest again."
            )
        recordings.append(check_tokens(tokens, name, manifest.vocabulary_size))
    return recordings


def check_tokens(tokens: np.ndarray, name: str, vocabulary_size: int | None = None) -> np.ndarray:
    """Tokens as int32 (time,).

    Raises:
        ValueError: they are something else, or not below `vocabulary_size`; the message says
            of what `name`.
    """
    tokens = np.asarray(tokens)
    whole = tokens.ndim == 1 and tokens.dtype.kind in "iu"
    if not whole or (tokens.size and not 0 <= tokens.min() <= tokens.max() < 2**31):
        raise ValueError(
            f"{name}: {tokens.dtype} of shape {tokens.shape}; expected whole numbers of shape "
            "(time,), from 0 to 2^31 - 1."
        )
    if vocabulary_size is not None and tokens.size and tokens.max() >= vocabulary_size:
        raise ValueError(
            f"{name} holds token {tokens.max()}, but the vocabulary has {vocabulary_size}; "
            "give the tokenizer that made the tokens."
        )
    return tokens.astype("int32")


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
    with atomic_write(path) as temporary:
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


class TokenSource(NamedTuple):
    """Token streams that are read when they are asked for.

    Attributes:
        vocabulary_size: every token is below it.
        lengths: tokens of each stream.
        read: function from a stream's number to its tokens, int32 (time,).
    """

    vocabulary_size: int
    lengths: list[int]
    read: Callable[[int], np.ndarray]


def open_tokens(folders: Sequence[str | Path]) -> TokenSource:
    """The streams of several folders after one another.

    Args:
        folders: stores of `speechssm prepare sequences`, or folders of tokens that
            `speechssm tokenize` wrote.

    Raises:
        ValueError: a folder is none of both, damaged, or of another tokenizer.
    """
    sources = {str(folder): _open(folder) for folder in folders}
    sizes = {folder: source.vocabulary_size for folder, source in sources.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(
            f"Token folders must share one tokenizer; their vocabulary sizes are {sizes}."
        )
    streams = [
        (source, number) for source in sources.values() for number in range(len(source.lengths))
    ]

    def read(number: int) -> np.ndarray:
        source, inner = streams[number]
        return source.read(inner)

    lengths = [length for source in sources.values() for length in source.lengths]
    return TokenSource(next(iter(sizes.values())), lengths, read)


def _open(folder: str | Path) -> TokenSource:
    if is_sequence_store(folder):
        store = SequenceStore(folder)
        return TokenSource(
            store.vocabulary_size, store.lengths.tolist(), lambda number: store[number].tokens
        )
    recordings = read_token_folder(folder)
    size = read_manifest(folder).vocabulary_size
    return TokenSource(size, [len(tokens) for tokens in recordings], recordings.__getitem__)
