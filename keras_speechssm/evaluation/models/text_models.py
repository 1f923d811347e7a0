"""Text language models by name: the likelihood of transcripts.

Values in different units, or of different models, do not compare. `pocketsphinx-trigram` runs
offline; the paper uses Gemma 2B.
"""

from typing import Any, Protocol

import keras
import numpy as np

from keras_speechssm.checks import first_line
from keras_speechssm.evaluation.models.transcript import plain_words

OFFLINE_TEXT_MODEL = "pocketsphinx-trigram"

TRIGRAM_VOCABULARY = 72_546
"""Number of words in pocketsphinx 5's model, including the marks of start and end."""


class TextModel(Protocol):
    """Score texts; `unit` is what it counts, words or tokens."""

    name: str
    unit: str

    def negative_log_likelihood(self, text: str) -> tuple[float, int]:
        """Return the nats of a text and its number of units."""
        ...


def load_text_model(name: str = OFFLINE_TEXT_MODEL) -> TextModel:
    """Load a text model by its name.

    Args:
        name: `pocketsphinx-trigram`, or a preset, folder or handle of a
            `keras_hub.models.CausalLM`, such as `gemma_2b_en`.

    Raises:
        ValueError: KerasHub cannot load the preset.
    """
    if name == OFFLINE_TEXT_MODEL:
        return TrigramTextModel()
    return KerasHubTextModel(load_causal_lm(name, OFFLINE_TEXT_MODEL), name)


def load_causal_lm(name: str, alternative: str) -> Any:
    """Load a `keras_hub.models.CausalLM`.

    Args:
        name: Preset, folder or handle.
        alternative: What else the name could have been, for the message.

    Raises:
        ValueError: KerasHub cannot load it; one line.
    """
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

    Unknown words get the uniform probability and reset the context. Pocketsphinx decodes with
    this same model, so it underestimates the perplexity of pocketsphinx transcripts.
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
        """Return the nats of a text and its number of words; punctuation is dropped."""
        words = plain_words(text)
        history, total = ["<s>"], 0.0
        for word in words:
            value = self.log_probability(word, history)
            total -= -np.log(TRIGRAM_VOCABULARY) if value is None else value
            history = ["<s>"] if value is None else [*history[-1:], word]
        return total, len(words)


class KerasHubTextModel:
    """A `keras_hub.models.CausalLM` as a text model.

    Long texts are read in windows that overlap by half, so that each token has at least half a
    window of context, if there is as much.

    Args:
        causal_lm: The model, with its preprocessor.
        name: Name to report. Defaults to `"keras_hub"`.
        window: Tokens per window. Defaults to `1024`.
    """

    unit = "token"

    def __init__(self, causal_lm: Any, name: str = "keras_hub", window: int = 1024):
        self.name = name
        self.window = window
        self._model = causal_lm
        self._tokenizer = causal_lm.preprocessor.tokenizer

    def negative_log_likelihood(self, text: str) -> tuple[float, int]:
        """Return the nats of a text and its number of tokens, without the start token."""
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
        """Logarithm of the probability of each token after the first, float64 (time - 1,)."""
        # One shape is compiled; the padding comes after the tokens and is not attended to.
        padded = np.zeros((1, self.window), "int32")
        padded[0, : len(tokens)] = tokens
        mask = (np.arange(self.window) < len(tokens))[None].astype("int32")
        # Keras' own method: KerasHub's would tokenize its inputs.
        inputs = {"token_ids": padded, "padding_mask": mask}
        logits = keras.Model.predict_on_batch(self._model, inputs)
        logits = keras.ops.convert_to_numpy(logits)[0, : len(tokens) - 1]
        scores = []
        # Row by row: all of Gemma's vocabulary in float64 would take gigabytes.
        for row, token in zip(logits, tokens[1:], strict=True):
            row = row.astype("float64") - float(row.max())
            scores.append(float(row[token] - np.log(np.exp(row).sum())))
        return np.array(scores)
