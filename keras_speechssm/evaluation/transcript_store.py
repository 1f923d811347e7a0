"""Transcripts kept on disk by what was heard, so that no recording is transcribed twice."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from keras_speechssm.evaluation.transcription import Transcriber, Word
from keras_speechssm.whole_files import remembered


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
        entries = remembered(
            self._folder / f"{digest[:32]}.json",
            {"transcriber": self.name, "sha256": digest},
            lambda: [dataclasses.asdict(word) for word in self._transcriber(waveform)],
        )
        return [Word(**entry) for entry in entries]
