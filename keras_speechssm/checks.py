"""Checks of arguments: each returns its argument in one form or raises one clear line."""

import difflib
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keras_speechssm.shapes import SAMPLE_RATE

SILENCE_PEAK = 1e-4
"""Peak below which audio counts as silence: -80 dB of full scale, inaudible."""

TOKEN_SHAPES = ("(time,)", "(batch, time)")
"""Shapes of semantic tokens."""


def waveform_array(
    waveform: Any,
    *,
    min_seconds: float = 0.0,
    allow_silence: bool = True,
    name: str = "waveform",
) -> np.ndarray:
    """Returns audio as a float32 array, or raises one clear line.

    Args:
        waveform: Floats of shape `(samples,)` or `(batch, samples)` at 16 kHz, in [-1, 1].
            Integers are refused because their scale is unknown.
        min_seconds: Shortest audio to accept, in seconds. Defaults to `0.0`.
        allow_silence: Whether to accept audio that is silent throughout. Defaults to `True`.
        name: Name of the argument in error messages. Defaults to `"waveform"`.

    Returns:
        The waveform as float32.

    Raises:
        ValueError: If any of this does not hold, or a sample is NaN or infinite.
    """
    waveform = np.asarray(waveform)
    if waveform.dtype.kind != "f" or waveform.ndim not in (1, 2):
        raise ValueError(
            f"{name} is {waveform.dtype} of shape {waveform.shape}; expected floats of shape "
            "(samples,) or (batch, samples). Divide 16-bit integers by 32768."
        )
    if not is_number(min_seconds):
        raise ValueError(f"min_seconds is {shown(min_seconds)}; expected a number.")
    seconds = waveform.shape[-1] / SAMPLE_RATE
    if waveform.size == 0 or seconds < min_seconds:
        raise ValueError(
            f"{name} holds {seconds:.2f} s of audio; expected at least "
            f"{max(min_seconds, 1 / SAMPLE_RATE):.2g} s. Give a longer recording."
        )
    check_finite(waveform, name)
    peak = float(np.abs(waveform).max())
    if peak > 2.0:
        raise ValueError(f"{name} reaches {peak:.4g}; expected samples in [-1, 1]: scale it.")
    # Around its offset: a dead microphone may give a constant that is not 0.
    silent = np.ptp(waveform, axis=-1) < 2 * SILENCE_PEAK
    if not allow_silence and np.any(silent):
        raise ValueError(f"{name} is all silence; expected speech. Check the recording.")
    return waveform.astype("float32", copy=False)


validate_waveform = waveform_array
"""Earlier name of `waveform_array`."""


def check_finite(samples: np.ndarray, name: str) -> None:
    """Raises `ValueError` if `samples` contains NaN or infinity."""
    if not np.isfinite(samples).all():
        count = int(np.size(samples) - np.isfinite(samples).sum())
        raise ValueError(f"{name}: {count} samples are NaN or infinite; expected finite audio.")


def token_array(
    tokens: Any,
    name: str = "tokens",
    *,
    vocabulary_size: int | None = None,
    shapes: Sequence[str] = TOKEN_SHAPES,
    mask: np.ndarray | None = None,
    allow_empty: bool = False,
) -> np.ndarray:
    """Returns token ids as an int32 array, or raises one clear line.

    Args:
        tokens: Integers: a list, a NumPy array, or a tensor of any backend and device.
        name: Name of the argument in error messages. Defaults to `"tokens"`.
        vocabulary_size: Every id must be below it. Defaults to `None`: below 2^31.
        shapes: The shapes to accept, as they appear in error messages; the number of names in
            one is its number of axes. Defaults to `("(time,)", "(batch, time)")`.
        mask: bool, of the shape of `tokens`: ids are checked where it is `True`. Defaults to
            `None`: everywhere.
        allow_empty: Whether to accept an array without any id. Defaults to `False`.

    Returns:
        The ids as int32, unchanged where `mask` is `False`.

    Raises:
        ValueError: If any of this does not hold.
    """
    expected = " or ".join(shapes)
    if vocabulary_size is not None:
        vocabulary_size = to_int("vocabulary_size", vocabulary_size)
    try:
        array = np.asarray(tokens.cpu() if hasattr(tokens, "cpu") else tokens)
    except (ValueError, TypeError, RuntimeError):
        raise ValueError(
            f"{name} is not an array; expected integers of shape {expected}. "
            "Pad its rows to one length and pass a padding mask."
        ) from None
    axes = [len(shape.strip("()").rstrip(",").split(",")) for shape in shapes]
    empty_list = array.size == 0 and array.dtype.kind == "f"  # what NumPy makes of []
    if array.ndim not in axes or (array.dtype.kind not in "iu" and not empty_list):
        raise ValueError(
            f"{name} is {array.dtype} of shape {array.shape}; expected integers of shape "
            f"{expected}."
        )
    if array.size == 0 and not allow_empty:
        raise ValueError(f"{name} is empty, shape {array.shape}; expected at least one token.")
    if mask is not None and mask.shape != array.shape:
        raise ValueError(
            f"The mask of {name} has shape {mask.shape}; expected that of {name}, {array.shape}."
        )
    real = array if mask is None else array[mask]
    limit = 2**31 if vocabulary_size is None else vocabulary_size
    if real.size and not 0 <= int(real.min()) <= int(real.max()) < limit:
        source = "" if vocabulary_size is None else f" (a vocabulary of {vocabulary_size})"
        raise ValueError(
            f"{name} holds ids from {real.min()} to {real.max()}; expected 0 to {limit - 1}"
            f"{source}."
        )
    return array.astype("int32", copy=False)


def is_number(value: Any) -> bool:
    """Returns whether a value is a single real number: no text, list, or array."""
    return isinstance(value, int | float | np.number | np.bool_) and not isinstance(
        value, np.complexfloating
    )


def to_int(name: str, value: Any) -> int:
    """Returns an integer of any type as an int, or raises `ValueError`."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {shown(value)}; expected an integer.") from None


def check_at_least(least: float, **options: float | None) -> None:
    """Raises `ValueError` for the first option that is below `least` or not a finite number.

    Options that are `None` are not checked.
    """
    for name, value in options.items():
        if value is not None and not (is_number(value) and least <= value < math.inf):
            raise ValueError(f"{name} is {shown(value)}; expected {least:g} or more.")


def check_between(low: float, high: float, **options: float | None) -> None:
    """Raises `ValueError` for the first option that is outside the range from `low` to `high`.

    Options that are `None` are not checked.
    """
    for name, value in options.items():
        if value is not None and not (is_number(value) and low <= value <= high):
            raise ValueError(f"{name} is {shown(value)}; expected {low:g} to {high:g}.")


def shown(value: Any) -> str:
    """Returns a value for a message: in one line, and not longer than that."""
    if is_number(value):
        return str(value)[:40]
    text = repr(value) if isinstance(value, str) else " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:40]}..."


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Returns ` Did you mean 'x'?` for the known name most like `name`, or an empty string."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {found[0]!r}?" if found else ""


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, and the second if the first ends in ":"."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first, *others = lines or [type(error).__name__]
    return f"{first} {others[0]}" if first.endswith(":") and others else first
