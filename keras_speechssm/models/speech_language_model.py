"""The interface that SpeechSSM and SpeechTransformer share."""

import math
import operator
import secrets
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from keras_speechssm.compilation import CompiledFunctions
from keras_speechssm.models import speech_language_model as requests
from keras_speechssm.models.generation import (
    BLOCK_SIZE,
    GenerationState,
    copy_generation_state,
    draw_uniforms,
    make_prefill,
    make_sample_block,
    make_score_chunk,
)
from keras_speechssm.models.optional_inputs import OptionalInputs


def read_tokens(token_ids, padding_mask, vocabulary_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Checked token ids, int32 (batch, time), and mask, bool (batch, time).

    Raises:
        ValueError: not two axes, not integers, empty, ids out of range, or a mask of
            another shape.
    """
    token_ids = _to_numpy("token_ids", token_ids)
    if token_ids.ndim != 2:
        raise ValueError(
            f"token_ids has shape {token_ids.shape}; give (batch, time), such as tokens[None]."
        )
    if 0 in token_ids.shape:
        raise ValueError(
            f"token_ids is empty, shape {token_ids.shape}: give at least one token a prompt."
        )
    if not np.issubdtype(token_ids.dtype, np.integer):
        raise ValueError(f"token_ids has dtype {token_ids.dtype}; give integers.")
    mask = np.ones(token_ids.shape, bool)
    if padding_mask is not None:
        mask = _to_numpy("padding_mask", padding_mask).astype(bool)
    if mask.shape != token_ids.shape:
        raise ValueError(
            f"padding_mask has shape {mask.shape} and token_ids {token_ids.shape}; make them equal."
        )
    if not mask.any(axis=1).all():
        row = int(np.argmin(mask.any(axis=1)))
        raise ValueError(f"Prompt {row} of token_ids is empty: give at least one real token.")
    real = token_ids[mask]
    if real.min() < 0 or real.max() >= vocabulary_size:
        raise ValueError(
            f"token_ids holds ids from {real.min()} to {real.max()}; this model's vocabulary "
            f"is 0 to {vocabulary_size - 1}."
        )
    return np.where(mask, token_ids, 0).astype("int32"), mask


def align(
    token_ids: np.ndarray, mask: np.ndarray, side: str, multiple: int, extra: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Moves each row's real tokens together to one side and pads to a static length.

    Args:
        token_ids: int32 (batch, time).
        mask: bool (batch, time), True = real.
        side: `"left"`: real tokens first; `"right"`: real tokens last.
        multiple: the new length is a multiple of this, plus `extra`.
        extra: int. Defaults to `0`.

    Returns:
        Token ids and mask of the new length.
    """
    lengths = mask.sum(axis=1)
    new_time = max(1, -(-(int(lengths.max()) - extra) // multiple)) * multiple + extra
    tokens = np.zeros((len(token_ids), new_time), "int32")
    new_mask = np.zeros(tokens.shape, bool)
    for row, length in enumerate(lengths):
        place = slice(0, length) if side == "left" else slice(new_time - length, new_time)
        tokens[row, place] = token_ids[row, mask[row]]
        new_mask[row, place] = True
    return tokens, new_mask


def read_count(name: str, value) -> int:
    """A positive int, or `ValueError`."""
    count = _to_int(name, value)
    if count < 1:
        raise ValueError(f"{name} is {value}; give an integer of at least 1.")
    return count


def read_seed(seed) -> int:
    """A non-negative int below 2^63, or `ValueError`."""
    number = _to_int("seed", seed)
    if not 0 <= number < 2**63:
        raise ValueError(f"seed is {seed}; give an integer of at least 0 and below 2^63.")
    return number


def check_sampling(temperature, top_k, top_p, vocabulary_size: int) -> None:
    """`ValueError` where a sampling argument is out of its range."""
    if not (isinstance(temperature, int | float | np.number) and 0 <= temperature < math.inf):
        raise ValueError(f"temperature is {temperature}; give a finite number of at least 0.")
    if top_k is not None and not 1 <= _to_int("top_k", top_k) <= vocabulary_size:
        raise ValueError(f"top_k is {top_k}; give an integer from 1 to {vocabulary_size}.")
    if top_p is not None and not (isinstance(top_p, int | float | np.number) and 0 < top_p <= 1):
        raise ValueError(f"top_p is {top_p}; give a number above 0 and at most 1.")


def _to_numpy(name: str, value) -> np.ndarray:
    try:
        # Tensors of any backend, on any device, and plain lists.
        return np.asarray(value.cpu() if hasattr(value, "cpu") else value)
    except (ValueError, TypeError, RuntimeError):
        raise ValueError(
            f"{name} is no array of (batch, time): pad its rows to one length."
        ) from None


def _to_int(name: str, value) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}; give an integer.") from None


class SpeechLanguageModel(OptionalInputs):
    """Mixin: generation, streaming, scoring and `fit` over explicit state.

    A class gives `initial_state(batch_size)`, `advance_hidden(token_ids, state,
    padding_mask)` -> (hidden states, state) and `project(hidden)` -> logits. Nothing of a
    generation is kept on the model: whoever generates holds the state.
    """

    def advance(self, token_ids, state, padding_mask=None):
        """Continues from `state` over a chunk of any length.

        Args:
            token_ids: int (batch, time).
            state: from `initial_state` or an earlier call; it is not changed.
            padding_mask: bool (batch, time), True = real, or `None`. Padding anywhere
                changes nothing.

        Returns:
            Logits float32 (batch, time, vocabulary) and the new state.
        """
        hidden, state = self.advance_hidden(token_ids, state, padding_mask)
        return self.project(hidden), state

    def generate(
        self,
        token_ids,
        num_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        padding_mask=None,
    ) -> np.ndarray:
        """Continues each prompt of a batch.

        Args:
            token_ids: int (batch, time), the prompts.
            num_tokens: int. New tokens of each prompt.
            temperature: float, at least 0; 0 takes the likeliest token each time.
            top_k: int or `None`. Draw from the k likeliest tokens only.
            top_p: float in (0, 1] or `None`. Draw from the fewest tokens of this mass.
            seed: int, at least 0; the same one gives the same tokens on the same backend.
                Defaults to `None`: another one each time.
            padding_mask: bool (batch, time), True = real, where prompts differ in length.

        Returns:
            int32 (batch, num_tokens), the new tokens only.
        """
        num_tokens = requests.read_count("num_tokens", num_tokens)
        state = self.start_generation(token_ids, seed=seed, padding_mask=padding_mask)
        return self._continue_in_place(state, num_tokens, temperature, top_k, top_p)[0]

    def stream(
        self,
        token_ids=None,
        block_size: int = 250,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        num_tokens: int | None = None,
        padding_mask=None,
        state: GenerationState | None = None,
    ) -> Iterator[np.ndarray]:
        """Continues each prompt without end, or for `num_tokens`, block by block.

        The tokens are those of `generate` with the same seed, whatever `block_size`.

        Args:
            token_ids: int (batch, time), the prompts; `None` where `state` is given.
            block_size: int. Tokens of a block (250 are 10 s).
            num_tokens: int. Stop after this many tokens, the last block being shorter.
                Defaults to `None`: without end.
            state: a `GenerationState` to go on from, in place of a prompt.
            temperature, top_k, top_p, seed, padding_mask: see `generate`.

        Returns:
            Iterator of int32 (batch, block_size).
        """
        block_size = requests.read_count("block_size", block_size)
        if num_tokens is not None:
            num_tokens = requests.read_count("num_tokens", num_tokens)
        requests.check_sampling(temperature, top_k, top_p, self.backbone.vocabulary_size)
        if (state is None) == (token_ids is None):
            raise ValueError("stream takes either token_ids or state: give exactly one of them.")
        if state is None:
            state = self.start_generation(token_ids, seed=seed, padding_mask=padding_mask)
        else:
            state = copy_generation_state(state)
        return self._stream_blocks(state, block_size, num_tokens, (temperature, top_k, top_p))

    def _stream_blocks(self, state, block_size, num_tokens, sampling):
        while num_tokens is None or num_tokens > 0:
            size = block_size if num_tokens is None else min(block_size, num_tokens)
            tokens, state = self._continue_in_place(state, size, *sampling)
            yield tokens
            num_tokens = None if num_tokens is None else num_tokens - size

    def start_generation(
        self, token_ids, seed: int | None = None, padding_mask=None
    ) -> GenerationState:
        """Consumes the prompts; `continue_generation` goes on from what is returned.

        The state can be kept on disk by `generation.save_generation_state`.
        """
        token_ids, padding_mask = requests.read_tokens(
            token_ids, padding_mask, self.backbone.vocabulary_size
        )
        seed = secrets.randbits(63) if seed is None else requests.read_seed(seed)
        # Padding goes to the left, so that the last chunk ends in real tokens; chunks of
        # one size keep a prompt of another length from compiling anew.
        token_ids, padding_mask = requests.align(token_ids, padding_mask, "right", BLOCK_SIZE)
        batch, time = token_ids.shape
        state = self.initial_state(batch)
        self._check_room(state, int(padding_mask.sum(axis=1).max()))
        logits = ops.zeros((batch, self.backbone.vocabulary_size), dtype="float32")
        read_chunk = self._compiled("prompt", lambda: make_prefill(self), donated=(0, 1))
        for start in range(0, time, BLOCK_SIZE):
            chunk = slice(start, start + BLOCK_SIZE)
            state, logits = read_chunk(
                state,
                logits,
                ops.convert_to_tensor(token_ids[:, chunk]),
                ops.convert_to_tensor(padding_mask[:, chunk]),
            )
        return GenerationState(state, logits, 0, seed)

    def continue_generation(
        self,
        state: GenerationState,
        num_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> tuple[np.ndarray, GenerationState]:
        """Samples `num_tokens` more; returns them, int32 (batch, num_tokens), and the new state.

        `state` is not changed: going on from it again gives the same tokens.
        """
        own = copy_generation_state(state)
        return self._continue_in_place(own, num_tokens, temperature, top_k, top_p)

    def _continue_in_place(self, state, num_tokens, temperature, top_k, top_p):
        """`continue_generation` of a state that nobody else holds."""
        num_tokens = requests.read_count("num_tokens", num_tokens)
        requests.check_sampling(temperature, top_k, top_p, self.backbone.vocabulary_size)
        self._check_room(state.model, num_tokens)
        sample_block = self._compiled(
            ("block", top_k, top_p is not None),
            lambda: make_sample_block(self, top_k, top_p is not None),
            donated=(0, 1),
        )
        blocks = []
        while num_tokens > 0:
            count = min(num_tokens, BLOCK_SIZE)
            uniforms = draw_uniforms(
                state.seed, state.logits.shape[0], state.num_generated, BLOCK_SIZE
            )
            tokens, model_state, logits = sample_block(
                state.model,
                state.logits,
                ops.convert_to_tensor(uniforms),
                ops.convert_to_tensor(count, dtype="int32"),
                ops.convert_to_tensor(temperature, dtype="float32"),
                ops.convert_to_tensor(1.0 if top_p is None else top_p, dtype="float32"),
            )
            blocks.append(ops.convert_to_numpy(tokens)[:count].T)
            state = GenerationState(model_state, logits, state.num_generated + count, state.seed)
            num_tokens -= count
        return np.concatenate(blocks, axis=1), state

    def log_probabilities(self, token_ids, padding_mask=None) -> np.ndarray:
        """Log-probability (nats) of each token given those before it.

        The first real token of a sequence has none before it: it and padding have 0.
        Runs in chunks from state to state, so that any length fits into memory.

        Args:
            token_ids: int (batch, time).
            padding_mask: bool (batch, time), True = real; padding may lie anywhere.

        Returns:
            float32 (batch, time).
        """
        token_ids, given_mask = requests.read_tokens(
            token_ids, padding_mask, self.backbone.vocabulary_size
        )
        # Each token must find the real token before it: real ones first, padding after.
        tokens, mask = requests.align(token_ids, given_mask, "left", BLOCK_SIZE, extra=1)
        state = self.initial_state(tokens.shape[0])
        self._check_room(state, int(mask.sum(axis=1).max()))
        score_chunk = self._compiled("score", lambda: make_score_chunk(self))
        scores = []
        for start in range(0, tokens.shape[1] - 1, BLOCK_SIZE):
            chunk = slice(start, start + BLOCK_SIZE)
            following = slice(start + 1, start + BLOCK_SIZE + 1)
            state, picked = score_chunk(
                state,
                ops.convert_to_tensor(tokens[:, chunk]),
                ops.convert_to_tensor(tokens[:, following]),
                ops.convert_to_tensor(mask[:, chunk]),
            )
            scores.append(ops.convert_to_numpy(picked))
        scores = np.pad(np.concatenate(scores, axis=1), ((0, 0), (1, 0)))
        order = np.maximum(np.cumsum(given_mask, axis=1) - 1, 0)
        back = np.take_along_axis(scores, order, axis=1)
        return np.where(given_mask, back, 0.0).astype("float32")

    def score(self, token_ids, padding_mask=None) -> np.ndarray:
        """Log-likelihood (nats) of each sequence after its first token, float32 (batch,).

        Takes the arguments of `log_probabilities`.
        """
        log_probabilities = self.log_probabilities(token_ids, padding_mask)
        return log_probabilities.sum(axis=1, dtype="float64").astype("float32")

    def compile(self, optimizer="auto", loss="auto", *, weighted_metrics="auto", **kwargs):
        """`keras.Model.compile` with next-token cross-entropy as the default."""
        if isinstance(optimizer, str) and optimizer == "auto":
            optimizer = keras.optimizers.Adam(2e-5)
        if isinstance(loss, str) and loss == "auto":
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if isinstance(weighted_metrics, str) and weighted_metrics == "auto":
            weighted_metrics = [keras.metrics.SparseCategoricalAccuracy()]
        super().compile(optimizer=optimizer, loss=loss, weighted_metrics=weighted_metrics, **kwargs)

    # KerasHub's tasks turn the data into a grain or tf.data pipeline, which need not be
    # installed and take no PyDataset; without a preprocessor there is nothing to map.
    def fit(self, *args, **kwargs):
        return self._trainer("fit")(*args, **kwargs)

    def evaluate(self, *args, **kwargs):
        return self._trainer("evaluate")(*args, **kwargs)

    def predict(self, *args, **kwargs):
        return self._trainer("predict")(*args, **kwargs)

    def _trainer(self, name):
        if self.preprocessor is None:
            return getattr(keras.Model, name).__get__(self)
        return getattr(super(), name)

    def _check_room(self, state, num_tokens: int) -> None:
        """`ValueError` where the state cannot take so many tokens more; most always can."""

    def _compiled(self, key, make_function, donated=()):
        """The compiled function of that key: executables only, no state of a generation."""
        functions = self.__dict__.setdefault("_inference_functions", CompiledFunctions())
        return functions.get(self, key, make_function, donated)
