"""The log-mel spectrum: mel filters, spectrograms, and their logarithm."""

import functools

import numpy as np

from keras_speechssm.shapes import SAMPLE_RATE


def mel_filters(
    num_bands: int, fft_length: int, lowest: float = 0.0, highest: float = SAMPLE_RATE / 2
) -> np.ndarray:
    """Compute triangular mel filters.

    The mel scale is 2595 log10(1 + f / 700) (HTK). Each filter peaks at 1, and reaches 0 at the
    centers of its neighbors. The slopes are linear in mel (in `librosa`, they are linear in Hz).

    Args:
        num_bands: Number of filters.
        fft_length: Length of the Fourier transform at 16 kHz whose bins are weighted.
        lowest: Frequency in Hz at which the first filter starts. Defaults to `0.0`.
        highest: Frequency in Hz at which the last filter ends. Defaults to `8000.0`.

    Returns:
        float32 (fft_length // 2 + 1, num_bands).
    """
    return _mel_filters(num_bands, fft_length, lowest, highest).copy()


@functools.lru_cache(maxsize=32)
def _mel_filters(num_bands: int, fft_length: int, lowest: float, highest: float) -> np.ndarray:
    edges = np.linspace(_to_mel(lowest), _to_mel(highest), num_bands + 2)
    bins = _to_mel(np.arange(fft_length // 2 + 1) * SAMPLE_RATE / fft_length)[:, None]
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rise, fall)).astype("float32")


def mel_centers(
    num_bands: int, lowest: float = 0.0, highest: float = SAMPLE_RATE / 2
) -> np.ndarray:
    """Compute the center frequencies in Hz of `mel_filters`, float32 (num_bands,)."""
    edges = np.linspace(_to_mel(lowest), _to_mel(highest), num_bands + 2)
    return (700.0 * (10.0 ** (edges[1:-1] / 2595.0) - 1.0)).astype("float32")


def spectrogram(waveform: np.ndarray, window: int, hop: int, power: float = 1.0) -> np.ndarray:
    """Compute the spectrogram of a NumPy waveform with Hann windows.

    Args:
        waveform: float (samples,) at 16 kHz. Padded with zeros to at least one window.
        window: Length of a window in samples, which is the length of the Fourier transform.
        hop: Samples from one window to the next.
        power: Exponent of the magnitudes: 1 for magnitude, 2 for power. Defaults to `1.0`.

    Returns:
        float (frames, window // 2 + 1).

    Example:

    ```python
    import numpy as np
    from keras_speechssm.audio import log_mel, spectrogram

    waveform = np.random.uniform(-1, 1, 16000)
    log_mel(spectrogram(waveform, 1024, 256), 80, floor=1e-2)  # (59, 80)
    ```
    """
    waveform = np.pad(waveform, (0, max(0, window - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, window)[::hop]
    magnitudes = np.abs(np.fft.rfft(frames * np.hanning(window), axis=-1))
    return magnitudes if power == 1.0 else magnitudes**power


def log_mel(
    spectrum,
    num_bands: int,
    floor: float,
    lowest: float = 0.0,
    highest: float = SAMPLE_RATE / 2,
    base: float | None = None,
    clip: bool = False,
):
    """Compute the logarithm of the mel spectrum, of NumPy arrays or of tensors of the backend.

    Args:
        spectrum: float (..., bins), magnitudes or powers; bins are those of a real Fourier
            transform at 16 kHz.
        num_bands: Number of mel bands.
        floor: Added to the mel spectrum before the logarithm.
        lowest: Lower end of the frequency range in Hz. Defaults to `0.0`.
        highest: Upper end of the frequency range in Hz. Defaults to `8000.0`.
        base: `10` for the decimal logarithm. Defaults to `None` (natural).
        clip: Whether `floor` is a minimum instead of being added. Defaults to `False`.

    Returns:
        float (..., num_bands).
    """
    filters = _mel_filters(num_bands, 2 * (spectrum.shape[-1] - 1), lowest, highest)
    if isinstance(spectrum, np.ndarray):
        math = np
    else:
        from keras import ops as math

        filters = math.convert_to_tensor(filters)
    mel = math.matmul(spectrum, filters)
    mel = math.maximum(mel, floor) if clip else mel + floor
    return math.log10(mel) if base == 10 else math.log(mel)


def _to_mel(hertz):
    return 2595.0 * np.log10(1.0 + np.asarray(hertz) / 700.0)
