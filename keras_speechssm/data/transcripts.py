"""Transcripts of speech corpora, and their text as the classes of a CTC loss.

The layouts of four corpora are read, whatever their language:

    LibriSpeech     <folder>/84-121123.trans.txt        84-121123-0000 GO DO YOU HEAR
    MLS             <split>/transcripts.txt             4800_10003_000000<tab>oh du mein gott
    Common Voice    <language>/validated.tsv            columns path and sentence; clips/<path>
    VoxPopuli       <language>/asr_train.tsv            columns id and normalized_text
"""

import csv
import logging
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from keras_speechssm.checks import shown
from keras_speechssm.data.corpora import PHONEMES, Segment

logger = logging.getLogger(__name__)

_PATTERNS = ("*.trans.txt", "transcripts.txt", "*.tsv")

_NAME_COLUMNS = ("path", "id")
_TEXT_COLUMNS = ("sentence", "normalized_text", "raw_text")
"""Columns of a `.tsv` file, in the order of preference."""

# Common Voice lists clips here that its volunteers found wrong.
_REJECTED = ("invalidated", "reported")


def read_transcripts(folders: str | Path | Iterable[str | Path]) -> dict[str, str]:
    """Read the transcripts in folders of LibriSpeech, MLS, Common Voice or VoxPopuli.

    Args:
        folders: One or several folders. Transcript files are searched for in them and their
            subfolders.

    Returns:
        The text of each recording by its file name without suffix.

    Raises:
        ValueError: If a line has no text, or two texts are given for one name.
    """
    folders = [folders] if isinstance(folders, str | Path) else list(folders)
    texts: dict[str, str] = {}
    for folder in map(Path, folders):
        for pattern in _PATTERNS:
            for path in sorted(folder.rglob(pattern)):
                found = _read_tsv(path) if pattern == "*.tsv" else _read_lines(path)
                for name, text in found.items():
                    if texts.setdefault(name, text) != text:
                        raise ValueError(
                            f"{path} has another text for {name!r} than an earlier file; give one "
                            "corpus and language at a time."
                        )
    return texts


def _read_lines(path: Path) -> dict[str, str]:
    texts = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        # A tab in MLS, a space in LibriSpeech.
        name, *rest = line.split(maxsplit=1)[:2] or [""]
        if rest:
            texts[name] = rest[0].strip()
        elif name:
            raise ValueError(
                f"{path}, line {number}: expected a name and a text, got {shown(line)}."
            )
    return texts


def _read_tsv(path: Path) -> dict[str, str]:
    if path.stem in _REJECTED:
        return {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        # Quotation marks are part of the sentences.
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        columns = rows.fieldnames or ()
        names = [column for column in _NAME_COLUMNS if column in columns]
        if not names or not set(columns) & set(_TEXT_COLUMNS):
            return {}  # Common Voice has lists of other things too
        texts = {}
        for row in rows:
            # VoxPopuli leaves a form of the text empty now and then.
            text = next((row[name] for name in _TEXT_COLUMNS if row.get(name)), "")
            if row[names[0]] and text.strip():
                texts[_stem(row[names[0]])] = text.strip()
    return texts


def _stem(name: str) -> str:
    """Return a file name without the suffix of an audio file; ids may contain dots."""
    path = Path(name)
    return path.stem if path.suffix.lower() in (".mp3", ".wav", ".flac", ".ogg", ".opus") else name


def normalize_text(text: str) -> str:
    """Return text in lower case, composed (NFC), with single spaces and without punctuation.

    Apostrophes and hyphens inside of words stay: they are part of the spelling in many languages.
    """
    text = unicodedata.normalize("NFC", text.replace("\u2019", "'")).lower()
    kept = []
    for place, character in enumerate(text):
        inside = 0 < place < len(text) - 1 and (text[place - 1] + text[place + 1]).isalnum()
        if unicodedata.category(character)[0] not in "PSC" or (character in "'-" and inside):
            kept.append(character)
        else:
            kept.append(" ")
    return " ".join("".join(kept).split())


class CTCLabels(Protocol):
    """What a recognition loss reads: segments as ids of classes.

    Attributes:
        names: Name of each class, the first one of id 1. The blank is 0 and has no name.
    """

    names: tuple[str, ...]

    def has(self, segment: Segment) -> bool:
        """Return whether a segment is transcribed."""

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        """Return the ids of consecutive segments."""


class PhonemeLabels:
    """Phonemes by flite's names, from sidecars of recordings."""

    names = PHONEMES

    def __init__(self):
        self._ids = {name: number for number, name in enumerate(self.names, start=1)}

    def has(self, segment: Segment) -> bool:
        return bool(segment.phonemes)

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        return [self._ids[name] for segment in segments for name in segment.phonemes]


class CharacterLabels:
    """Characters of normalized text, words separated by spaces.

    Args:
        texts: Texts whose characters become the classes. Others are left out.

    Example:

    ```python
    from keras_speechssm.data.corpora import Segment
    from keras_speechssm.data.transcripts import CharacterLabels

    labels = CharacterLabels(["a cab"])
    labels.names  # (" ", "a", "b", "c")
    labels.encode([Segment(0.0, 1.0, "Cab!")])  # [4, 2, 3]
    ```
    """

    def __init__(self, texts: Iterable[str]):
        self.names = tuple(sorted(set().union(*map(normalize_text, texts)) | {" "}))
        self._ids = {name: number for number, name in enumerate(self.names, start=1)}

    def has(self, segment: Segment) -> bool:
        return bool(normalize_text(segment.text))

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        text = normalize_text(" ".join(segment.text for segment in segments))
        return [self._ids[character] for character in text if character in self._ids]


class SentencePieceLabels:
    """Pieces of normalized text by a SentencePiece model, read by KerasHub's tokenizer.

    Args:
        path: The model file, as `sentencepiece` writes it.

    Raises:
        ValueError: If the file is not a model of SentencePiece.
    """

    def __init__(self, path: str | Path):
        import keras_hub

        if not Path(path).is_file():
            raise ValueError(
                f"labels is {str(path)!r}; expected phonemes, characters, or the path of a "
                "SentencePiece model."
            )
        try:
            self._tokenizer = keras_hub.tokenizers.SentencePieceTokenizer(
                proto=Path(path).read_bytes()
            )
            size = self._tokenizer.vocabulary_size()
        except Exception as error:  # Each backend of the tokenizer has its own errors.
            raise ValueError(f"{path} is not a SentencePiece model: {error}") from error
        self.names = tuple(self._tokenizer.id_to_token(number) for number in range(size))

    def has(self, segment: Segment) -> bool:
        return bool(normalize_text(segment.text))

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        text = normalize_text(" ".join(segment.text for segment in segments))
        return [int(number) + 1 for number in self._tokenizer.tokenize(text)]
