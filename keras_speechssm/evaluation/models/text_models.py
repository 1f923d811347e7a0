"""Text language models that judge transcripts: the likelihood of a text in nats.

A text model has a `name`, a `unit` (what it counts: words or tokens) and the method
`negative_log_likelihood(text) -> (nats, units)`. Values in different units, or of different
models, do not compare. `pocketsphinx-trigram` runs offline; the paper takes Gemma-2B.
"""

from typing import Any, Protocol

import keras
import numpy as np

from keras_speechssm.checks import first_line
from keras_speechssm.evaluation.models.transcribers import plain_words

OFFLINE_TEXT_MODEL = "pocketsphinx-trigram"

TRIGRAM_VOCABULARY = 72_546
"""Words that pocketsphinx 5's model knows, its marks of start and end among them."""


class TextModel(Protocol):
    """Likelihood of texts."""

    name: str
    unit: str

    def negative_log_likelihood(self, text: str) -> tuple[float, int]: ...


def open_text_model(name: str = OFFLINE_TEXT_MODEL) -> TextModel:
    """A text model by its name.

    Args:
        name: `pocketsphinx-trigram`, or any preset, folder or handle of a
            `keras_hub.models.CausalLM`, such as `gemma_2b_en`.
    """
    if name == OFFLINE_TEXT_MODEL:
        return TrigramTextModel()
    return KerasHubTextModel(load_causal_lm(name, OFFLINE_TEXT_MODEL), name)


def load_causal_lm(name: str, alternative: str) -> Any:
    """A `keras_hub.models.CausalLM` by its preset, with an error of one line."""
    import keras_hub

    try:
        return keras_hub.models.CausalLM.from_preset(name)
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(
            f"{name!r} is neither {alternative} nor a CausalLM that KerasHub can load "
            f"({first_line(error)})."
        ) from None


class TrigramTextModel:
    """The trigram model of US English in the package `pocketsphinx`.

    A word that it does not know counts as one drawn evenly from all that it knows, and the next
    word is foretold as after nothing.
    Pocketsphinx' own transcripts were found with this model: among them it is kind.
    """

    name = OFFLINE_TEXT_MODEL
    unit = "word"

    def __init__(self):
        import pocketsphinx

        decoder = pocketsphinx.Decoder(loglevel="FATAL")
        self._decoder = decoder  # owns the model and its logarithms
        self._model = decoder.get_lm(decoder.current_search())
        self._to_nats = decoder.get_logmath().log_to_ln

    def log_probability(self, word: str, history: list[str]) -> float | None:
        """Natural logarithm of p(word | the two words before); `None` for an unknown word."""
        value = self._to_nats(self._model.prob([word, *reversed(history[-2:])]))
        return None if value < -1000 else value

    def negative_log_likelihood(self, text: str) -> tuple[float, int]:
        """Nats of a text, and its words; punctuation is dropped."""
        words = plain_words(text)
        history, total = ["<s>"], 0.0
        for word in words:
            value = self.log_probability(word, history)
            total -= -np.log(TRIGRAM_VOCABULARY) if value is None else value
            history = ["<s>"] if value is None else [*history[-1:], word]
        return total, len(words)


class KerasHubTextModel:
    """A `keras_hub.models.CausalLM` as a judge of texts.

    Long texts are read in windows that overlap by half: each token is foretold from at least
    half a window before it, where there is so much.

    Args:
        causal_lm: the model, with its preprocessor.
        name: what to call it.
        window: int. Tokens read at once. Defaults to `1024`.
    """

    unit = "token"

    def __init__(self, causal_lm: Any, name: str = "keras_hub", window: int = 1024):
        self.name = name
        self.window = window
        self._model = causal_lm
        self._tokenizer = causal_lm.preprocessor.tokenizer

    def negative_log_likelihood(self, text: str) -> tuple[float, int]:
        """Nats of a text, and its tokens; the start token is given and not counted."""
        tokens = [int(token) for token in np.asarray(self._tokenizer(text)).reshape(-1)]
        start = getattr(self._tokenizer, "start_token_id", None)
        counted = len(tokens) if start is not None else max(len(tokens) - 1, 0)
        sequence = np.array(tokens if start is None else [start, *tokens], "int32")
        if counted == 0:
            return 0.0, 0
        total, done = 0.0, 1
        while done < len(sequence):
            first = max(0, min(done - self.window // 2, len(sequence) - self.window))
            scores = self._log_probabilities(sequence[first : first + self.window])
            last = min(first + self.window, len(sequence))
            total -= float(scores[done - first - 1 : last - first - 1].sum())
            done = last
        return total, counted

    def _log_probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """Logarithm of each token's probability but the first's, float64 (time - 1,)."""
        # One shape is compiled; what fills it comes after and is not seen.
        padded = np.zeros((1, self.window), "int32")
        padded[0, : len(tokens)] = tokens
        mask = (np.arange(self.window) < len(tokens))[None].astype("int32")
        # Keras' own, since KerasHub's would tokenize: these are tokens.
        inputs = {"token_ids": padded, "padding_mask": mask}
        logits = keras.Model.predict_on_batch(self._model, inputs)
        logits = keras.ops.convert_to_numpy(logits)[0, : len(tokens) - 1]
        # Row by row: Gemma's vocabulary in float64 would take gigabytes.
        picked = [_log_softmax(row, token) for row, token in zip(logits, tokens[1:], strict=True)]
        return np.array(picked)


def _log_softmax(logits: np.ndarray, place: int) -> float:
    logits = logits.astype("float64") - float(logits.max())
    return float(logits[place] - np.log(np.exp(logits).sum()))
