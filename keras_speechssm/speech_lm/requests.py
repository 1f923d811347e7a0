"""Checks of what a caller asks of a language model: one clear line for each mistake."""

import math
import operator

import numpy as np


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
