"""HiFT: the vocoder of S3Gen."""

import keras
import numpy as np
from keras import ops

from keras_speechssm.layers.padding import mask_padding

SAMPLE_RATE = 24_000
"""Samples of the result per second."""

SAMPLES_PER_FRAME = 480
"""Samples of the result per mel frame: the rates below times the hop of the Fourier transform."""

NUM_SINES = 9
"""Sines of the source: the fundamental and 8 harmonics."""

_RATES = (8, 5, 3)
_KERNEL_SIZES = (16, 11, 7)
_UNIT_KERNEL_SIZES = (3, 7, 11)
_SOURCE_KERNEL_SIZES = (7, 7, 11)
_DILATIONS = (1, 3, 5)
_FFT, _HOP = 16, 4
_BINS = _FFT // 2 + 1
_WINDOW = np.hanning(_FFT + 1)[:-1]  # periodic

_AMPLITUDE = 0.1
_VOICED_NOISE = 0.003
_LOWEST_F0 = 10.0


def source_sines(
    f0: np.ndarray, phases: np.ndarray, noise: np.ndarray, seams: np.ndarray | None = None
) -> np.ndarray:
    """Compute the sines that excite `HiFTVocoder`: those of a voice, or noise where there is none.

    Args:
        f0: float (batch, frames), the fundamental frequency in Hz at 50 Hz.
        phases: float (NUM_SINES,), phase offset of each sine in radians.
        noise: float (batch, samples, NUM_SINES), standard normal; samples = 480 * frames.
        seams: int (batch, 2), samples in increasing order at which the fundamental begins a
            period. The frequency of the last second before the second one is changed for it, by
            at most 0.5 Hz. Defaults to `None`.

    Returns:
        float32 (batch, samples, NUM_SINES).
    """
    step = np.repeat(np.asarray(f0, "float64") / SAMPLE_RATE, SAMPLES_PER_FRAME, axis=1)
    cycles = np.cumsum(step, axis=1)
    if seams is not None:
        for row, (first, second) in zip(cycles, seams, strict=True):
            row -= row[first]
            if first < second < len(row):
                excess = row[second] - np.round(row[second])
                places = np.arange(len(row)) - second
                row -= excess * np.clip(1 + places / min(SAMPLE_RATE, second - first), 0.0, 1.0)
    harmonics = np.arange(1, NUM_SINES + 1)
    angles = (2 * np.pi * np.remainder(cycles[..., None] * harmonics, 1.0)).astype("float32")
    voiced = (step > _LOWEST_F0 / SAMPLE_RATE)[..., None]
    sines = _AMPLITUDE * np.sin(angles + phases.astype("float32"))
    sines = np.where(voiced, sines, 0.0)
    sines += np.where(voiced, _VOICED_NOISE, _AMPLITUDE / 3).astype("float32") * noise
    return sines.astype("float32", copy=False)


