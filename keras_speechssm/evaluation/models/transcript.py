"""Transcripts: words with their times."""

import dataclasses
import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from keras_speechssm.data.segmentation import cut_at_pauses
from keras_speechssm.shapes import SAMPLE_RATE

APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u2032\uff07`", "'"))
"""Table for `str.translate`: apostrophes of all kinds to that of a typewriter."""


@dataclasses.dataclass(frozen=True)
class Word:
    """A recognized word.

    Attributes:
        text: Spelling of the recognizer, in lower case.
        start: Seconds from the start of the recording.
        end: Seconds from the start of the recording.
        confidence: From 0 to 1; 1 if the recognizer does not report any.
    """

    text: str
    start: float
    end: float
    confidence: float = 1.0


def words_to_text(words: Sequence[Word]) -> str:
    """Join words with spaces."""
    return " ".join(word.text for word in words)


def plain_words(text: str) -> list[str]:
    """Split a text into lower-case words without punctuation.

    Words are the same with typographic and typewriter apostrophes, and with composed and
    decomposed letters.
    """
    text = unicodedata.normalize("NFC", text.lower()).translate(APOSTROPHES)
    # Vowel signs and accents that have no composed letter are parts of words.
    marks = "".join({char for char in text if unicodedata.category(char)[0] == "M"})
    letter = rf"(?:[^\W_]|[{re.escape(marks)}])" if marks else r"[^\W_]"
    return re.findall(rf"{letter}+(?:['-]{letter}+)*", text)


def transcribe_pieces(
    waveform: np.ndarray,
    max_seconds: float,
    transcribe: Callable[[np.ndarray, float], list[Word]],
) -> list[Word]:
    """Transcribe a recording in pieces that end at pauses.

    Args:
        waveform: float (samples,) at 16 kHz.
        max_seconds: Longest piece.
        transcribe: Function from a piece and its start in seconds to its words.

    Returns:
        The words of all pieces in order.
    """
    waveform = np.asarray(waveform, "float32")
    if not len(waveform):
        return []
    return [
        word
        for start, stop in cut_at_pauses(waveform, max_seconds)
        for word in transcribe(
            waveform[round(start * SAMPLE_RATE) : round(stop * SAMPLE_RATE)], start
        )
    ]


def place_words(words: list[tuple[str, float]], start: float, end: float) -> list[Word]:
    """Place words whose times are unknown in a stretch of a recording.

    Args:
        words: Words in order, each with its confidence.
        start: Start of the stretch in seconds.
        end: End of the stretch in seconds, which is divided among the words in proportion to
            their letters.
    """
    edges = np.cumsum([0] + [len(text) + 1 for text, _ in words])
    edges = start + (end - start) * edges / max(edges[-1], 1)
    return [
        Word(text, round(float(edges[n]), 2), round(float(edges[n + 1]), 2), round(confidence, 4))
        for n, (text, confidence) in enumerate(words)
    ]
