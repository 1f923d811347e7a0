"""What SpeechSSM and SpeechTransformer share: generation, streaming, scoring and `fit`."""

import dataclasses
import json
import math
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_speechssm.checks import is_number, shown, to_int, token_array
from keras_speechssm.compilation import CompiledFunctions
from keras_speechssm.config import draw_seed
from keras_speechssm.data.packing import PackedDataset
from keras_speechssm.files import write_json
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
from keras_speechssm.models.speech_ssm.speech_ssm_preprocessor import (
    SpeechSSMPreprocessor,
    TargetsDataset,
    add_targets,
    is_in_memory,
    needs_preprocessing,
)
from keras_speechssm.models.target_scores import TargetScores, can_score, score_targets

_COMPILE_STATE = "compile.json"


class Prompts(NamedTuple):
    """Checked token ids of a batch.

    Attributes:
        token_ids: int32 (batch, time), 0 at padding.
        mask: bool (batch, time), `True` at real tokens.
        batched: Whether the caller passed a batch, and not a single sequence.
    """

    token_ids: np.ndarray
    mask: np.ndarray
    batched: bool


def read_prompts(token_ids: Any, padding_mask: Any, vocabulary_size: int | None) -> Prompts:
    """Checks token ids (time,) or (batch, time) and their mask.

    Args:
        token_ids: int (time,) or (batch, time).
        padding_mask: bool of the same shape, `True` at real tokens, or `None`.
        vocabulary_size: Number of ids, or `None` if it is unknown.

    Raises:
        ValueError: If the shape or dtype is wrong, an id is out of range, or a row has no real
            token.
    """
    if padding_mask is not None:
        padding_mask = padding_mask.cpu() if hasattr(padding_mask, "cpu") else padding_mask
        padding_mask = np.asarray(padding_mask).astype(bool)
    tokens = token_array(token_ids, "token_ids", vocabulary_size=vocabulary_size, mask=padding_mask)
    batched = tokens.ndim == 2
    mask = np.ones(tokens.shape, bool) if padding_mask is None else padding_mask
    tokens, mask = np.atleast_2d(tokens), np.atleast_2d(mask)
    if not mask.any(axis=1).all():
        row = int(np.argmin(mask.any(axis=1)))
        raise ValueError(
            f"Row {row} of token_ids is all padding; expected at least one real token."
        )
    return Prompts(np.where(mask, tokens, 0).astype("int32"), mask, batched)


