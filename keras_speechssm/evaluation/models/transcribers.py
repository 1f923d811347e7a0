"""Transcribers by name."""

import dataclasses
import hashlib
import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from keras_speechssm.evaluation.models.keras_hub_transcriber import KerasHubTranscriber
from keras_speechssm.evaluation.models.moonshine import MOONSHINE, MoonshineTranscriber
from keras_speechssm.evaluation.models.openai_service import (
    RequestRefusedError,
    is_address,
    open_session,
    request_reply,
)
from keras_speechssm.evaluation.models.transcript import Word, place_words, transcribe_pieces
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


class ServiceTranscriber:
    """A service with OpenAI's audio transcriptions, on pieces that end at pauses.

    Words have the times that the service gives. If it gives none, they are spread over their piece.

    Args:
        address: Address up to and including `/v1`.
        model: Model to request.
        key: Bearer token, or `None`. It is never written anywhere.
        piece_seconds: Longest piece. Defaults to `600.0`, which is 19 MB; services accept 25 MB.
        timeout: Seconds to wait for each reply. Defaults to `600.0`.
        attempts: How often a failing request is sent, with pauses of 1, 2, 4, ... s.

    Raises:
        ValueError: `address` or `key` is malformed, the service refuses a piece, or no attempt was
            answered.
    """

    def __init__(
        self,
        address: str,
        model: str,
        key: str | None = None,
        *,
        piece_seconds: float = 600.0,
        timeout: float = 600.0,
        attempts: int = 6,
    ):
        self.name = model
        self.piece_seconds = piece_seconds
        self._session = open_session(address, key)
        self._address = address.rstrip("/") + "/audio/transcriptions"
        self._timeout = timeout
        self._attempts = attempts
        self._options = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}

    def __call__(self, waveform: np.ndarray) -> list[Word]:
        return transcribe_pieces(waveform, self.piece_seconds, self._transcribe)

    def _transcribe(self, piece: np.ndarray, offset: float) -> list[Word]:
        import soundfile

        buffer = io.BytesIO()
        soundfile.write(buffer, np.clip(piece, -1, 1), SAMPLE_RATE, "PCM_16", format="WAV")
        name = f"The transcriber at {self._address}"
        try:
            text, words = request_reply(
                lambda: self._post(buffer.getvalue()), _read_transcript, name, self._attempts
            )
        except RequestRefusedError as error:
            raise ValueError(
                f"{name} refuses audio ({error}); check the address, the model {self.name!r} and "
                "OPENAI_API_KEY."
            ) from error
        if words:
            return [Word(word, offset + start, offset + end) for word, start, end in words]
        end = offset + len(piece) / SAMPLE_RATE
        return place_words([(word, 1.0) for word in text.lower().split()], offset, end)

    def _post(self, audio: bytes) -> Any:
        """Send audio, and ask for no times of words if the model has none."""
        response = self._session.post(
            self._address,
            data={"model": self.name, "temperature": "0", **self._options},
            files={"file": ("audio.wav", audio, "audio/wav")},
            timeout=self._timeout,
        )
        if response.status_code == 400 and self._options and "response_format" in response.text:
            self._options = {}
            return self._post(audio)
        return response


def _read_transcript(reply: Any) -> tuple[str, list[tuple[str, float, float]]]:
    """Return the text of a reply, and its words in lower case with their times."""
    words = [
        (word["word"].strip().lower(), float(word["start"]), float(word["end"]))
        for word in reply.get("words") or ()
    ]
    return str(reply["text"]), words


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
            `whisper_base_en`; a folder with a Whisper model in CTranslate2's format; a name or
            folder of a speech recognizer of `transformers`, such as `wav2vec2-base-960h`; or the
            address of an OpenAI-compatible service and its model, such as
            `http://localhost:8000/v1#whisper-1`, with its key in the environment variable
            `OPENAI_API_KEY`.

    Raises:
        ValueError: The weights are not installed, or an address has no model.
    """
    if is_address(name):
        address, _, model = name.partition("#")
        if not model:
            raise ValueError(f"The transcriber {name} needs the name of a model: {name}#model.")
        return ServiceTranscriber(address, model, os.environ.get("OPENAI_API_KEY"))
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
