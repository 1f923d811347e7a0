"""Whose voice it is: embedders that stand in for the paper's closed classifier.

`resemblyzer` runs offline; any speaker verification model of Hugging Face, such as
`microsoft/wavlm-base-plus-sv`, goes by its name. The values of one compare with one another only.
"""

from typing import Protocol

import numpy as np

from keras_speechssm.shapes import SAMPLE_RATE

OFFLINE_SPEAKER_EMBEDDER = "resemblyzer"


class SpeakerEmbedder(Protocol):
    """Waveform float (samples,) at 16 kHz -> unit vector float32 (dimensions,)."""

    name: str

    def __call__(self, waveform: np.ndarray) -> np.ndarray: ...


def open_speaker_embedder(name: str = OFFLINE_SPEAKER_EMBEDDER) -> SpeakerEmbedder:
    """An embedder by its name.

    Args:
        name: `resemblyzer`, or a name or folder of a model of `transformers` with an x-vector
            head, such as `microsoft/wavlm-base-plus-sv`.
    """
    if name == OFFLINE_SPEAKER_EMBEDDER:
        return ResemblyzerEmbedder()
    return TransformersSpeakerEmbedder(name)


class ResemblyzerEmbedder:
    """GE2E, 256-d, weights inside the package `resemblyzer`, which it needs."""

    name = OFFLINE_SPEAKER_EMBEDDER

    def __init__(self):
        import resemblyzer

        self._prepare = resemblyzer.preprocess_wav
        self._encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        prepared = self._prepare(np.asarray(waveform, "float32"), source_sr=SAMPLE_RATE)
        return self._encoder.embed_utterance(prepared)


class TransformersSpeakerEmbedder:
    """A speaker verification model of `transformers`, which it needs, and PyTorch.

    Its attention would not hold minutes: windows of 10 s are embedded, and averaged by length.

    Args:
        name: of the model, or its folder.

    Raises:
        ValueError: there is none of that name, or it has no x-vector head.
    """

    _WINDOW = 10 * SAMPLE_RATE
    _SHORTEST = SAMPLE_RATE  # what is left of less is no voice to tell

    def __init__(self, name: str):
        from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

        self.name = name
        try:
            self._prepare = AutoFeatureExtractor.from_pretrained(name)
            self._model = AutoModelForAudioXVector.from_pretrained(name).eval()
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise ValueError(f"No speaker embedder {name!r} can be loaded ({reason})") from None

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        import torch

        waveform = np.asarray(waveform, "float32")
        pieces = [waveform[at : at + self._WINDOW] for at in range(0, len(waveform), self._WINDOW)]
        pieces = [piece for piece in pieces if len(piece) >= self._SHORTEST] or pieces[:1]
        total = 0.0
        for piece in pieces:
            values = self._prepare(piece, sampling_rate=SAMPLE_RATE, return_tensors="pt")
            with torch.no_grad():
                vector = self._model(**values).embeddings[0].float().numpy()
            total = total + len(piece) * vector / np.linalg.norm(vector)
        return (total / np.linalg.norm(total)).astype("float32")
