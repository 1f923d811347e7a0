"""What is said in a recording, as text: transcribers behind one small interface.

A transcriber has a `name` and is called with a waveform. `pocketsphinx` runs offline and is
crude (its words compare with one another, not with those of other recognizers); the paper
takes wav2vec2-base-960h on windows of 180 s (appendix B.3).
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from keras_speechssm.data.segmentation import cut_at_pauses
from keras_speechssm.files import cached_json
from keras_speechssm.shapes import SAMPLE_RATE

OFFLINE_TRANSCRIBER = "pocketsphinx"

_SHORT_NAMES = {
    "wav2vec2-base-960h": "facebook/wav2vec2-base-960h",
    "whisper-large-v3": "openai/whisper-large-v3",
    "whisper-small.en": "openai/whisper-small.en",
}


@dataclasses.dataclass(frozen=True)
class Word:
    """A recognized word.

    Attributes:
        text: as the recognizer spells it, in lower case.
        start: in seconds from the start of the recording.
        end: in seconds.
        confidence: 0 .. 1; 1 where the recognizer does not tell.
    """

    text: str
    start: float
    end: float
    confidence: float = 1.0


class Transcriber(Protocol):
    """Waveform float32 (samples,) at 16 kHz -> its words in order."""

    name: str

    def __call__(self, waveform: np.ndarray) -> list[Word]: ...


def words_to_text(words: Sequence[Word]) -> str:
    """The words with a space between them."""
    return " ".join(word.text for word in words)


def plain_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation: some recognizers write it."""
    return re.findall(r"[^\W_]+(?:['\u2019-][^\W_]+)*", text.lower())


def open_transcriber(name: str = OFFLINE_TRANSCRIBER) -> Transcriber:
    """A transcriber by its name.

    Args:
        name: `pocketsphinx`; `wav2vec2-base-960h`, `whisper-large-v3`, `whisper-small.en`; or
            a name or folder of a speech recognizer that `transformers` loads.
    """
    if name == OFFLINE_TRANSCRIBER:
        return PocketsphinxTranscriber()
    return TransformersTranscriber(name)


class PocketsphinxTranscriber:
    """The recognizer in the package `pocketsphinx`, whose wheel carries its models.

    Reads pieces of up to 30 s that end in pauses: time and memory stay flat however long a
    recording is, and each piece is read as it would be by itself.

    Args:
        piece_seconds: longest piece. Defaults to `30.0`.
    """

    name = OFFLINE_TRANSCRIBER

    def __init__(self, piece_seconds: float = 30.0):
        import pocketsphinx

        self.piece_seconds = piece_seconds
        self._decoder = pocketsphinx.Decoder(loglevel="FATAL")
        self._frame_rate = 100

    def __call__(self, waveform: np.ndarray) -> list[Word]:
        return _read_pieces(waveform, self.piece_seconds, self._read)

    def _read(self, piece: np.ndarray, offset: float) -> list[Word]:
        samples = np.round(np.clip(piece, -1, 1) * 32767).astype("<i2")
        # Else the cepstral mean of the piece before would go on into this one.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        if self._decoder.hyp() is None:
            return []
        return [
            Word(
                segment.word.split("(")[0],
                round(offset + segment.start_frame / self._frame_rate, 2),
                round(offset + (segment.end_frame + 1) / self._frame_rate, 2),
                round(min(float(segment.prob), 1.0), 4),
            )
            for segment in self._decoder.seg()
            if segment.word[0] not in "<["
        ]


class TransformersTranscriber:
    """A speech recognizer of `transformers` on windows of 180 s, as the paper applies it.

    Args:
        model: one of the short names of `open_transcriber`, a hub's name or a folder.
        window_seconds: longest window; it ends in a pause. Defaults to `180.0`. Recognizers
            that read 30 s, as Whisper does, need `30.0`, their default here.
    """

    def __init__(self, model: str, window_seconds: float | None = None):
        from transformers import pipeline

        self.name = model
        self._recognize = pipeline(
            "automatic-speech-recognition", model=_SHORT_NAMES.get(model, model)
        )
        self._is_ctc = getattr(self._recognize, "type", "").startswith("ctc")
        self.window_seconds = window_seconds or (180.0 if self._is_ctc else 30.0)

    def __call__(self, waveform: np.ndarray) -> list[Word]:
        return _read_pieces(waveform, self.window_seconds, self._read)

    def _read(self, piece: np.ndarray, offset: float) -> list[Word]:
        found = self._recognize(
            {"raw": piece, "sampling_rate": SAMPLE_RATE}, return_timestamps="word"
        )
        words: list[Word] = []
        for chunk in found.get("chunks", ()):
            begins, ends = chunk["timestamp"]
            begins = offset + (begins or 0.0)
            ends = offset + (len(piece) / SAMPLE_RATE if ends is None else ends)
            words += [Word(text, begins, ends) for text in chunk["text"].lower().split()]
        return words


def _read_pieces(
    waveform: np.ndarray, longest: float, read: Callable[[np.ndarray, float], list[Word]]
) -> list[Word]:
    """The words of pieces that end in pauses; `read` is given where each begins, in seconds."""
    waveform = np.asarray(waveform, "float32")
    if not len(waveform):
        return []
    return [
        word
        for start, stop in cut_at_pauses(waveform, longest)
        for word in read(waveform[round(start * SAMPLE_RATE) : round(stop * SAMPLE_RATE)], start)
    ]


class TranscriptStore:
    """A transcriber that remembers, through kills too.

    Args:
        transcriber: what transcribes.
        folder: where transcripts are kept, one JSON file for each waveform and transcriber.
    """

    def __init__(self, transcriber: Transcriber, folder: str | Path):
        self.name = transcriber.name
        self._transcriber = transcriber
        self._folder = Path(folder)

    def __call__(self, waveform: np.ndarray) -> list[Word]:
        waveform = np.asarray(waveform, "float32")
        digest = hashlib.sha256(self.name.encode() + b"\0" + waveform.tobytes()).hexdigest()
        entries = cached_json(
            self._folder / f"{digest[:32]}.json",
            {"transcriber": self.name, "sha256": digest},
            lambda: [dataclasses.asdict(word) for word in self._transcriber(waveform)],
        )
        return [Word(**entry) for entry in entries]
