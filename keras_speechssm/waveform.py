"""Waveforms: what comes in becomes float32 (samples,) in [-1, 1] at 16 kHz, or is refused."""

import numpy as np
import soxr

from keras_speechssm.shapes import SAMPLE_RATE

# -80 dB of full scale, a few steps of 16-bit audio: nothing to hear.
SILENCE_PEAK = 1e-4


def to_mono_16khz(samples: np.ndarray, sample_rate: float, name: str = "audio") -> np.ndarray:
    """Averages channels and resamples.

    Args:
        samples: (time,) or (time, channels), floats.
        sample_rate: In Hz, any positive rate.
        name: What to call it in an error.

    Returns:
        Waveform, float32 (samples,) at 16 kHz; resampling may overshoot, so it is clipped.

    Raises:
        ValueError: If the shape or the rate is another, or a sample is not finite.
    """
    samples = np.asarray(samples, dtype="float32")
    if samples.ndim not in (1, 2) or not sample_rate > 0:
        raise ValueError(
            f"{name} has shape {samples.shape} at {sample_rate} Hz; expected (time,) or "
            "(time, channels) at a positive rate."
        )
    # Before resampling: one NaN would spread over its neighbours, or be lost in a mean.
    check_finite(samples, name)
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    if sample_rate != SAMPLE_RATE:
        mono = soxr.resample(mono, sample_rate, SAMPLE_RATE)
    return np.clip(mono, -1.0, 1.0)


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
