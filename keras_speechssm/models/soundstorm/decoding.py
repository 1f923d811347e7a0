"""SoundStorm's parallel decoding: level by level, the most confident tokens first.

Borsos et al. 2023, section 3.3. All random numbers are drawn here by NumPy, for each example from
its own seed, so a window gets the same tokens alone, in a batch, and padded to a longer shape.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from keras import ops

from keras_speechssm.checks import is_number, shown, to_int
from keras_speechssm.config import draw_seed
from keras_speechssm.models.soundstorm.masking import remask_counts
from keras_speechssm.shapes import FRAMES_PER_TOKEN


@dataclass(frozen=True)
class DecodingRequest:
    """Windows to decode: prompt, then content, then padding to a common length.

    Attributes:
        semantic_tokens: int32 (batch, time).
        acoustic_tokens: int32 (batch, frames, levels), the mask id outside the prompt.
        padding_mask: bool (batch, frames), `True` at real frames.
        content_mask: bool (batch, frames), `True` at the frames to fill.
        content_frames: slice. Where the content is, its padding included.
        batched: bool. Whether the caller passed a batch.
        seeds: list of int. One for each example.
        iterations: tuple of int. Passes for each level.
        temperature: float. 0 takes the most likely token.
        guidance_scales: tuple of float. One for each level; 1 means without guidance.
    """

    semantic_tokens: np.ndarray
    acoustic_tokens: np.ndarray
    padding_mask: np.ndarray
    content_mask: np.ndarray
    content_frames: slice
    batched: bool
    seeds: Sequence[int]
    iterations: Sequence[int]
    temperature: float
    guidance_scales: Sequence[float]


def read_request(
    model,
    semantic_tokens,
    prompt_semantic,
    prompt_acoustic,
    padding_mask,
    pad_to,
    **settings,
) -> DecodingRequest:
    """Check the tokens of `SoundStorm.generate` and lay them out.

    Args:
        model: The `SoundStorm`.
        semantic_tokens: As the following ones: see `SoundStorm.generate`.
        prompt_semantic: Semantic tokens of the voice prompt.
        prompt_acoustic: Acoustic tokens of the voice prompt.
        padding_mask: Mask of the semantic tokens.
        pad_to: Length in tokens to pad to.
        **settings: `seed`, `iterations`, `temperature`, and `guidance_scale`.

    Raises:
        ValueError: Shapes, ids, or settings are invalid.
    """
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
    batch, num_content = semantic.shape
    prompt, prompt_acoustic = _read_prompt(model, prompt_semantic, prompt_acoustic, batch)
    num_prompt = prompt.shape[1]
    fill = (0 if pad_to is None else to_int("pad_to", pad_to)) - num_prompt - num_content
    if pad_to is not None and fill < 0:
        raise ValueError(
            f"pad_to={pad_to} tokens is less than prompt and content together, "
            f"{num_prompt} + {num_content}; increase it or omit it."
        )
    fill = max(fill, 0)
    content = np.pad(real, ((0, 0), (num_prompt, fill)))
    window_real = content.copy()
    window_real[:, :num_prompt] = True
    semantic = np.pad(np.where(real, semantic, 0), ((0, 0), (0, fill)))
    semantic = np.concatenate([prompt, semantic], axis=1)
    shape = (batch, FRAMES_PER_TOKEN * (num_content + fill), model.num_levels)
    hidden = np.full(shape, model.codebook_size, dtype="int32")
    start = FRAMES_PER_TOKEN * num_prompt
    return DecodingRequest(
        semantic_tokens=semantic.astype("int32"),
        acoustic_tokens=np.concatenate([prompt_acoustic.astype("int32"), hidden], axis=1),
        padding_mask=np.repeat(window_real, FRAMES_PER_TOKEN, axis=1),
        content_mask=np.repeat(content, FRAMES_PER_TOKEN, axis=1),
        content_frames=slice(start, start + FRAMES_PER_TOKEN * num_content),
        batched=batched,
        **_read_settings(batch, model.num_levels, **settings),
    )


def check_guidance_scale(guidance_scale: float | Sequence[float]) -> float | tuple[float, ...]:
    """Return a guidance scale, or that of each level, as floats.

    Raises:
        ValueError: A scale is negative or not finite in float32.
    """
    many = isinstance(guidance_scale, list | tuple | np.ndarray)
    scales = np.atleast_1d(np.asarray(guidance_scale, dtype=object)).tolist() if many else None
    most = float(np.finfo("float32").max)
    for scale in [guidance_scale] if scales is None else scales:
        if not (is_number(scale) and 0.0 <= scale <= most):
            raise ValueError(f"guidance_scale must be 0 or a positive number, got {shown(scale)}.")
    return float(guidance_scale) if scales is None else tuple(map(float, scales))


def check_iterations(iterations: Sequence[int], num_levels: int | None = None) -> tuple[int, ...]:
    """Return the passes of each level as ints.

    Args:
        iterations: The passes.
        num_levels: Levels of the codec. Defaults to `None`: not known yet.

    Raises:
        ValueError: They are not integers, or not one positive number for each level.
    """
    passes = np.atleast_1d(np.asarray(iterations, dtype=object))
    passes = tuple(to_int("iterations", number) for number in passes)
    if num_levels is not None and (len(passes) != num_levels or min(passes) < 1):
        raise ValueError(
            f"iterations must give one positive number for each of the {num_levels} levels, "
            f"got {passes}."
        )
    return passes


def _read_settings(batch: int, num_levels: int, seed, iterations, temperature, guidance_scale):
    """Check the settings of a request, and give each example a seed."""
    if iterations is None:
        iterations = (16,) + (1,) * (num_levels - 1)
    iterations = check_iterations(iterations, num_levels)
    if not (is_number(temperature) and 0.0 <= temperature < float("inf")):
        raise ValueError(f"temperature must be 0 or a positive number, got {shown(temperature)}.")
    guidance_scales = check_guidance_scale(guidance_scale)
    if isinstance(guidance_scales, float):
        guidance_scales = (guidance_scales,) * num_levels
    if len(guidance_scales) != num_levels:
        raise ValueError(
            "guidance_scale must be one number, or one for each of the "
            f"{num_levels} levels, got {len(guidance_scales)}."
        )
    if seed is None:
        seeds = [draw_seed() for _ in range(batch)]
    else:
        seeds = [to_int("seed", value) for value in np.atleast_1d(np.asarray(seed, dtype=object))]
    if len(seeds) == 1:
        seeds = seeds * batch
    if len(seeds) != batch or min(seeds) < 0:
        raise ValueError(
            f"seed must be a non-negative int or one for each of the {batch} examples, got {seed}."
        )
    return {
        "seeds": seeds,
        "iterations": iterations,
        "temperature": float(temperature),
        "guidance_scales": guidance_scales,
    }


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
    """Read the voice prompt of each example: (batch, prompt) and (batch, 2 prompt, levels)."""
    if (semantic is None) != (acoustic is None):
        raise ValueError(
            "prompt_semantic and prompt_acoustic must be passed together: pass both or neither."
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
            f"{name} must be in 0 .. {size - 1} ({limit} {size}), got {ids.min()} .. {ids.max()}."
        )


def decode_levels(decode_pass: Callable, request: DecodingRequest) -> np.ndarray:
    """Fill in the hidden tokens of every level.

    Args:
        decode_pass: Compiled function from `make_decode_pass`.
        request: What to decode, and how.

    Returns:
        int32 (batch, frames, levels).
    """
    inputs = {
        "semantic_tokens": ops.convert_to_tensor(request.semantic_tokens),
        "acoustic_tokens": ops.convert_to_tensor(request.acoustic_tokens),
        "padding_mask": ops.convert_to_tensor(request.padding_mask),
    }
    content = ops.convert_to_tensor(request.content_mask)
    generators = [np.random.default_rng(seed) for seed in request.seeds]
    settings = zip(request.iterations, request.guidance_scales, strict=True)
    for level, (passes, scale) in enumerate(settings):
        guidance = () if scale == 1.0 else (ops.convert_to_tensor(np.float32(scale)),)
        masked = content
        counts = remask_counts(passes, request.content_mask.sum(axis=1))
        inputs["level"] = ops.convert_to_tensor(np.full(len(generators), level, "int32"))
        for index in range(passes):
            last = index == passes - 1
            uniform = np.zeros(request.content_mask.shape)
            if not last:
                uniform = _draw_uniforms(generators, request.content_mask)
            inputs["acoustic_tokens"], masked = decode_pass(
                inputs,
                masked,
                ops.convert_to_tensor(counts[index]),
                ops.convert_to_tensor(uniform.astype("float32")),
                ops.convert_to_tensor(np.float32(0.0 if last else request.temperature)),
                *guidance,
            )
    return ops.convert_to_numpy(inputs["acoustic_tokens"]).astype("int32")


def _draw_uniforms(generators, content_mask: np.ndarray) -> np.ndarray:
    """Draw uniform numbers (batch, frames); the k-th content frame gets the k-th draw."""
    uniform = np.zeros(content_mask.shape)
    for row, (generator, content) in enumerate(zip(generators, content_mask, strict=True)):
        # A child for each pass, so that later passes do not depend on the number of frames.
        child = np.random.default_rng(generator.integers(2**63))
        uniform[row, content] = child.random(int(content.sum()))
    return uniform


def fill_most_confident(
    logits, acoustic, masked, level, num_remask, uniform, temperature, mask_id: int
):
    """Run one pass of a level: fill the hidden tokens, and hide the least confident ones again.

    Args:
        logits: float (batch, frames, codebook).
        acoustic: int32 (batch, frames, levels).
        masked: bool (batch, frames), the hidden positions of the level.
        level: int32 (batch,), the level.
        num_remask: int32 (batch,), number of tokens to hide again.
        uniform: float (batch, frames) in [0, 1), the random numbers of the samples.
        temperature: float scalar; 0 takes the most likely token.
        mask_id: int, the id of a hidden token.

    Returns:
        `(acoustic, masked)` after the pass.
    """
    log_probs = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    # Only one of both is computed: the last pass of a level, and thus most levels, is greedy.
    tokens = ops.cond(
        temperature <= 0.0,
        lambda: ops.cast(ops.argmax(log_probs, axis=-1), "int32"),
        lambda: _sample(log_probs / temperature, uniform),
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
    """Sample from softmax(log_weights) by inverting its cumulative distribution.

    This needs one uniform number per position; Gumbel noise would need one per code. The sampler
    of the language model (`models.generation.sample_tokens`) takes uniforms in (0, 1] instead of
    [0, 1), so the two differ where a uniform number equals a cumulative probability.
    """
    cumulative = ops.cumsum(ops.softmax(log_weights, axis=-1), axis=-1)
    threshold = uniform[..., None] * cumulative[..., -1:]
    index = ops.sum(ops.cast(cumulative <= threshold, "int32"), axis=-1)
    return ops.cast(ops.minimum(index, log_weights.shape[-1] - 1), "int32")


def make_decode_pass(model) -> Callable:
    """Create the function that runs `model` and `fill_most_confident` once, to be compiled.

    Level, schedule, temperature, and guidance scale are inputs, so every pass of every window of
    one length runs the same program: one with guidance, and one without.
    """

    def decode_pass(inputs, masked, counts, uniform, temperature, guidance_scale=None):
        if guidance_scale is None:
            logits = model(inputs, training=False)
        else:
            logits = _guided_logits(model, inputs, guidance_scale)
        return fill_most_confident(
            logits,
            inputs["acoustic_tokens"],
            masked,
            inputs["level"],
            counts,
            uniform,
            temperature,
            model.codebook_size,
        )

    return decode_pass


def _guided_logits(model, inputs: dict, guidance_scale):
    """Compute `unconditional + scale * (conditional - unconditional)`.

    The semantic tokens are hidden in the unconditional logits. One batch holds each example
    twice (classifier-free guidance, Ho and Salimans 2022, equation 6).
    """
    hidden = ops.full_like(inputs["semantic_tokens"], model.semantic_vocabulary_size)
    both = {name: ops.concatenate([array, array]) for name, array in inputs.items()}
    both["semantic_tokens"] = ops.concatenate([inputs["semantic_tokens"], hidden])
    conditional, unconditional = ops.split(model(both, training=False), 2)
    return unconditional + guidance_scale * (conditional - unconditional)
