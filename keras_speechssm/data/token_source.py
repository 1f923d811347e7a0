"""One way to read tokens, however they lie: stores of sequences and folders of recordings."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_speechssm.data.sequence_store import SequenceStore, is_sequence_store
from keras_speechssm.data.token_store import read_manifest, read_token_folder


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
