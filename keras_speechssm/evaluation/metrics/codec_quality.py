"""Quality of decoded recordings: STOI, PESQ-WB, log-mel distance, SI-SDR."""

import numpy as np

from keras_speechssm.audio.mel import log_mel, spectrogram
from keras_speechssm.shapes import SAMPLE_RATE


def codec_quality(reference: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
    """Measure one decoded recording against its original.

    Needs the packages `pystoi` and `pesq` (extra `eval`).

    Args:
        reference: float (samples,) at 16 kHz.
        decoded: float (samples,), of equal length.

    Returns:
        `stoi` (0 to 1), `pesq_wb` (1 to 4.6), `log_mel_l1` (natural logarithm; less is better)
        and `si_sdr` (dB).

    Raises:
        ValueError: The lengths differ, or PESQ finds no speech in the recording.
    """
    import pesq
    import pystoi

    if reference.shape != decoded.shape:
        raise ValueError(
            "reference and decoded must be equally long; got shapes "
            f"{reference.shape} and {decoded.shape}."
        )
    if not reference.any():
        raise ValueError("the recording is silent; PESQ needs speech")
    try:
        pesq_wb = float(pesq.pesq(SAMPLE_RATE, reference, decoded, "wb"))
    except (pesq.NoUtterancesError, pesq.BufferTooShortError) as error:
        raise ValueError(f"PESQ finds no speech in the recording ({error})") from None
    return {
        "stoi": float(pystoi.stoi(reference, decoded, SAMPLE_RATE)),
        "pesq_wb": pesq_wb,
        "log_mel_l1": log_mel_distance(reference, decoded),
        "si_sdr": si_sdr(reference, decoded),
    }


def log_mel_distance(reference: np.ndarray, decoded: np.ndarray) -> float:
    """Mean absolute difference of the log-mel spectra (80 bands, 64 ms, hop 16 ms).

    Args:
        reference: float (samples,) at 16 kHz.
        decoded: float (samples,), of equal length.
    """
    return float(np.mean(np.abs(log_mel_bands(reference) - log_mel_bands(decoded))))


def log_mel_bands(waveform: np.ndarray) -> np.ndarray:
    """Natural logarithm of 80 mel magnitudes every 16 ms, float (frames, 80)."""
    return log_mel(spectrogram(waveform, 1024, 256), 80, floor=1e-2, clip=True)


def si_sdr(reference: np.ndarray, decoded: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019)."""
    reference = reference - reference.mean()
    decoded = decoded - decoded.mean()
    target = reference * (decoded @ reference) / max(reference @ reference, 1e-9)
    return float(
        10 * np.log10(max(target @ target, 1e-9) / max(np.sum((decoded - target) ** 2), 1e-9))
    )