@keras.saving.register_keras_serializable(package="keras_speechssm")
class HiFTVocoder(keras.layers.Layer):
    """HiFT: mel spectrum at 50 Hz to a waveform at 24 kHz.

    It predicts the fundamental frequency, from which `source_sines` makes sines and noise. A
    convolutional network shapes them, and an inverse Fourier transform of 16 samples gives the
    waveform.

    Args:
        channels: int. Channels of the first stage, a multiple of 8; each stage halves them.
            Defaults to `512`.
        num_mels: int. Mel bands. Defaults to `80`.
        f0_channels: int. Channels of the predictor of the frequency. Defaults to `512`.

    Call arguments:
        mel: float (batch, frames, num_mels).
        sines: float (batch, 480 * frames, 9), see `source_sines`.
        padding_mask: bool (batch, frames), `True` at real frames; padding comes last in each row.
            Defaults to `None`: every frame is real.

    Returns:
        float32 (batch, 480 * frames), in [-0.99, 0.99], zeros at padding.

    Example:

    ```python
    import keras
    from keras_speechssm.models.s3_gen.hift_vocoder import HiFTVocoder

    vocoder = HiFTVocoder(channels=8, f0_channels=4)
    sines = keras.random.normal((1, 9600, 9))
    waveform = vocoder(keras.random.normal((1, 20, 80)), sines)  # (1, 9600)
    ```

    Reference:
        - [Li et al., 2023](https://arxiv.org/abs/2309.09493)
    """

    def __init__(self, channels: int = 512, num_mels: int = 80, f0_channels: int = 512, **kwargs):
        # Inputs keep their precision: times and phases need more than that of bfloat16.
        super().__init__(autocast=False, **kwargs)
        if channels % 2 ** len(_RATES):
            raise ValueError(f"channels is {channels}; expected a multiple of {2 ** len(_RATES)}.")
        # === Config ===
        self.channels = channels
        self.num_mels = num_mels
        self.f0_channels = f0_channels

        # === Layers ===
        policy = self.dtype_policy

        def convolution(filters, size, name, **options):
            return keras.layers.Conv1D(
                filters, size, padding="same", dtype=policy, name=name, **options
            )

        self.f0_convolutions = [convolution(f0_channels, 3, f"f0_{i}") for i in range(5)]
        self.f0_dense = keras.layers.Dense(1, dtype="float32", name="f0_dense")
        self.source_dense = keras.layers.Dense(1, dtype="float32", name="source_dense")
        self.input_convolution = convolution(channels, 7, "input_convolution")
        self.upsamplings, self.source_convolutions = [], []
        self.source_units, self.units = [], []
        for i, (rate, size) in enumerate(zip(_RATES, _KERNEL_SIZES, strict=True)):
            width, down = channels // 2 ** (i + 1), int(np.prod(_RATES[i + 1 :]))
            self.upsamplings.append(
                TransposedConv1D(width, size, rate, dtype=policy, name=f"upsampling_{i}")
            )
            self.source_convolutions.append(
                keras.layers.Conv1D(
                    width,
                    2 * down if down > 1 else 1,
                    strides=down,
                    dtype=policy,
                    name=f"source_convolution_{i}",
                )
            )
            self.source_units.append(
                _SnakeUnit(width, _SOURCE_KERNEL_SIZES[i], dtype=policy, name=f"source_unit_{i}")
            )
            self.units.append(
                [
                    _SnakeUnit(width, size, dtype=policy, name=f"unit_{i}_{size}")
                    for size in _UNIT_KERNEL_SIZES
                ]
            )
        self.output_convolution = convolution(2 * _BINS, 7, "output_convolution")

    def build(self, mel_shape, sines_shape=None, padding_mask_shape=None):
        mel = (None, None, self.num_mels)
        self.f0_convolutions[0].build(mel)
        for layer in (*self.f0_convolutions[1:], self.f0_dense):
            layer.build((None, None, self.f0_channels))
        self.source_dense.build((None, None, NUM_SINES))
        self.input_convolution.build(mel)
        width = self.channels
        for i, upsampling in enumerate(self.upsamplings):
            upsampling.build((None, None, width))
            width //= 2
            self.source_convolutions[i].build((None, None, 2 * _BINS))
            for unit in (self.source_units[i], *self.units[i]):
                unit.build((None, None, width))
        self.output_convolution.build((None, None, width))
        self.built = True

    def predict_f0(self, mel, padding_mask=None):
        """Predict the fundamental frequency.

        Args:
            mel: float (batch, frames, num_mels).
            padding_mask: bool (batch, frames). Defaults to `None`: every frame is real.

        Returns:
            float32 (batch, frames), in Hz; low values mean that there is no voice.
        """
        x = ops.cast(mel, self.compute_dtype)
        for layer in self.f0_convolutions:
            x = ops.elu(layer(mask_padding(x, padding_mask)))
        return ops.abs(ops.squeeze(self.f0_dense(x), axis=-1))

    def call(self, mel, sines, padding_mask=None):
        source = ops.squeeze(ops.tanh(self.source_dense(sines)), axis=-1)
        mask = padding_mask
        # The Fourier transform has one frame more at the beginning.
        last_mask = mask
        if mask is not None:
            last_mask = ops.repeat(mask, SAMPLES_PER_FRAME // _HOP, axis=1)
            last_mask = ops.concatenate([last_mask[:, :1], last_mask], axis=1)
        spectrum = ops.cast(self._transform(source, mask), self.compute_dtype)
        spectrum = mask_padding(spectrum, last_mask)
        x = self.input_convolution(mask_padding(ops.cast(mel, self.compute_dtype), mask))
        rate = 1
        for i, upsampling in enumerate(self.upsamplings):
            stage_mask = mask if mask is None else ops.repeat(mask, rate, axis=1)
            x = upsampling(mask_padding(ops.leaky_relu(x, 0.1), stage_mask))
            rate *= _RATES[i]
            if i == len(_RATES) - 1:
                stage_mask = last_mask
                x = ops.concatenate([x[:, 1:2], x], axis=1)
            elif mask is not None:
                stage_mask = ops.repeat(mask, rate, axis=1)
            down = self.source_convolutions[i].strides[0]
            padded = ops.pad(spectrum, ((0, 0), (down // 2, down // 2), (0, 0)))
            source = self.source_units[i](self.source_convolutions[i](padded), stage_mask)
            x = x + source
            x = sum(unit(x, stage_mask) for unit in self.units[i]) / len(self.units[i])
        x = self.output_convolution(mask_padding(ops.leaky_relu(x, 0.01), last_mask))
        waveform = self._inverse_transform(ops.cast(x, "float32"), last_mask)
        if mask is not None:
            waveform = mask_padding(waveform, ops.repeat(mask, SAMPLES_PER_FRAME, axis=1))
        return ops.clip(waveform, -0.99, 0.99)

    def _transform(self, source, padding_mask):
        """Real and imaginary parts of the spectrum of the source, mirrored at both ends."""
        half, samples = _FFT // 2, ops.shape(source)[1]
        before = ops.flip(source[:, 1 : half + 1], axis=1)
        if padding_mask is None:
            after = ops.flip(source[:, -half - 1 : -1], axis=1)
            source = ops.concatenate([source, after], axis=1)
        else:
            ends = ops.sum(ops.cast(padding_mask, "int32"), axis=1, keepdims=True)
            ends = ends * SAMPLES_PER_FRAME
            places = ops.expand_dims(ops.arange(samples + half, dtype="int32"), axis=0)
            mirrored = ops.clip(2 * (ends - 1) - places, 0, samples - 1)
            places = ops.where(places < ends, places, mirrored)
            source = ops.take_along_axis(source, places, axis=1)
        source = ops.concatenate([before, source], axis=1)
        hops = ops.reshape(source, (ops.shape(source)[0], -1, _HOP))
        count = _FFT // _HOP
        length = ops.shape(hops)[1] - count + 1
        frames = ops.concatenate([hops[:, i : i + length] for i in range(count)], axis=-1)
        basis = np.fft.rfft(np.diag(_WINDOW), axis=-1)
        basis = np.concatenate([basis.real, basis.imag], axis=-1).astype("float32")
        return ops.matmul(frames, ops.convert_to_tensor(basis))

    def _inverse_transform(self, x, mask):
        magnitude = ops.minimum(ops.exp(x[..., :_BINS]), 100.0)
        phase = ops.sin(x[..., _BINS:])
        parts = ops.concatenate([magnitude * ops.cos(phase), magnitude * ops.sin(phase)], axis=-1)
        basis = np.eye(_BINS)
        basis = np.fft.irfft(np.concatenate([basis, 1j * basis]), axis=-1) * _WINDOW
        frames = ops.matmul(parts, ops.convert_to_tensor(basis.astype("float32")))
        weights = ops.ones_like(frames) * ops.convert_to_tensor((_WINDOW**2).astype("float32"))
        frames, weights = mask_padding(frames, mask), mask_padding(weights, mask)
        half = _FFT // 2
        total = _overlap_add(frames, _HOP)[:, half:-half, 0]
        return total / ops.maximum(_overlap_add(weights, _HOP)[:, half:-half, 0], 1e-8)

    def compute_output_spec(self, mel, sines, padding_mask=None):
        return keras.KerasTensor((sines.shape[0], sines.shape[1]), dtype="float32")

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(channels=self.channels, num_mels=self.num_mels, f0_channels=self.f0_channels)
        return config


class TransposedConv1D(keras.layers.Layer):
    """A transposed convolution that multiplies the length by its stride.

    The kernel is longer than the stride by an even number, half of which is cut off at each end.

    Args:
        filters: int. Number of output channels.
        kernel_size: int. Taps.
        strides: int. Output steps per input step.
    """

    def __init__(self, filters: int, kernel_size: int, strides: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides

    def build(self, input_shape):
        # Taps and outputs together, so that one product of two matrices computes every part.
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.kernel_size * self.filters),
            initializer=keras.initializers.VarianceScaling(0.5, "fan_in", "truncated_normal"),
        )
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        self.built = True

    def call(self, x):
        parts = ops.matmul(x, ops.cast(self.kernel, x.dtype))
        margin = (self.kernel_size - self.strides) // 2
        length = ops.shape(x)[1] * self.strides
        y = _overlap_add(parts, self.strides, self.filters)[:, margin : margin + length]
        return y + ops.cast(self.bias, y.dtype)


class _SnakeUnit(keras.layers.Layer):
    """Three residual pairs of convolutions, the first of each pair dilated, after Snake each."""

    def __init__(self, channels: int, kernel_size: int, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.channels = channels
        self.kernel_size = kernel_size

        def convolution(dilation, name):
            return keras.layers.Conv1D(
                channels,
                kernel_size,
                padding="same",
                dilation_rate=dilation,
                dtype=policy,
                name=name,
            )

        self.dilated = [convolution(d, f"dilated_{d}") for d in _DILATIONS]
        self.plain = [convolution(1, f"plain_{d}") for d in _DILATIONS]

    def build(self, input_shape):
        for layer in (*self.dilated, *self.plain):
            layer.build(input_shape)
        self.alphas = [
            self.add_weight(name=f"alpha_{i}", shape=(self.channels,), initializer="ones")
            for i in range(2 * len(_DILATIONS))
        ]
        self.built = True

    def call(self, x, padding_mask=None):
        for i, (dilated, plain) in enumerate(zip(self.dilated, self.plain, strict=True)):
            y = dilated(mask_padding(_snake(x, self.alphas[2 * i]), padding_mask))
            y = plain(mask_padding(_snake(y, self.alphas[2 * i + 1]), padding_mask))
            x = x + y
        return x


def _snake(x, alpha):
    """X + sin^2(a x) / a; a small `a` is 0 in float16, so its inverse is computed in float32."""
    inverse = ops.cast(1.0 / (ops.cast(alpha, "float32") + 1e-9), x.dtype)
    return x + inverse * ops.square(ops.sin(ops.cast(alpha, x.dtype) * x))


def _overlap_add(parts, hop: int, channels: int = 1):
    """Adds parts (batch, time, length * channels) that each start `hop` after the one before.

    Returns:
        (batch, (time - 1) * hop + length, channels), then zeros to a multiple of `hop`.
    """
    width = hop * channels
    batch, count = ops.shape(parts)[0], -(-parts.shape[-1] // width)
    parts = ops.pad(parts, ((0, 0), (0, 0), (0, count * width - parts.shape[-1])))
    total = sum(
        ops.pad(parts[..., i * width : (i + 1) * width], ((0, 0), (i, count - 1 - i), (0, 0)))
        for i in range(count)
    )
    return ops.reshape(total, (batch, -1, channels))
