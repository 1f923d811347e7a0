"""Books as plain text: what a voice can say, in pieces of a few seconds."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path


def read_texts(text_folder: str | Path) -> dict[str, list[str]]:
    """Reads `<book>.txt` files: name -> pieces of text, as `split_text` cuts them.

    Raises:
        ValueError: If the folder holds no `.txt`.
    """
    paths = sorted(Path(text_folder).glob("*.txt"))
    if not paths:
        raise ValueError(f"No .txt files in {text_folder}; expected one file a book.")
    return {path.stem: split_text(path.read_text(encoding="utf-8")) for path in paths}


def split_text(text: str, min_characters: int = 45, max_characters: int = 120) -> list[str]:
    """Cuts text into pieces that take 2-12 s to say, at sentence ends where that is possible.

    Args:
        text: One paragraph a line.
        min_characters: Shorter sentences are joined to what follows them.
        max_characters: Longer sentences are cut at punctuation, or else between words.

    Returns:
        Plain ASCII pieces, each with at least one letter, in order.
    """
    pieces, pending = [], ""
    for sentence in _sentences(text):
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
    """A text in ASCII: synthesizers misread other letters without a word."""
    text = text.replace("\u2014", ", ").replace("\u2018", "'").replace("\u2019", "'")
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def _sentences(text: str) -> Iterator[str]:
    text = plain_text(text)
    for paragraph in text.splitlines():
        # Only what a voice can say is kept: no italics, quotes, brackets or footnote marks.
        plain = re.sub(r"[^A-Za-z0-9.,;:!?' -]", " ", paragraph.replace("--", ", "))
        plain = re.sub(r"\s+", " ", plain).replace(" ,", ",").strip(" ,;:'-")
        # No sentence ends after a title or an initial.
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
