"""Transcripts kept on disk by what was heard, so that no recording is transcribed twice."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from keras_speechssm.evaluation.transcription import Transcriber, Word
from keras_speechssm.whole_files import write_json


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
        key = hashlib.sha256(self.name.encode() + b"\0" + waveform.tobytes()).hexdigest()[:32]
        path = self._folder / f"{key}.json"
        if path.is_file():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                return [Word(**entry) for entry in content["words"]]
            except (ValueError, TypeError, KeyError):
                path.unlink()  # damaged: transcribed again
        words = self._transcriber(waveform)
        entries = [dataclasses.asdict(word) for word in words]
        write_json(path, {"transcriber": self.name, "words": entries})
        return words
