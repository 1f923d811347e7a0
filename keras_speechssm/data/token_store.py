"""Folders of semantic tokens: one `.npy` for each recording, and a manifest.

    <folder>/manifest.json        what the tokens are, and every recording's length
    <folder>/<book>/0000.npy      uint16 (time,), or int32 for vocabularies above 65536

The paths mirror those of the recordings. Everything appears whole or not at all, so a
preparation that was interrupted goes on where it was: `recording_names` of the folder
tells what is there.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from keras_speechssm.shapes import TOKEN_RATE
from keras_speechssm.whole_files import whole_file, write_json

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
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.save(file, tokens.astype("uint16" if small else "int32"), allow_pickle=False)


def read_tokens(path: str | Path) -> np.ndarray:
    """The tokens of one recording, int32 (time,).

    Raises:
        ValueError: If the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"The token file {path} does not exist; tokenise the recording first.")
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
        raise ValueError(f"{folder} holds no .npy files of tokens; tokenise recordings into it.")
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
