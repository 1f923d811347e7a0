"""What `SoundStorm.generate` was asked for, checked and laid out as one window."""

from dataclasses import dataclass

import numpy as np

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
