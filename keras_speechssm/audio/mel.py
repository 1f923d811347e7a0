"""The mel scale: filters that gather a spectrum's bins into bands as wide as the ear's."""

import numpy as np

from keras_speechssm.shapes import SAMPLE_RATE


def mel_filters(
    num_bands: int, fft_length: int, lowest: float = 0.0, highest: float = SAMPLE_RATE / 2
) -> np.ndarray:
    """Triangular filters, float32 (fft_length // 2 + 1, num_bands).

    The mel scale is 2595 log10(1 + f / 700) (O'Shaughnessy). Filters are as wide as
    their neighbors are far, and peak at 1.

    Args:
        num_bands: int. Number of filters.
        fft_length: int. Length of the Fourier transform whose bins they weigh, at 16 kHz.
        lowest, highest: float. Hz where the first filter begins and the last one ends.
            By default everything.
    """

    edges = np.linspace(_to_mel(lowest), _to_mel(highest), num_bands + 2)
    bins = _to_mel(np.arange(fft_length // 2 + 1) * SAMPLE_RATE / fft_length)[:, None]
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rise, fall)).astype("float32")


def mel_centers(
    num_bands: int, lowest: float = 0.0, highest: float = SAMPLE_RATE / 2
) -> np.ndarray:
    """Hz at which the filters of `mel_filters` peak, float32 (num_bands,)."""
    edges = np.linspace(_to_mel(lowest), _to_mel(highest), num_bands + 2)
    return (700.0 * (10.0 ** (edges[1:-1] / 2595.0) - 1.0)).astype("float32")


def _to_mel(hertz):
    return 2595.0 * np.log10(1.0 + np.asarray(hertz) / 700.0)
