"""SoundStorm's parallel decoding: level by level, the most confident tokens first.

Borsos et al. 2023, section 3.3. Knows the model as a function from tokens to logits.
All random numbers are drawn here by NumPy, for each example from its own seed, so a
window gets the same tokens alone, in a batch, or filled up to a longer shape.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from keras import ops

from keras_speechssm.compilation import compile_inference
from keras_speechssm.models.soundstorm.masking import remask_counts
from keras_speechssm.shapes import FRAMES_PER_TOKEN


@dataclass(frozen=True)
class Request:
    """A window to decode: prompt, then content, then padding up to a common length.

    Attributes:
        semantic_tokens: int32 (batch, time).
        acoustic_tokens: int32 (batch, frames, levels), hidden outside the prompt.
        padding_mask: bool (batch, frames), `True` at real frames.
        content_mask: bool (batch, frames), `True` at the frames to fill.
        num_prompt: int. Tokens of the prompt, which come first.
        num_content: int. Tokens of the content, its padding included.
        batched: bool. Whether the caller gave a batch.
    """

    semantic_tokens: np.ndarray
    acoustic_tokens: np.ndarray
    padding_mask: np.ndarray
    content_mask: np.ndarray
    num_prompt: int
    num_content: int
    batched: bool


def read_request(
    model, semantic_tokens, prompt_semantic, prompt_acoustic, padding_mask, pad_to
) -> Request:
    """Checks the arguments of `SoundStorm.generate` and lays them out."""
    semantic = _integers(semantic_tokens, "semantic_tokens")
    if semantic.ndim not in (1, 2) or semantic.size == 0:
        raise ValueError(
            "semantic_tokens must be (time,) or (batch, time) with at least one token, "
            f"got shape {semantic.shape}."
        )
    batched = semantic.ndim == 2
    real = _content_padding(padding_mask, semantic.shape)
    semantic, real = np.atleast_2d(semantic), np.atleast_2d(real)
    _check_range(
        semantic[real],
        model.semantic_vocabulary_size,
        "semantic_tokens",
        "semantic_vocabulary_size",
    )
    prompt, prompt_acoustic = _read_prompt(model, prompt_semantic, prompt_acoustic, len(semantic))
    num_prompt, num_content = prompt.shape[1], semantic.shape[1]
    fill = (pad_to or 0) - num_prompt - num_content
    if pad_to is not None and fill < 0:
        raise ValueError(
            f"pad_to={pad_to} tokens is less than prompt and content together, "
            f"{num_prompt} + {num_content}; raise it or leave it out."
        )
    fill = max(fill, 0)
    content = np.pad(real, ((0, 0), (num_prompt, fill)))
    window_real = content.copy()
    window_real[:, :num_prompt] = True
    semantic = np.pad(np.where(real, semantic, 0), ((0, 0), (0, fill)))
    semantic = np.concatenate([prompt, semantic], axis=1)
    shape = (len(semantic), FRAMES_PER_TOKEN * (num_content + fill), model.num_levels)
    hidden = np.full(shape, model.codebook_size, dtype="int32")
    return Request(
        semantic_tokens=semantic.astype("int32"),
        acoustic_tokens=np.concatenate([prompt_acoustic.astype("int32"), hidden], axis=1),
        padding_mask=np.repeat(window_real, FRAMES_PER_TOKEN, axis=1),
        content_mask=np.repeat(content, FRAMES_PER_TOKEN, axis=1),
        num_prompt=num_prompt,
        num_content=num_content,
        batched=batched,
    )


def _content_padding(padding_mask, shape) -> np.ndarray:
    if padding_mask is None:
        return np.ones(shape, dtype=bool)
    mask = np.asarray(padding_mask)
    if mask.shape != shape or mask.dtype != bool:
        raise ValueError(
            f"padding_mask must be bool of semantic_tokens' shape {shape}, "
            f"got {mask.dtype} {mask.shape}."
        )
    return mask


def _read_prompt(model, semantic, acoustic, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """The voice prompt of each example: (batch, prompt) and (batch, 2 prompt, levels)."""
    if (semantic is None) != (acoustic is None):
        raise ValueError(
            "prompt_semantic and prompt_acoustic belong together: give both or neither."
        )
    if semantic is None:
        return np.zeros((batch, 0), "int32"), np.zeros((batch, 0, model.num_levels), "int32")
    semantic = _integers(semantic, "prompt_semantic")
    acoustic = _integers(acoustic, "prompt_acoustic")
    if semantic.ndim not in (1, 2) or acoustic.ndim != semantic.ndim + 1:
        raise ValueError(
            "The prompt must be (prompt,) with (2 prompt, levels), or both with a batch axis; "
            f"got shapes {semantic.shape} and {acoustic.shape}."
        )
    semantic = semantic.reshape(-1, semantic.shape[-1])
    acoustic = acoustic.reshape(-1, *acoustic.shape[-2:])
    expected = (len(semantic), FRAMES_PER_TOKEN * semantic.shape[1], model.num_levels)
    if acoustic.shape != expected or len(semantic) not in (1, batch):
        raise ValueError(
            f"A prompt of {semantic.shape[1]} semantic tokens goes with acoustic tokens "
            f"{expected[1:]} (frames, levels), one for all or for each of {batch} examples; "
            f"got {len(semantic)} and shape {acoustic.shape}."
        )
    _check_range(
        semantic, model.semantic_vocabulary_size, "prompt_semantic", "semantic_vocabulary_size"
    )
    _check_range(acoustic, model.codebook_size, "prompt_acoustic", "codebook_size")
    return (
        np.broadcast_to(semantic, (batch, semantic.shape[1])),
        np.broadcast_to(acoustic, (batch, *expected[1:])),
    )


def _integers(array, name: str) -> np.ndarray:
    array = np.asarray(array)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be integers (token ids), got dtype {array.dtype}.")
    return array


def _check_range(ids: np.ndarray, size: int, name: str, limit: str) -> None:
    if ids.size and not 0 <= ids.min() <= ids.max() < size:
        raise ValueError(
            f"{name} must lie in 0 .. {size - 1} ({limit} {size}), got {ids.min()} .. {ids.max()}."
        )


def decode_levels(
    decode_pass: Callable,
    semantic_tokens: np.ndarray,
    acoustic_tokens: np.ndarray,
    padding_mask: np.ndarray,
    content_mask: np.ndarray,
    iterations: Sequence[int],
    temperature: float,
    seeds: Sequence[int],
    guidance_scale: float = 1.0,
) -> np.ndarray:
    """Fills in the hidden tokens of every level.

    Args:
        decode_pass: what `make_decode_pass` returns.
        semantic_tokens: int32 (batch, time).
        acoustic_tokens: int32 (batch, frames, levels), the mask id where hidden.
        padding_mask: bool (batch, frames), `True` at real frames.
        content_mask: bool (batch, frames), `True` at the frames to fill.
        iterations: passes of each level.
        temperature: float. 0 takes the likeliest token always.
        seeds: one for each example.
        guidance_scale: float. 1 is no guidance.

    Returns:
        int32 (batch, frames, levels).
    """
    batch = semantic_tokens.shape[0]
    fixed = [ops.convert_to_tensor(array) for array in (semantic_tokens, padding_mask)]
    content = ops.convert_to_tensor(content_mask)
    acoustic = ops.convert_to_tensor(acoustic_tokens)
    guidance = () if guidance_scale == 1.0 else (ops.convert_to_tensor(np.float32(guidance_scale)),)
    generators = [np.random.default_rng(seed) for seed in seeds]
    for level, passes in enumerate(iterations):
        masked = content
        counts = remask_counts(passes, content_mask.sum(axis=1))
        for number in range(passes):
            last = number == passes - 1
            heat = 0.0 if last else temperature
            uniform = np.zeros(content_mask.shape) if last else _draw(generators, content_mask)
            acoustic, masked = decode_pass(
                *fixed,
                acoustic,
                masked,
                ops.convert_to_tensor(np.full((batch,), level, "int32")),
                ops.convert_to_tensor(counts[number]),
                ops.convert_to_tensor(uniform.astype("float32")),
                ops.convert_to_tensor(np.float32(heat)),
                *guidance,
            )
    return ops.convert_to_numpy(acoustic).astype("int32")


def _draw(generators, content_mask: np.ndarray) -> np.ndarray:
    """Uniform numbers (batch, frames), the k-th content frame taking the k-th draw."""
    uniform = np.zeros(content_mask.shape)
    for row, (generator, content) in enumerate(zip(generators, content_mask, strict=True)):
        # A child for each pass: its first draws do not depend on how many are asked.
        child = np.random.default_rng(generator.integers(2**63))
        uniform[row, content] = child.random(int(content.sum()))
    return uniform


def fill_most_confident(
    logits, acoustic, masked, level, num_remask, uniform, temperature, mask_id: int
):
    """One pass of a level: fill what is hidden, hide the least certain again.

    Args:
        logits: float (batch, frames, codebook).
        acoustic: int32 (batch, frames, levels).
        masked: bool (batch, frames), hidden positions of the level.
        level: int32 (batch,), the level.
        num_remask: int32 (batch,), how many to hide again.
        uniform: float (batch, frames) in [0, 1), what the samples are drawn with.
        temperature: float scalar, 0 for the likeliest token.
        mask_id: int, the id of a hidden token.

    Returns:
        `(acoustic, masked)` after the pass.
    """
    log_probs = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    greedy = temperature <= 0.0
    tokens = ops.where(
        greedy,
        ops.cast(ops.argmax(log_probs, axis=-1), "int32"),
        _sample(log_probs / ops.where(greedy, 1.0, temperature), uniform),
    )
    confidence = ops.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
    confidence = ops.where(masked, confidence, float("inf"))
    rank = ops.argsort(ops.argsort(confidence, axis=-1), axis=-1)
    remask = ops.logical_and(masked, ops.cast(rank, "int32") < num_remask[:, None])
    tokens = ops.where(remask, mask_id, tokens)
    column = ops.arange(acoustic.shape[-1], dtype="int32")[None, :] == level[:, None]
    change = ops.logical_and(masked[..., None], column[:, None, :])
    return ops.where(change, tokens[..., None], acoustic), remask


def _sample(log_weights, uniform):
    """Draws from softmax(log_weights) by inverting its cumulative distribution.

    One uniform number a position, instead of one a code as Gumbel noise would take.
    """
    cumulative = ops.cumsum(ops.softmax(log_weights, axis=-1), axis=-1)
    threshold = uniform[..., None] * cumulative[..., -1:]
    index = ops.sum(ops.cast(cumulative <= threshold, "int32"), axis=-1)
    return ops.minimum(index, log_weights.shape[-1] - 1)


def make_decode_pass(model) -> Callable:
    """One pass through `model` and `fill_most_confident`, compiled for each shape.

    Level, schedule, temperature and guidance scale are inputs, so every pass of every
    window of one length runs the same program: one with guidance, one without.
    """

    def decode_pass(
        semantic, padding_mask, acoustic, masked, level, counts, uniform, heat, scale=None
    ):
        inputs = {
            "semantic_tokens": semantic,
            "acoustic_tokens": acoustic,
            "level": level,
            "padding_mask": padding_mask,
        }
        if scale is None:
            logits = model(inputs, training=False)
        else:
            logits = _guided_logits(model, inputs, scale)
        return fill_most_confident(
            logits, acoustic, masked, level, counts, uniform, heat, model.codebook_size
        )

    return compile_inference(model, decode_pass)


def _guided_logits(model, inputs: dict, scale):
    """`hidden + scale * (seen - hidden)`: with the semantic tokens seen, and all of them hidden.

    One batch holds each example twice (classifier-free guidance, Ho and Salimans 2022,
    equation 6).
    """
    unspoken = ops.full_like(inputs["semantic_tokens"], model.semantic_vocabulary_size)
    twice = {name: ops.concatenate([array, array]) for name, array in inputs.items()}
    twice["semantic_tokens"] = ops.concatenate([inputs["semantic_tokens"], unspoken])
    seen, hidden = ops.split(model(twice, training=False), 2)
    return hidden + scale * (seen - hidden)
