"""Transcribers by name."""

import dataclasses
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from keras_speechssm.evaluation.models.keras_hub_transcriber import KerasHubTranscriber
from keras_speechssm.evaluation.models.moonshine import MOONSHINE, MoonshineTranscriber
from keras_speechssm.evaluation.models.transcript import Word, transcribe_pieces
from keras_speechssm.evaluation.models.whisper import (
    WHISPER_BASE,
    WHISPER_TINY,
    WhisperTranscriber,
)
from keras_speechssm.files import cached_json
from keras_speechssm.shapes import SAMPLE_RATE

DEFAULT_TRANSCRIBER = MOONSHINE
POCKETSPHINX = "pocketsphinx"

_HUGGING_FACE_NAMES = {
    "wav2vec2-base-960h": "facebook/wav2vec2-base-960h",
    "whisper-large-v3": "openai/whisper-large-v3",
    "whisper-small.en": "openai/whisper-small.en",
}


class Transcriber(Protocol):
    """Transcribe a waveform float32 (samples,) at 16 kHz into its words in order."""

    name: str

    def __call__(self, waveform: np.ndarray) -> list[Word]: ...


class PocketsphinxTranscriber:
    """The recognizer of the package `pocketsphinx`, whose wheel contains its models.

    It is fast, but makes about five times the errors of Moonshine on read speech.

    Args:
        piece_seconds: Longest piece; pieces are cut at pauses, so that time and memory do not
            grow with the length of a recording. Defaults to `30.0`.
    """

    name = POCKETSPHINX

    def __init__(self, piece_seconds: float = 30.0):
        import pocketsphinx

        self.piece_seconds = piece_seconds
        self._decoder = pocketsphinx.Decoder(loglevel="FATAL")
        self._frame_rate = 100

    def __call__(self, waveform: np.ndarray) -> list[Word]:
        return transcribe_pieces(waveform, self.piece_seconds, self._transcribe)

    def _transcribe(self, piece: np.ndarray, offset: float) -> list[Word]:
        samples = np.round(np.clip(piece, -1, 1) * 32767).astype("<i2")
        # Otherwise the cepstral mean of the piece before would affect this one.
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
    """A speech recognizer of `transformers`, by default on windows of 180 s as in the paper.

    Args:
        model: `wav2vec2-base-960h` (the paper's), `whisper-large-v3`, `whisper-small.en`, a name
            on Hugging Face, or a folder.
        window_seconds: Longest window; windows are cut at pauses. Defaults to `None`: 180 s for
            CTC models, and 30 s for the others, such as Whisper.
    """

    def __init__(self, model: str, window_seconds: float | None = None):
        from transformers import pipeline

        self.name = model
        self._recognize = pipeline(
            "automatic-speech-recognition", model=_HUGGING_FACE_NAMES.get(model, model)
        )
        is_ctc = getattr(self._recognize, "type", "").startswith("ctc")
        self.window_seconds = window_seconds or (180.0 if is_ctc else 30.0)

    def __call__(self, waveform: np.ndarray) -> list[Word]:
        return transcribe_pieces(waveform, self.window_seconds, self._transcribe)

    def _transcribe(self, piece: np.ndarray, offset: float) -> list[Word]:
        found = self._recognize(
            {"raw": piece, "sampling_rate": SAMPLE_RATE}, return_timestamps="word"
        )
        words: list[Word] = []
        for chunk in found.get("chunks", ()):
            start, end = chunk["timestamp"]
            start = offset + (start or 0.0)
            end = offset + (len(piece) / SAMPLE_RATE if end is None else end)
            words += [Word(text, start, end) for text in chunk["text"].lower().split()]
        return words


TRANSCRIBERS: dict[str, Callable[[], Transcriber]] = {
    MOONSHINE: MoonshineTranscriber,
    WHISPER_BASE: partial(WhisperTranscriber, WHISPER_BASE),
    WHISPER_TINY: partial(WhisperTranscriber, WHISPER_TINY),
    POCKETSPHINX: PocketsphinxTranscriber,
}
"""Transcribers that run offline, by name."""


def load_transcriber(name: str = DEFAULT_TRANSCRIBER) -> Transcriber:
    """Load a transcriber by its name.

    Args:
        name: One of `TRANSCRIBERS`; a preset of KerasHub such as `moonshine_tiny_en` or
            `whisper_base_en`; a folder with a Whisper model in CTranslate2's format; or a name
            or folder of a speech recognizer of `transformers`, such as `wav2vec2-base-960h`.

    Raises:
        ValueError: The weights are not installed.
    """
    if name in TRANSCRIBERS:
        return TRANSCRIBERS[name]()
    if name.startswith(("moonshine_", "whisper_")):
        return KerasHubTranscriber.from_preset(name)
    if (Path(name) / "model.bin").is_file():
        return WhisperTranscriber(name)
    return TransformersTranscriber(name)


class CachedTranscriber:
    """Keeps the transcripts of a transcriber on disk, so that no recording is read twice.

    Args:
        transcriber: What transcribes.
        folder: Folder for one JSON file per waveform and transcriber.
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
