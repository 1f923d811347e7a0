"""Speaker embeddings, instead of the paper's classifier, which is not public.

`resemblyzer` runs offline. Any speaker verification model on Hugging Face, such as
`microsoft/wavlm-base-plus-sv`, can be used by its name. Compare values of one embedder only.
"""

from typing import Protocol

import numpy as np

from keras_speechssm.shapes import SAMPLE_RATE

OFFLINE_SPEAKER_EMBEDDER = "resemblyzer"


class SpeakerEmbedder(Protocol):
    """A function from a waveform, float (samples,) at 16 kHz, to a unit vector, float32."""

    name: str

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Return the unit vector of a voice."""
        ...


def open_speaker_embedder(name: str = OFFLINE_SPEAKER_EMBEDDER) -> SpeakerEmbedder:
    """Open a speaker embedder by name.

    Args:
        name: `resemblyzer`, or the name or folder of a `transformers` model with an x-vector
            head, such as `microsoft/wavlm-base-plus-sv`.
    """
    if name == OFFLINE_SPEAKER_EMBEDDER:
        return ResemblyzerEmbedder()
    return TransformersSpeakerEmbedder(name)


class ResemblyzerEmbedder:
    """GE2E with 256 dimensions. Needs the package `resemblyzer`, which contains the weights."""

    name = OFFLINE_SPEAKER_EMBEDDER

    def __init__(self):
        import resemblyzer

        self._prepare = resemblyzer.preprocess_wav
        self._encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        prepared = self._prepare(np.asarray(waveform, "float32"), source_sr=SAMPLE_RATE)
        return self._encoder.embed_utterance(prepared)


class TransformersSpeakerEmbedder:
    """A speaker verification model of `transformers`. Needs `transformers` and PyTorch.

    Its attention cannot span minutes: windows of 10 s are embedded and averaged by length.

    Args:
        name: Name of the model, or its folder.

    Raises:
        ValueError: If the model does not exist, or has no x-vector head.
    """

    _WINDOW = 10 * SAMPLE_RATE
    _SHORTEST = SAMPLE_RATE  # A shorter rest does not identify a voice.

    def __init__(self, name: str):
        from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

        self.name = name
        try:
            self._prepare = AutoFeatureExtractor.from_pretrained(name)
            self._model = AutoModelForAudioXVector.from_pretrained(name).eval()
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise ValueError(f"Cannot load the speaker embedder {name!r} ({reason}).") from None

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