def align(
    token_ids: np.ndarray, mask: np.ndarray, side: str, multiple: int, extra: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Moves the real tokens of each row to one side, and pads to one of few lengths.

    Args:
        token_ids: int32 (batch, time).
        mask: bool (batch, time), `True` at real tokens.
        side: `"left"`: real tokens first; `"right"`: real tokens last.
        multiple: The new length is a multiple of this, plus `extra`.
        extra: Defaults to `0`.

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


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is drawn from the logits.

    Attributes:
        temperature: At least 0; 0 takes the most likely token.
        top_k: Samples from the k most likely tokens; `None` from all.
        top_p: Nucleus sampling: samples from the smallest set of tokens whose probabilities sum
            to at least `top_p`; `None` from all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def check(self, vocabulary_size: int) -> "Sampling":
        """Raises `ValueError` if a setting is out of range; returns itself."""
        temperature, top_k, top_p = self.temperature, self.top_k, self.top_p
        if not (is_number(temperature) and 0 <= temperature < math.inf):
            raise ValueError(
                f"temperature is {shown(temperature)}; expected a finite number of at least 0."
            )
        if top_k is not None and not 1 <= to_int("top_k", top_k) <= vocabulary_size:
            raise ValueError(f"top_k is {top_k}; expected an integer from 1 to {vocabulary_size}.")
        if top_p is not None and not (is_number(top_p) and 0 < top_p <= 1):
            raise ValueError(f"top_p is {shown(top_p)}; expected a number above 0 and at most 1.")
        return self


def read_sampler(sampler: Any) -> Sampling:
    """Converts a KerasHub sampler, or its name, to the settings of `generate`.

    Args:
        sampler: `"greedy"`, `"random"`, `"top_k"` or `"top_p"`, or a `GreedySampler`,
            `RandomSampler`, `TopKSampler` or `TopPSampler` of `keras_hub.samplers`. A seed of the
            sampler is ignored: pass `seed` to `generate`.

    Raises:
        ValueError: If the sampler is unknown or is not supported.
    """
    names = "'greedy', 'random', 'top_k' and 'top_p'"
    try:
        found = keras_hub.samplers.get(sampler)
    except (ValueError, TypeError, KeyError):
        found = None
    if not isinstance(found, keras_hub.samplers.Sampler):
        raise ValueError(f"sampler is {sampler!r}; expected one of {names}.")
    kind = type(found)
    if kind is keras_hub.samplers.GreedySampler:
        return Sampling(temperature=0.0)
    if kind is keras_hub.samplers.RandomSampler:
        return Sampling(found.temperature)
    if kind is keras_hub.samplers.TopKSampler:
        return Sampling(found.temperature, top_k=found.k)
    if kind is keras_hub.samplers.TopPSampler:
        return Sampling(found.temperature, top_k=found.k, top_p=found.p)
    raise ValueError(f"{kind.__name__} is not supported; the supported samplers are {names}.")


def read_count(name: str, value: Any) -> int:
    """Returns a positive int, or raises `ValueError`."""
    count = to_int(name, value)
    if count < 1:
        raise ValueError(f"{name} is {value}; expected an integer of at least 1.")
    return count


def read_seed(seed: Any) -> int:
    """Returns an int from 0 to 2^63 - 1, or raises `ValueError`."""
    number = to_int("seed", seed)
    if not 0 <= number < 2**63:
        raise ValueError(f"seed is {seed}; expected an integer from 0 to 2^63 - 1.")
    return number


def read_seeds(seed: Any, batch_size: int) -> int | tuple[int, ...]:
    """Returns one seed, or a tuple with one for each prompt.

    Args:
        seed: int, a sequence of `batch_size` ints, or `None` for a new seed that
            `keras.utils.set_random_seed` determines.
        batch_size: Number of prompts.

    Raises:
        ValueError: If a seed is out of range, or the number of seeds is another one.
    """
    if seed is None:
        return draw_seed()
    if not isinstance(seed, Sequence | np.ndarray) or np.ndim(seed) == 0:
        return read_seed(seed)
    if len(seed) != batch_size:
        raise ValueError(
            f"seed has {len(seed)} numbers for {batch_size} prompts; expected one number, or one "
            "for each prompt."
        )
    return tuple(read_seed(number) for number in seed)


class InputsAndTargets(NamedTuple):
    """What a model is called with to return `TargetScores` instead of logits."""

    inputs: Any
    targets: Any


class SpeechLanguageModel(OptionalInputs):
    """Mixin: generation, streaming, scoring and `fit` over explicit state.

    A class defines `initial_state(batch_size)`, `advance_hidden(token_ids, state, padding_mask)`
    -> (hidden states, state) and `project(hidden)` -> logits. The model holds nothing of a
    generation: the caller holds the state. It is a `keras_speechssm.layers.StreamingLayer`.

    The arguments of KerasHub's `CausalLM` are accepted too: `generate(max_length=, strip_prompt=)`,
    `compile(sampler=)` and `score(scoring_mode=, target_ids=)`. Without a `scoring_mode`, `score`
    returns the log-likelihood of each sequence; `log_probabilities` returns that of each token.
    """

    _sampler: Sampling | None = None
    _loads_compile_state = False
    packs_sequences = True

    def advance(self, token_ids, state, padding_mask=None):
        """Processes the next chunk of a sequence, of any length.

        Args:
            token_ids: int (batch, time).
            state: From `initial_state` or an earlier call. It is not changed.
            padding_mask: bool (batch, time), `True` at real tokens. Padding may be anywhere and
                changes nothing. Defaults to `None`: all tokens are real.

        Returns:
            Logits float32 (batch, time, vocabulary) and the new state.
        """
        hidden, state = self.advance_hidden(token_ids, state, padding_mask)
        return self.project(hidden), state

    def generate(
        self,
        token_ids,
        num_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | Sequence[int] | None = None,
        padding_mask=None,
        max_length: int | None = None,
        strip_prompt: bool = True,
        stop_token_ids=None,
    ) -> np.ndarray | list[np.ndarray]:
        """Continues each prompt of a batch.

        If none of `temperature`, `top_k` and `top_p` is given, the `sampler` of `compile` is
        used; without one, tokens are sampled at temperature 1.

        Args:
            token_ids: int (batch, time) or (time,), the prompts; or a list of prompts of any
                lengths, or recordings (paths or waveforms) that the preprocessor tokenizes, or
                what its `generate_preprocess` returns. All prompts are continued as one batch.
            num_tokens: Number of new tokens per prompt.
            temperature: At least 0; 0 takes the most likely token each time. Defaults to `1.0`.
            top_k: Samples from the k most likely tokens. Defaults to `None`: from all.
            top_p: Nucleus sampling: samples from the smallest set of tokens whose probabilities
                sum to at least `top_p` (Holtzman et al. 2019, arXiv 1904.09751). Defaults to
                `None`: from all.
            seed: The same seed gives the same tokens. With one seed, each prompt of a batch draws
                its own random numbers. A list has a seed for each prompt: each is then continued
                as it would be alone with that seed, up to rounding errors. Defaults to `None`: a
                new seed that `keras.utils.set_random_seed` determines.
            padding_mask: bool, of the shape of `token_ids`, `True` at real tokens, for prompts of
                different lengths. Defaults to `None`: all tokens are real.
            max_length: Number of tokens of the longest prompt and its continuation together,
                instead of `num_tokens`.
            strip_prompt: If `False`, the prompts are returned before the new tokens. Defaults to
                `True`.
            stop_token_ids: `None` only: no token ends speech. KerasHub has this argument.

        Returns:
            int32 (batch, num_tokens), or (num_tokens,) for a single prompt. With
            `strip_prompt=False`, a list of prompts of different lengths gives a list of arrays.

        Raises:
            ValueError: If an argument is out of range, or neither or both of `num_tokens` and
                `max_length` are given.
        """
        if stop_token_ids not in (None, "auto"):
            raise ValueError(
                "generate got stop_token_ids, but no token ends speech; pass num_tokens or "
                "max_length only."
            )
        prompts = self._read_prompts(token_ids, padding_mask)
        if (num_tokens is None) == (max_length is None):
            raise ValueError("generate takes either num_tokens or max_length; give one of them.")
        if max_length is not None:
            longest = int(prompts.mask.sum(axis=1).max())
            num_tokens = read_count("max_length", max_length) - longest
            if num_tokens < 1:
                raise ValueError(
                    f"max_length is {max_length}, but the longest prompt has {longest} tokens; "
                    "expected more."
                )
        num_tokens = read_count("num_tokens", num_tokens)
        sampling = self._read_sampling(temperature, top_k, top_p)
        state = self._start(prompts, seed)
        tokens = self._continue_in_place(state, num_tokens, sampling)[0]
        if not strip_prompt:
            whole = np.concatenate([prompts.token_ids, tokens], axis=1)
            if padding_mask is None and not prompts.mask.all():  # a list of different lengths
                real = np.pad(prompts.mask, ((0, 0), (0, num_tokens)), constant_values=True)
                return [row[kept] for row, kept in zip(whole, real, strict=True)]
            tokens = whole
        return tokens if prompts.batched else tokens[0]

    def stream(
        self,
        token_ids=None,
        block_size: int = 250,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | Sequence[int] | None = None,
        num_tokens: int | None = None,
        padding_mask=None,
        state: GenerationState | None = None,
    ) -> Iterator[np.ndarray]:
        """Continues each prompt block by block, without end or for `num_tokens`.

        With the same seed the tokens are those of `generate`, for any `block_size`.

        Args:
            token_ids: See `generate`; `None` if `state` is given.
            block_size: Number of tokens per block. Defaults to `250`, which is 10 s.
            temperature: See `generate`.
            top_k: See `generate`.
            top_p: See `generate`.
            seed: See `generate`.
            num_tokens: Stops after this many tokens; the last block may be shorter. Defaults to
                `None`: without end.
            padding_mask: See `generate`.
            state: A `GenerationState` to continue from, instead of a prompt.

        Returns:
            Iterator of int32 (batch, block_size), or (block_size,) for a single prompt.

        Raises:
            ValueError: If an argument is out of range, or neither or both of `token_ids` and
                `state` are given. It is raised by this call, not by the iterator.
        """
        block_size = read_count("block_size", block_size)
        if num_tokens is not None:
            num_tokens = read_count("num_tokens", num_tokens)
        sampling = self._read_sampling(temperature, top_k, top_p)
        if (state is None) == (token_ids is None):
            raise ValueError("stream takes either token_ids or state; give one of them.")
        batched = True
        if state is None:
            prompts = self._read_prompts(token_ids, padding_mask)
            batched, state = prompts.batched, self._start(prompts, seed)
        else:
            state = copy_generation_state(state)
        blocks = self._stream_blocks(state, block_size, num_tokens, sampling)
        return blocks if batched else (block[0] for block in blocks)

    def _stream_blocks(self, state, block_size, num_tokens, sampling):
        while num_tokens is None or num_tokens > 0:
            size = block_size if num_tokens is None else min(block_size, num_tokens)
            tokens, state = self._continue_in_place(state, size, sampling)
            yield tokens
            num_tokens = None if num_tokens is None else num_tokens - size

    def start_generation(
        self, token_ids, seed: int | Sequence[int] | None = None, padding_mask=None
    ) -> GenerationState:
        """Reads the prompts; `continue_generation` continues from the state it returns.

        `keras_speechssm.models.generation` has functions to save, load and reorder the state.

        Args:
            token_ids: See `generate`; a single prompt gives a batch of one.
            seed: See `generate`.
            padding_mask: See `generate`.
        """
        prompts = self._read_prompts(token_ids, padding_mask)
        return self._start(prompts, seed)

    def _read_prompts(self, token_ids, padding_mask) -> Prompts:
        preprocessor = self.preprocessor
        if isinstance(token_ids, dict) and "token_ids" in token_ids:  # of `generate_preprocess`
            token_ids, padding_mask = token_ids["token_ids"], token_ids.get("padding_mask")
        if isinstance(preprocessor, SpeechSSMPreprocessor) and needs_preprocessing(token_ids):
            if padding_mask is not None:
                raise ValueError("A padding_mask is for arrays of tokens; expected none.")
            prompts = preprocessor.generate_preprocess(token_ids)
            token_ids, padding_mask = prompts["token_ids"], prompts["padding_mask"]
        return read_prompts(token_ids, padding_mask, self.backbone.vocabulary_size)

    def _start(self, prompts: Prompts, seed: int | Sequence[int] | None) -> GenerationState:
        seed = read_seeds(seed, len(prompts.token_ids))
        # Padding goes to the left, so that the last chunk ends in real tokens. Chunks of one
        # size, so that a prompt of another length is not compiled again.
        token_ids, mask = align(prompts.token_ids, prompts.mask, "right", BLOCK_SIZE)
        batch, time = token_ids.shape
        state = self.initial_state(batch)
        self._check_capacity(state, int(mask.sum(axis=1).max()))
        logits = ops.zeros((batch, self.backbone.vocabulary_size), dtype="float32")
        prefill = self._compiled("prompt", lambda: make_prefill(self), donated=(0, 1))
        for start in range(0, time, BLOCK_SIZE):
            chunk = slice(start, start + BLOCK_SIZE)
            state, logits = prefill(
                state,
                logits,
                ops.convert_to_tensor(token_ids[:, chunk]),
                ops.convert_to_tensor(mask[:, chunk]),
            )
        return GenerationState(state, logits, 0, seed)

    def continue_generation(
        self,
        state: GenerationState,
        num_tokens: int,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> tuple[np.ndarray, GenerationState]:
        """Samples more tokens from a state.

        Args:
            state: From `start_generation` or an earlier call. It is not changed: continuing from
                it again gives the same tokens.
            num_tokens: Number of new tokens per session.
            temperature: See `generate`.
            top_k: See `generate`.
            top_p: See `generate`.

        Returns:
            The new tokens, int32 (batch, num_tokens), and the new state.
        """
        sampling = self._read_sampling(temperature, top_k, top_p)
        return self._continue_in_place(copy_generation_state(state), num_tokens, sampling)

    def _read_sampling(self, temperature, top_k, top_p) -> Sampling:
        if temperature is None and top_k is None and top_p is None and self._sampler is not None:
            sampling = self._sampler
        else:
            sampling = Sampling(1.0 if temperature is None else temperature, top_k, top_p)
        return sampling.check(self.backbone.vocabulary_size)

    def _continue_in_place(self, state: GenerationState, num_tokens: int, sampling: Sampling):
        """Like `continue_generation`, but may reuse the buffers of `state`."""
        num_tokens = read_count("num_tokens", num_tokens)
        self._check_capacity(state.model, num_tokens)
        top_k, use_top_p = sampling.top_k, sampling.top_p is not None
        sample_block = self._compiled(
            ("block", top_k, use_top_p),
            lambda: make_sample_block(self, top_k, use_top_p),
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
                ops.convert_to_tensor(sampling.temperature, dtype="float32"),
                ops.convert_to_tensor(sampling.top_p if use_top_p else 1.0, dtype="float32"),
            )
            blocks.append(ops.convert_to_numpy(tokens)[:count].T)
            state = GenerationState(model_state, logits, state.num_generated + count, state.seed)
            num_tokens -= count
        return np.concatenate(blocks, axis=1), state

    def log_probabilities(self, token_ids, padding_mask=None) -> np.ndarray:
        """Returns the log-probability (nats) of each token given the tokens before it.

        The first real token of a sequence has no token before it: it and padding get 0. The
        sequence is processed in chunks, so any length fits into memory.

        Args:
            token_ids: int (batch, time) or (time,).
            padding_mask: bool, of the shape of `token_ids`, `True` at real tokens. Padding may
                be anywhere. Defaults to `None`: all tokens are real.

        Returns:
            float32 of the shape of `token_ids`.
        """
        prompts = self._read_prompts(token_ids, padding_mask)
        # Each token needs the real token before it: real tokens first, padding after them.
        tokens, mask = align(prompts.token_ids, prompts.mask, "left", BLOCK_SIZE, extra=1)
        scores = self._score_targets(tokens[:, :-1], tokens[:, 1:], mask[:, :-1], mask)
        return _restore(np.pad(scores, ((0, 0), (1, 0))), prompts)

    def _score_targets(self, tokens, targets, padding_mask, mask) -> np.ndarray:
        """Log-probability of `targets[b, t]` after `tokens[b, :t + 1]`, chunk by chunk."""
        state = self.initial_state(tokens.shape[0])
        self._check_capacity(state, int(mask.sum(axis=1).max()))
        score_chunk = self._compiled("score", lambda: make_score_chunk(self))
        scores = []
        for start in range(0, tokens.shape[1], BLOCK_SIZE):
            chunk = slice(start, start + BLOCK_SIZE)
            state, picked = score_chunk(
                state,
                ops.convert_to_tensor(tokens[:, chunk]),
                ops.convert_to_tensor(targets[:, chunk]),
                ops.convert_to_tensor(padding_mask[:, chunk]),
            )
            scores.append(ops.convert_to_numpy(picked))
        return np.concatenate(scores, axis=1)

    def score(self, token_ids, padding_mask=None, scoring_mode: str | None = None, target_ids=None):
        """Returns the log-likelihood (nats) of each sequence after its first token.

        With a `scoring_mode` it returns what KerasHub's `CausalLM.score` returns in that mode.

        Args:
            token_ids: int (batch, time) or (time,).
            padding_mask: bool, see `log_probabilities`.
            scoring_mode: `"logits"`, `"loss"`, or `None` for the log-likelihood. Defaults to
                `None`.
            target_ids: int of the shape of `token_ids`, for `"loss"`: the token that should
                follow each one.

        Returns:
            float32 (batch,), or a scalar for a single sequence. With `"logits"`, the logits of
            the next token (batch, time, vocabulary); with `"loss"`, the loss (nats) of each
            target, of the shape of `token_ids` and 0 at padding.

        Raises:
            ValueError: If the mode is unknown, or `target_ids` are given without `"loss"` or
                missing with it.
        """
        if scoring_mode not in (None, "logits", "loss"):
            raise ValueError(
                f"scoring_mode is {scoring_mode!r}; expected 'logits', 'loss' or None."
            )
        if (scoring_mode == "loss") != (target_ids is not None):
            raise ValueError("score takes target_ids with scoring_mode='loss', and only then.")
        if scoring_mode is None:
            log_probabilities = self.log_probabilities(token_ids, padding_mask)
            return log_probabilities.sum(axis=-1, dtype="float64").astype("float32")
        prompts = self._read_prompts(token_ids, padding_mask)
        if scoring_mode == "logits":
            inputs = {"token_ids": prompts.token_ids, "padding_mask": prompts.mask}
            logits = self(keras.tree.map_structure(ops.convert_to_tensor, inputs))
            return logits if prompts.batched else logits[0]
        targets = self._read_prompts(target_ids, padding_mask).token_ids
        tokens, mask = align(prompts.token_ids, prompts.mask, "left", BLOCK_SIZE)
        targets, _ = align(targets, prompts.mask, "left", BLOCK_SIZE)
        return _restore(-self._score_targets(tokens, targets, mask, mask), prompts)

    def compile(
        self, optimizer="auto", loss="auto", *, weighted_metrics="auto", sampler=None, **kwargs
    ):
        """Configures training, and sampling in `generate`.

        With this loss and metric, training and evaluation compute the logits of a large vocabulary
        in chunks, and never those of a whole row. Any other loss or metric gets the logits.

        Args:
            optimizer: See `keras.Model.compile`. Defaults to `"auto"`: Adam at 2e-5.
            loss: Defaults to `"auto"`: cross-entropy of the next token.
            weighted_metrics: Defaults to `"auto"`: accuracy of the next token.
            sampler: `"greedy"`, `"random"`, `"top_k"`, `"top_p"`, or such a sampler of
                `keras_hub.samplers`: the default of `generate` and `stream`. Defaults to `None`:
                sampling at temperature 1.
            **kwargs: Further arguments of `keras.Model.compile`.

        Raises:
            ValueError: If the sampler is unknown or is not supported.
        """
        self._sampler = None if sampler is None else read_sampler(sampler)
        if isinstance(optimizer, str) and optimizer == "auto":
            optimizer = keras.optimizers.Adam(2e-5)
        if isinstance(loss, str) and loss == "auto":
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if isinstance(weighted_metrics, str) and weighted_metrics == "auto":
            weighted_metrics = [keras.metrics.SparseCategoricalAccuracy()]
        metrics = keras.tree.flatten([kwargs.get("metrics"), weighted_metrics])
        self._needs_logits = not (
            type(loss) is keras.losses.SparseCategoricalCrossentropy
            and loss.from_logits
            and loss.ignore_class is None
            and all(map(_is_accuracy, metrics))
        )
        # Not `CausalLM.compile`, whose sampler `generate` would not use.
        keras.Model.compile(
            self, optimizer=optimizer, loss=loss, weighted_metrics=weighted_metrics, **kwargs
        )

    def compile_from_config(self, config: dict) -> None:
        # In `.keras` files of earlier versions the compile config holds all of it.
        names = ("sampler", "optimizer_built")
        state = {name: config[name] for name in names if name in config}
        config = {name: value for name, value in config.items() if name not in state}
        self.compile(**keras.saving.deserialize_keras_object(config))
        if state:
            self._restore_compile_state(state)
        self._loads_compile_state = not state

    def save_assets(self, dir_path: str) -> None:
        """Writes the rest of what `compile` set; clones read the compile config, too.

        Args:
            dir_path: A folder of the `.keras` file.
        """
        sampler = self._sampler and dataclasses.asdict(self._sampler)
        built = self.compiled and self.optimizer is not None and self.optimizer.built
        write_json(Path(dir_path) / _COMPILE_STATE, {"sampler": sampler, "optimizer_built": built})

    def load_assets(self, dir_path: str) -> None:
        """Reads what `save_assets` wrote, unless Keras loads with `compile=False`.

        Args:
            dir_path: A folder of the `.keras` file.
        """
        if not self._loads_compile_state:
            return
        path = Path(dir_path) / _COMPILE_STATE
        self._restore_compile_state(json.loads(path.read_text(encoding="utf-8")))
        self._loads_compile_state = False

    def _restore_compile_state(self, state: dict) -> None:
        self._sampler = None if state["sampler"] is None else Sampling(**state["sampler"])
        # Keras loads the optimizer's variables next, and refuses a different number of them.
        if state["optimizer_built"]:
            self.optimizer.build(self.trainable_variables)

    # With a large vocabulary, the logits of a whole row would be the largest array of a step.
    # Training and evaluation pass the targets with the inputs, and get `TargetScores` instead.
    def train_step(self, *args):
        *state, data = args  # only JAX has a state
        return super().train_step(*state, self._with_targets(data))

    def test_step(self, *args):
        *state, data = args
        return super().test_step(*state, self._with_targets(data))

    def _with_targets(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        overridable = ("call", "compute_loss", "compute_metrics")
        if (
            not self._needs_logits
            and len(getattr(y, "shape", ())) == 2
            and can_score(self.backbone.token_embedding)
            and all(getattr(type(self), n) is getattr(SpeechLanguageModel, n) for n in overridable)
        ):
            x = InputsAndTargets(x, y)
        return x, y, sample_weight

    def __call__(self, inputs, *args, **kwargs):
        if isinstance(inputs, InputsAndTargets):
            return self.call(inputs, *args, **kwargs)
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs, training=None, **kwargs):
        if isinstance(inputs, InputsAndTargets):
            hidden = self.backbone(self._complete_inputs(inputs.inputs), training=training)
            return score_targets(self.backbone.token_embedding, hidden, inputs.targets)
        return super().call(inputs, training=training, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if isinstance(y_pred, TargetScores):
            y, y_pred = ops.zeros_like(y), y_pred.logits
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if isinstance(y_pred, TargetScores):
            y, y_pred = ops.zeros_like(y), y_pred.is_best
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def fit(
        self,
        x=None,
        y=None,
        batch_size: int | None = None,
        epochs: int = 1,
        *,
        sample_weight=None,
        validation_split: float = 0.0,
        validation_data=None,
        shuffle: bool | None = None,
        **kwargs,
    ) -> keras.callbacks.History:
        """Trains the model.

        The `preprocessor` packs inputs without targets into rows. With targets, the data go to
        Keras as they are.

        Args:
            x: Semantic tokens int (batch, time), a list of int (time,) of any lengths, or what
                else the preprocessor takes, such as paths of audio files. Or a dataset
                (`keras.utils.PyDataset`, `tf.data`, Grain, generator) of tokens int (batch, time)
                or of `(inputs, targets[, weights])`.
            y: Targets, int (batch, time). Defaults to `None`: the next tokens.
            batch_size: Number of rows of a batch. Defaults to `32`; a dataset has its own.
            epochs: Number of epochs. Defaults to `1`.
            sample_weight: Weights of the targets. Defaults to `None`.
            validation_split: Fraction of the sequences, the last ones, to validate on. Defaults
                to `0.0`.
            validation_data: Like `x`, or a tuple `(x, y[, sample_weight])`. Defaults to `None`.
            shuffle: Whether rows, or the batches of a `PyDataset`, are shuffled before each epoch.
                Defaults to `None`: yes. Other datasets shuffle themselves.
            **kwargs: Further arguments of `keras.Model.fit`, such as `callbacks`.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: If there are no sequences of at least two tokens, or too few to split.
        """
        if shuffle is None:  # Keras warns if it is `True` for other datasets
            shuffle = is_in_memory(x) or isinstance(x, keras.utils.PyDataset)
        if self._has_other_preprocessor():
            data = {"sample_weight": sample_weight, "validation_data": validation_data}
            split = {"validation_split": validation_split} if validation_split else {}
            return super().fit(
                x,
                y,
                batch_size=batch_size,
                epochs=epochs,
                shuffle=shuffle,
                **data,
                **split,
                **kwargs,
            )
        if y is None and is_in_memory(x):
            sequences = self._require_preprocessor().read_sequences(_as_list(x))
            if validation_split:
                sequences, validation_data = _split(sequences, validation_split)
            x = self._make_dataset(sequences, batch_size, shuffle)
            shuffle, validation_split = False, 0.0  # the dataset shuffles the rows
        elif y is None:
            x = self._map_dataset(x)
        if isinstance(validation_data, tuple) and all(one is None for one in validation_data[1:]):
            validation_data = validation_data[0]  # without targets
        if validation_data is not None and not isinstance(validation_data, tuple):
            if is_in_memory(validation_data):
                validation_data = self._make_dataset(validation_data, batch_size, shuffle=False)
            else:
                validation_data = self._map_dataset(validation_data)
        if isinstance(x, PackedDataset):
            batch_size = None  # the dataset has it
        return keras.Model.fit(
            self,
            x,
            y,
            batch_size=batch_size,
            epochs=epochs,
            sample_weight=sample_weight,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            **kwargs,
        )

    def evaluate(self, x=None, y=None, batch_size: int | None = None, **kwargs):
        """Returns the loss and metrics of data in any of the forms that `fit` takes.

        Args:
            x: See `fit`.
            y: See `fit`.
            batch_size: See `fit`.
            **kwargs: Further arguments of `keras.Model.evaluate`.
        """
        if self._has_other_preprocessor():
            return super().evaluate(x, y, batch_size=batch_size, **kwargs)
        if y is None and is_in_memory(x):
            x, batch_size = self._make_dataset(_as_list(x), batch_size, shuffle=False), None
        elif y is None:
            x = self._map_dataset(x)
        return keras.Model.evaluate(self, x, y, batch_size=batch_size, **kwargs)

    def predict(self, x, *args, **kwargs):
        """Returns logits float32 (batch, time, vocabulary); see `keras.Model.predict`.

        Args:
            x: Inputs of the model, or a dataset of them. They are not packed.
            *args: Further arguments of `keras.Model.predict`.
            **kwargs: Further arguments of `keras.Model.predict`.
        """
        if self._has_other_preprocessor():
            return super().predict(x, *args, **kwargs)
        return keras.Model.predict(self, x, *args, **kwargs)

    def _set_preprocessor(self, preprocessor) -> None:
        """Sets the preprocessor; `None` gives one for tokens."""
        if preprocessor is None:
            preprocessor = SpeechSSMPreprocessor(pack=self.packs_sequences)
        self.preprocessor = preprocessor

    @classmethod
    def load_preprocessor(cls, preset: str) -> SpeechSSMPreprocessor:
        """Returns the preprocessor of a preset; that of a pipeline has a tokenizer.

        Args:
            preset: Name, folder or handle.
        """
        return SpeechSSMPreprocessor.from_preset(preset)

    def _has_other_preprocessor(self) -> bool:
        return not isinstance(self.preprocessor, SpeechSSMPreprocessor | None)

    def _require_preprocessor(self) -> SpeechSSMPreprocessor:
        if self.preprocessor is None:
            raise ValueError(
                "The model has no preprocessor to make targets; pass x=tokens[:, :-1] and "
                "y=tokens[:, 1:], or set model.preprocessor."
            )
        return self.preprocessor

    def _make_dataset(self, x, batch_size: int | None, shuffle: bool):
        preprocessor = self._require_preprocessor()
        sequences = preprocessor.read_sequences(_as_list(x))
        for sequence in sequences:
            token_array(sequence, vocabulary_size=self.backbone.vocabulary_size, allow_empty=True)
        rows = preprocessor.pack_sequences(sequences, seed=draw_seed() if shuffle else 0)
        return rows.dataset(batch_size or 32, shuffle=shuffle)

    def _map_dataset(self, x):
        """Adds targets to the batches of a dataset that have none."""
        if self.preprocessor is None or x is None:
            return x
        if isinstance(x, keras.utils.PyDataset):
            return TargetsDataset(x)
        if isinstance(x, types.GeneratorType):
            return (add_targets(batch) for batch in x)
        if hasattr(x, "element_spec"):  # tf.data
            if isinstance(x.element_spec, tuple):
                return x  # of inputs and targets
            from tensorflow.autograph.experimental import do_not_convert

            return x.map(do_not_convert(add_targets))  # its errors then have one line
        return x.map(add_targets) if hasattr(x, "map") else x

    def get_config(self) -> dict:
        preprocessor = self.preprocessor
        if isinstance(preprocessor, keras.layers.Layer | None):
            return super().get_config()
        # A function cannot be saved, and Keras would raise.
        return {
            "backbone": keras.layers.serialize(self.backbone),
            "preprocessor": None,
            "name": self.name,
        }

    def _check_capacity(self, state, num_tokens: int) -> None:
        """Raises `ValueError` if the state has no room for so many tokens; most states do."""

    def _compiled(self, key, make_function, donated=()):
        functions = self.__dict__.setdefault("_inference_functions", CompiledFunctions(self))
        return functions.get(key, make_function, donated)


def _restore(scores: np.ndarray, prompts: Prompts) -> np.ndarray:
    """Moves the scores of tokens that `align` moved to the left back to where they were."""
    order = np.maximum(np.cumsum(prompts.mask, axis=1) - 1, 0)
    scores = np.take_along_axis(scores, order, axis=1)
    scores = np.where(prompts.mask, scores, 0.0).astype("float32")
    return scores if prompts.batched else scores[0]


def _is_accuracy(metric: Any) -> bool:
    """Whether a metric counts how often the target has the highest logit."""
    if metric is None or isinstance(metric, str):
        return metric in (None, "accuracy", "acc", "sparse_categorical_accuracy")
    return type(metric) is keras.metrics.SparseCategoricalAccuracy


def _as_list(x: Any) -> Any:
    return list(x) if isinstance(x, tuple) else x


def _split(sequences: list, fraction: float) -> tuple[list, list]:
    """Splits off the last sequences, as Keras does with rows."""
    if not 0 < fraction < 1:
        raise ValueError(f"validation_split is {fraction}; expected a number from 0 to 1.")
    first = round(len(sequences) * (1 - fraction))
    if not 0 < first < len(sequences):
        raise ValueError(
            f"validation_split={fraction} of {len(sequences)} sequences leaves none to train or to "
            "validate on. Pass more sequences, or validation_data."
        )
    return sequences[:first], sequences[first:]
