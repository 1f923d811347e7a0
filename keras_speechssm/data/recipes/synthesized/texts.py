"""Books as plain text for synthesizers: sentences, and pieces of a few seconds."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path


def read_texts(text_folder: str | Path, as_sentences: bool = False) -> dict[str, list[str]]:
    """Read the `<book>.txt` files of a folder.

    Args:
        text_folder: Folder of books, one paragraph per line.
        as_sentences: Whether to return sentences of any length instead of the pieces of
            `split_text`.

    Returns:
        The texts of each book in order.

    Raises:
        ValueError: If the folder has no `.txt` files.
    """
    paths = sorted(Path(text_folder).glob("*.txt"))
    if not paths:
        raise ValueError(f"No .txt files in {text_folder}; expected one file per book.")
    split = split_sentences if as_sentences else split_text
    return {path.stem: list(split(path.read_text(encoding="utf-8"))) for path in paths}


def split_text(text: str, min_characters: int = 45, max_characters: int = 120) -> list[str]:
    """Split text into pieces that take 2 to 12 s to say, at sentence ends where possible.

    Args:
        text: One paragraph per line.
        min_characters: Shorter sentences are joined to the next one.
        max_characters: Longer sentences are cut at punctuation, or else between words.

    Returns:
        Plain ASCII pieces, each with at least one letter, in order.
    """
    pieces, pending = [], ""
    for sentence in split_sentences(text):
        for part in _cut_long(sentence, max_characters):
            if pending and len(pending) + 1 + len(part) > max_characters:
                pieces.append(pending)
                pending = ""
            pending = f"{pending} {part}".strip()
            if len(pending) >= min_characters:
                pieces.append(pending)
                pending = ""
    return [piece for piece in [*pieces, pending] if re.search("[A-Za-z]{2}", piece)]


def plain_text(text: str) -> str:
    """Convert text to ASCII, because synthesizers silently misread other letters."""
    text = text.replace("\u2014", ", ").replace("\u2018", "'").replace("\u2019", "'")
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def split_sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text in plain ASCII.

    Args:
        text: One paragraph per line.
    """
    for paragraph in plain_text(text).splitlines():
        # Drop what a voice cannot say: italics, quotes, brackets, and footnote marks.
        plain = re.sub(r"[^A-Za-z0-9.,;:!?' -]", " ", paragraph.replace("--", ", "))
        plain = re.sub(r"\s+", " ", plain).replace(" ,", ",").strip(" ,;:'-")
        # No sentence ends after a title.
        yield from filter(
            None, re.split(r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)(?<=[.!?])\s+", plain)
        )


def _cut_long(sentence: str, max_characters: int) -> Iterator[str]:
    while len(sentence) > max_characters:
        window = sentence[:max_characters]
        cut = max(window.rfind(mark) for mark in (", ", "; ", ": ")) + 1
        if cut < max_characters // 3:
            cut = window.rfind(" ")
        cut = cut if cut > 0 else max_characters
        yield sentence[:cut].strip()
        sentence = sentence[cut:].strip()
    if sentence:
        yield sentence
