"""The log-mel spectrum: mel filters, spectrograms, and their logarithm."""

import functools

import numpy as np

from keras_speechssm.shapes import SAMPLE_RATE, SAMPLES_PER_TOKEN

WHISPER_WINDOW = 400
"""Samples of one analysis window of Whisper: 25 ms."""

WHISPER_HOP = 160
"""Samples from one analysis window of Whisper to the next: 10 ms."""


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


def slaney_mel_filters(
    num_bands: int, fft_length: int, sample_rate: int = SAMPLE_RATE, highest: float | None = None
) -> np.ndarray:
    """Compute triangular filters of Slaney's mel scale.

    The scale is linear up to 1 kHz and logarithmic above. Filters span 0 Hz to `highest`, and
    each one has the same area: those of Whisper, and librosa's default.

    Args:
        num_bands: Number of filters.
        fft_length: Length of the Fourier transform whose bins are weighted.
        sample_rate: Sample rate of the audio in Hz. Defaults to `16000`.
        highest: Upper end of the last filter in Hz. Defaults to `None`: half the sample rate.

    Returns:
        float32 (fft_length // 2 + 1, num_bands).
    """
    step = np.log(6.4) / 27.0
    highest = sample_rate / 2 if highest is None else highest
    top = highest * 3.0 / 200.0 if highest < 1000.0 else 15.0 + np.log(highest / 1000.0) / step
    mel = np.linspace(0.0, top, num_bands + 2)
    edges = np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp(step * (mel - 15.0)))
    bins = (np.arange(fft_length // 2 + 1) * sample_rate / fft_length)[:, None]
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    area = (edges[2:] - edges[:-2]) / 2.0
    return (np.maximum(0.0, np.minimum(rise, fall)) / area).astype("float32")


def whisper_log_mel(waveform, filters: np.ndarray, padding_mask=None, mirror_end: bool = False):
    """Compute Whisper's log-mel features, with tensors of the backend.

    Values are limited to a range of 80 dB below the loudest value of the row. Samples before
    the beginning are mirrored.

    Args:
        waveform: float (batch, samples) at 16 kHz, zeros at padding; samples a multiple of 160.
        filters: float32 (201, num_mels), see `slaney_mel_filters`.
        padding_mask: bool (batch, samples / 640), with padding at the end of each row. Defaults
            to `None`: everything is real.
        mirror_end: Whether the samples after the end of each row are mirrored too. Otherwise
            they are zero. Defaults to `False`.

    Returns:
        float32 (batch, samples / 160, num_mels).
    """
    from keras import ops

    waveform = ops.cast(waveform, "float32")
    batch, samples = ops.shape(waveform)
    margin = WHISPER_WINDOW // 2
    before = ops.flip(waveform[:, 1 : margin + 1], axis=1)
    if not mirror_end:
        after = ops.zeros_like(before)
    else:
        after = ops.flip(waveform[:, -margin - 1 : -1], axis=1)
    if mirror_end and padding_mask is not None:
        ends = ops.sum(ops.cast(padding_mask, "int32"), axis=1, keepdims=True) * SAMPLES_PER_TOKEN
        places = ops.expand_dims(ops.arange(samples + margin, dtype="int32"), axis=0)
        mirrored = ops.clip(2 * (ends - 1) - places, 0, samples - 1)
        places = ops.where(places < ends, places, mirrored)
        waveform = ops.concatenate([before, ops.take_along_axis(waveform, places, axis=1)], axis=1)
    else:
        waveform = ops.concatenate([before, waveform, after], axis=1)
    # A window is five half hops, so frames are slices of one reshape: no gather.
    half, num_halves = WHISPER_HOP // 2, 2 * WHISPER_WINDOW // WHISPER_HOP
    halves = ops.reshape(waveform, (batch, -1, half))
    # `center` gives one frame more than hops; Whisper drops the last one.
    parts = [halves[:, i : i - num_halves : 2] for i in range(num_halves)]
    window = np.hanning(WHISPER_WINDOW + 1)[:-1].astype("float32")
    frames = ops.concatenate(parts, axis=-1) * ops.convert_to_tensor(window)
    cosine, sine = ops.rfft(frames, fft_length=WHISPER_WINDOW)
    power = ops.matmul(cosine**2 + sine**2, ops.convert_to_tensor(filters))
    log = ops.log10(ops.maximum(power, 1e-10))
    if padding_mask is not None:
        real = ops.repeat(padding_mask, SAMPLES_PER_TOKEN // WHISPER_HOP, axis=1)
        log = ops.where(real[..., None], log, -10.0)
    loudest = ops.max(log, axis=(1, 2), keepdims=True)
    return (ops.maximum(log, loudest - 8.0) + 4.0) / 4.0


def kaldi_log_mel(waveform: np.ndarray, num_bands: int = 80) -> np.ndarray:
    """Compute Kaldi's log-mel features ("fbank") of a NumPy waveform, without dither.

    Windows of 25 ms every 10 ms, without their mean, with pre-emphasis and Kaldi's "povey"
    window. An incomplete last window is dropped.

    Args:
        waveform: float (samples,) in [-1, 1] at 16 kHz, at least 400 samples.
        num_bands: Number of mel bands, from 20 Hz to 8 kHz. Defaults to `80`.

    Returns:
        float32 (frames, num_bands), frames = (samples - 400) // 160 + 1.
    """
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WHISPER_WINDOW)[::WHISPER_HOP]
    frames = frames - frames.mean(axis=-1, keepdims=True, dtype="float64")
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=-1)
    powers = np.abs(np.fft.rfft(frames * np.hanning(WHISPER_WINDOW) ** 0.85, 512, axis=-1)) ** 2
    mel = powers @ _mel_filters(num_bands, 512, 20.0, SAMPLE_RATE / 2)
    return np.log(np.maximum(mel, np.finfo("float32").eps)).astype("float32")


def _to_mel(hertz):
    return 2595.0 * np.log10(1.0 + np.asarray(hertz) / 700.0)
