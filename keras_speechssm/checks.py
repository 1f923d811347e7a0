import math

import numpy as np

from keras_speechssm.shapes import SAMPLE_RATE


def first_line(error: Exception) -> str:
    """What an error's message says first, in one line: Keras' messages are long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first, *others = lines or [type(error).__name__]
    return f"{first} {others[0]}" if first.endswith(":") and others else first


# -80 dB of full scale, a few steps of 16-bit audio: nothing to hear.
SILENCE_PEAK = 1e-4


def validate_waveform(
    waveform: np.ndarray,
    *,
    min_seconds: float = 0.0,
    allow_silence: bool = True,
    name: str = "waveform",
) -> np.ndarray:
    """Refuses what no stage can use, in one clear line.

    Args:
        waveform: (samples,) or (batch, samples) at 16 kHz, in [-1, 1]. Integers are
            refused: their scale is not known.
        min_seconds: Less audio than this is refused.
        allow_silence: Whether audio without any sound is accepted.
        name: What to call it in an error.

    Returns:
        The waveform as float32.

    Raises:
        ValueError: If any of this does not hold, or a sample is not finite.
    """
    waveform = np.asarray(waveform)
    if waveform.dtype.kind != "f" or waveform.ndim not in (1, 2):
        raise ValueError(
            f"{name} is {waveform.dtype} of shape {waveform.shape}; expected floats of shape "
            "(samples,) or (batch, samples). Divide 16-bit integers by 32768."
        )
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
    silent = np.abs(waveform).max(axis=-1) < SILENCE_PEAK
    if not allow_silence and np.any(silent):
        raise ValueError(f"{name} is all silence; expected speech. Check the recording.")
    return waveform.astype("float32", copy=False)


def check_finite(samples: np.ndarray, name: str) -> None:
    """Refuses NaN and infinity in one clear line."""
    if not np.isfinite(samples).all():
        count = int(np.size(samples) - np.isfinite(samples).sum())
        raise ValueError(f"{name}: {count} samples are NaN or infinite; expected finite audio.")


def check_at_least(least: float, **options: float | None) -> None:
    """Raises `ValueError` for the first option that is below `least` or no finite number.

    Options that are `None` are not given, and pass.
    """
    for name, value in options.items():
        if value is not None and not (math.isfinite(value) and value >= least):
            raise ValueError(f"{name} is {value}; expected {least:g} or more.")


def check_between(low: float, high: float, **options: float | None) -> None:
    """Raises `ValueError` for the first option that does not lie from `low` to `high`."""
    for name, value in options.items():
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name} is {value}; expected {low:g} to {high:g}.")
