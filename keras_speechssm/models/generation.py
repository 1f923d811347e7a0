"""Sampling from a language model in compiled blocks, and the state of a generation.

A model is anything with `advance(token_ids, state)`. Random numbers are counter-based: token n of
session b is drawn with a number that depends on (seed, b, n) only. Neither the size of the blocks
nor an interruption changes what is sampled.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_speechssm.files import atomic_write, open_arrays

BLOCK_SIZE = 256
"""Most tokens that one call of the compiled sampler makes, and tokens of a chunk of a prompt."""


class GenerationState(NamedTuple):
    """The state of a generation: arrays and two integers. It can be saved and continued later.

    Attributes:
        model: State of the model, a nested structure of arrays.
        logits: float32 (batch, vocabulary), logits of the next token.
        num_generated: Number of tokens sampled so far per session.
        seed: Seed of the whole generation, or a tuple with one for each session.
    """

    model: Any
    logits: Any
    num_generated: int
    seed: int | tuple[int, ...]


def copy_generation_state(state: GenerationState) -> GenerationState:
    """Returns a copy of the state, whose buffers a compiled block may reuse."""
    model, logits = keras.tree.map_structure(ops.copy, (state.model, state.logits))
    return state._replace(model=model, logits=logits)


def save_generation_state(state: GenerationState, path: str | os.PathLike) -> None:
    """Writes the state of a generation to one `.npz` file, atomically.

    Args:
        state: From `start_generation` or `continue_generation`.
        path: Path of the file.
    """
    arrays = {
        f"leaf_{number}": ops.convert_to_numpy(ops.cast(leaf, _plain_dtype(leaf)))
        for number, leaf in enumerate(keras.tree.flatten((state.model, state.logits)))
    }
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, num_generated=state.num_generated, seed=state.seed, **arrays)


def load_generation_state(model: Any, path: str | os.PathLike) -> GenerationState:
    """Reads a state that `save_generation_state` wrote for the same model.

    Args:
        model: The `SpeechSSM` or `SpeechTransformer` that continues.
        path: Path of the `.npz` file.

    Raises:
        ValueError: If the file is damaged, is something else, or belongs to a model of other
            sizes.
    """
    with open_arrays(path, "the state of a generation") as file:
        arrays = {name: file[name] for name in file.files}
        batch = arrays["leaf_0"].shape[0]
        num_generated, seed = int(arrays["num_generated"]), arrays["seed"].tolist()
    logits = ops.zeros((batch, model.backbone.vocabulary_size), dtype="float32")
    like = (model.initial_state(batch), logits)
    leaves = keras.tree.flatten(like)
    found = [arrays[name].shape for name in sorted(arrays, key=_leaf_order) if "leaf" in name]
    expected = [tuple(leaf.shape) for leaf in leaves]
    if found != expected:
        raise ValueError(
            f"The state in {os.fspath(path)!r} does not fit this model; load it with the model "
            "that it was saved with."
        )
    loaded = [
        ops.convert_to_tensor(arrays[f"leaf_{number}"], dtype=leaf.dtype)
        for number, leaf in enumerate(leaves)
    ]
    state, logits = keras.tree.pack_sequence_as(like, loaded)
    seed = tuple(seed) if isinstance(seed, list) else seed
    return GenerationState(state, logits, num_generated, seed)


def reorder_state(state: Any, indices: Any) -> Any:
    """Returns the state whose row n is row `indices[n]` of `state`, for beam search.

    Rows may be repeated or left out, so this also widens or narrows a batch.

    Args:
        state: The state of a model, or any nested structure of arrays (batch, ...), such as
            `(generation.model, generation.logits)` of a `GenerationState`.
        indices: int (new_batch,).

    Returns:
        The same structure of arrays (new_batch, ...).
    """
    indices = ops.convert_to_tensor(indices, dtype="int32")
    return keras.tree.map_structure(lambda leaf: ops.take(leaf, indices, axis=0), state)


def draw_uniforms(seed: int | Sequence[int], batch_size: int, start: int, count: int) -> np.ndarray:
    """Draws uniform numbers in (0, 1] for tokens `start` to `start + count` of each session.

    Args:
        seed: Seed of the generation, or one for each session.
        batch_size: Number of sessions.
        start: Index of the first token.
        count: Number of tokens.

    Returns:
        float32 (count, batch_size). Column b depends on (seed, b) only; with one seed for each
        session, it is the first column of `seed[b]`.
    """
    # One counter of Philox gives four numbers, and a float32 in (0, 1] has 24 bits.
    first, skip = start // 4, start % 4
    columns = []
    for row in range(batch_size):
        session = (seed, row) if np.ndim(seed) == 0 else (seed[row], 0)
        key = np.random.SeedSequence(session).generate_state(2, np.uint64)
        generator = np.random.Philox(key=key, counter=[first, 0, 0, 0])
        columns.append(generator.random_raw(skip + count)[skip:])
    bits = np.stack(columns, axis=1) >> np.uint64(40)
    return ((bits + np.uint64(1)) * 2.0**-24).astype("float32")


def sample_tokens(logits, uniform, temperature, top_k: int | None = None, top_p=None):
    """Draws one token per session by inverting the cumulative distribution.

    Args:
        logits: float32 (batch, vocabulary).
        uniform: float32 (batch,) in (0, 1].
        temperature: Scalar array. 0 takes the most likely token.
        top_k: Samples from the k most likely tokens. Defaults to `None`: from all.
        top_p: Scalar array: samples from the smallest set of tokens whose probabilities sum to at
            least `top_p` (nucleus sampling, arXiv 1904.09751). Defaults to `None`: from all.

    Returns:
        int32 (batch,).
    """
    scaled = logits / ops.maximum(temperature, 1e-6)
    if top_k is not None:
        threshold = ops.top_k(scaled, top_k)[0][:, -1:]
        scaled = ops.where(scaled < threshold, -np.inf, scaled)
    probabilities = ops.softmax(scaled, axis=-1)
    if top_p is not None:
        ordered = ops.flip(ops.sort(probabilities, axis=-1), axis=-1)
        before = ops.cumsum(ordered, axis=-1) - ordered
        inside = before < ops.maximum(top_p, 1e-6)  # a tiny top_p is 0 in float32
        threshold = ops.min(ops.where(inside, ordered, np.inf), axis=-1, keepdims=True)
        probabilities = ops.where(probabilities < threshold, 0.0, probabilities)
    possible = probabilities > 0
    # A parallel cumulative sum need not be monotone, so exclude impossible tokens explicitly.
    cumulative = ops.where(possible, ops.cumsum(probabilities, axis=-1), 0.0)
    target = uniform[:, None] * ops.max(cumulative, axis=-1, keepdims=True)
    reached = ops.logical_and(cumulative >= target, possible)
    likeliest = logits == ops.max(logits, axis=-1, keepdims=True)
    return _first_true(ops.where(temperature > 0, reached, likeliest))


def _first_true(mask):
    """The first index at which `mask` (batch, vocabulary) is `True`: int32 (batch,)."""
    # Not `argmax`: XLA reduces pairs of value and index, which it does not vectorize on CPU.
    indices = ops.arange(mask.shape[-1], dtype="int32")
    return ops.min(ops.where(mask, indices, mask.shape[-1] - 1), axis=-1)


def make_sample_block(model: Any, top_k: int | None, use_top_p: bool) -> Callable:
    """Returns a function that samples up to `BLOCK_SIZE` tokens, to be compiled once.

    The number of tokens is an argument of the compiled function, so every request runs the same
    executable. Each sampled token is fed to the model immediately: the state that is returned has
    seen all the tokens that are returned.
    """

    def sample_block(state, logits, uniforms, count, temperature, top_p):
        tokens = ops.zeros((BLOCK_SIZE, logits.shape[0]), dtype="int32")
        first = ops.zeros((), dtype="int32")  # a plain 0 is int64 in JAX's 64-bit mode

        def step(number, state, logits, tokens):
            token = sample_tokens(
                logits, uniforms[number], temperature, top_k, top_p if use_top_p else None
            )
            tokens = ops.slice_update(tokens, (number, first), token[None])
            logits, state = model.advance(token[:, None], state)
            return number + 1, state, logits[:, -1], tokens

        _, state, logits, tokens = ops.while_loop(
            lambda number, *_: number < count, step, (first, state, logits, tokens)
        )
        return tokens, state, logits

    return sample_block


def make_prefill(model: Any) -> Callable:
    """Returns a function that reads one chunk of a prompt, to be compiled once.

    It computes logits at the last real token of each session only, and keeps the old logits
    if a chunk is all padding.
    """

    def read_chunk(state, logits, token_ids, padding_mask):
        hidden, state = model.advance_hidden(token_ids, state, padding_mask)
        steps = ops.arange(1, token_ids.shape[1] + 1, dtype="int32")
        last = ops.max(ops.where(padding_mask, steps[None], 0), axis=1)
        index = ops.maximum(last - 1, 0)[:, None, None]
        new_logits = model.project(ops.take_along_axis(hidden, index, axis=1))[:, 0]
        return state, ops.where(last[:, None] > 0, new_logits, logits)

    return read_chunk


def make_score_chunk(model: Any) -> Callable:
    """Returns a function that scores the token after each one of a chunk, to be compiled once."""

    def score_chunk(state, token_ids, targets, padding_mask):
        logits, state = model.advance(token_ids, state, padding_mask)
        log_probabilities = ops.log_softmax(logits, axis=-1)
        picked = ops.take_along_axis(log_probabilities, targets[..., None], axis=-1)
        return state, picked[..., 0]

    return score_chunk


def _plain_dtype(array) -> str:
    dtype = keras.backend.standardize_dtype(array.dtype)
    return "float32" if dtype == "bfloat16" else dtype  # NumPy files have no bfloat16


def _leaf_order(name: str) -> int:
    return int(name.removeprefix("leaf_")) if name.startswith("leaf_") else -1
