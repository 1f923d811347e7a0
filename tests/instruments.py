"""Instruments for tests that hear what a waveform's levels spell."""

import numpy as np

from keras_speechssm.evaluation.compare import EvaluationModels
from keras_speechssm.evaluation.models.transcript import Word

VOCABULARY = "sea ship gull wave rope mast sail crew deck".split()


def speak(words: list[str]) -> np.ndarray:
    """A second of a constant level for each word."""
    levels = [(1 + VOCABULARY.index(word)) / 10 for word in words]
    return np.repeat(np.array(levels, "float32"), 16000)


class Transcriber:
    name = "levels"

    def __call__(self, waveform):
        words = []
        for second in range(len(waveform) // 16000):
            number = round(float(waveform[second * 16000]) * 10) - 1
            if 0 <= number < len(VOCABULARY):
                words.append(Word(VOCABULARY[number], float(second), second + 1.0))
        return words


class TextModel:
    """A nat for each step in the vocabulary."""

    name, unit = "steps", "word"

    def negative_log_likelihood(self, text):
        places = [VOCABULARY.index(word) for word in text.split()]
        return float(np.abs(np.diff(places)).sum()), len(places)


class Embedder:
    name = "counts"

    def __call__(self, texts):
        counts = np.array([[text.split().count(word) for word in VOCABULARY] for text in texts])
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


class Loudness:
    name = "loudness"

    def __call__(self, waveform):
        return 1.0 + 4.0 * float(np.abs(waveform).max())


class Voice:
    """The mean level identifies the speaker."""

    name = "mean level"

    def __call__(self, waveform):
        angle = float(np.mean(waveform))
        return np.array([np.cos(angle), np.sin(angle)])


def instruments() -> EvaluationModels:
    return EvaluationModels(Transcriber(), TextModel(), Embedder(), Voice(), Loudness())
