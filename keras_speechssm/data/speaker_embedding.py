"""Whose voice it is: resemblyzer's embedding, which stands in for the paper's closed classifier."""

import numpy as np

from keras_speechssm.shapes import SAMPLE_RATE


class SpeakerEmbedder:
    """Waveform -> speaker embedding (GE2E, 256-d, weights inside the package `resemblyzer`).

    Needs the package `resemblyzer`. Its values compare with one another only, not with
    those of the paper's speaker classifier.
    """

    def __init__(self):
        import resemblyzer

        self._prepare = resemblyzer.preprocess_wav
        self._encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Unit vector float32 (256,) of a waveform (samples,) at 16 kHz."""
        prepared = self._prepare(np.asarray(waveform, "float32"), source_sr=SAMPLE_RATE)
        return self._encoder.embed_utterance(prepared)
