"""The codec's first layer where it listens to spectra: waveform -> features without phase."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_speechssm.layers.causal_conv import CausalConv1D
from keras_speechssm.layers.dense import PointwiseDense


@keras.saving.register_keras_serializable(package="keras_speechssm")
def lyra_leaky_relu(x):
    """A leaky rectifier with Lyra V2's slope of 0.3; Keras' own has 0.2."""
    return keras.ops.leaky_relu(x, negative_slope=0.3)


def read_activation(name: str) -> Callable:
    """The function of a Keras activation's name, or of `"leaky_relu_0.3"`, Lyra V2's."""
    return lyra_leaky_relu if name == "leaky_relu_0.3" else keras.activations.get(name)


@keras.saving.register_keras_serializable(package="keras_speechssm")
class ResidualUnit(keras.layers.Layer):
    """Dilated causal convolution, pointwise convolution, skip (SoundStream, figure 3).

    Args:
        filters: int. Channels in and out.
        dilation: int. Dilation of the first convolution.
        kernel_size: int. Its width. Defaults to `7`.
        separable: bool. Splits the first convolution into a depthwise one and a
            pointwise one, as Lyra V2 does: a seventh of the arithmetic. Defaults to `False`.
        activation: see `read_activation`. Defaults to `"elu"`.

    Call arguments:
        x: float (batch, time, filters).

    Returns:
        float (batch, time, filters).
    """

    def __init__(
        self,
        filters: int,
        dilation: int = 1,
        kernel_size: int = 7,
        separable: bool = False,
        activation: str = "elu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.dilation = dilation
        self.kernel_size = kernel_size
        self.separable = separable
        self.activation = activation
        self._activate = read_activation(activation)
        self.dilated = CausalConv1D(
            filters,
            kernel_size,
            dilation=dilation,
            depthwise=separable,
            dtype=self.dtype_policy,
            name="dilated",
        )
        self.mixing = (
            PointwiseDense(filters, dtype=self.dtype_policy, name="mixing") if separable else None
        )
        # Units start close to the identity: deep stacks then train from the first step.
        self.pointwise = PointwiseDense(
            filters,
            kernel_initializer=keras.initializers.VarianceScaling(0.1),
            dtype=self.dtype_policy,
            name="pointwise",
        )

    def build(self, input_shape):
        for layer in (self.dilated, self.mixing, self.pointwise):
            if layer is not None:
                layer.build(input_shape)
        self.built = True

    def call(self, x):
        y = self.dilated(self._activate(x))
        if self.mixing is not None:
            y = self.mixing(y)
        return x + self.pointwise(self._activate(y))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            filters=self.filters,
            dilation=self.dilation,
            kernel_size=self.kernel_size,
            separable=self.separable,
            activation=self.activation,
        )
        return config


SHORT_WINDOW = 256
"""Samples of the window that follows the sound, up to 8 kHz."""

LONG_WINDOW, LONG_FFT, LONG_BINS = 640, 1024, 128
"""Samples of the window that parts the harmonics of low voices, up to 2 kHz."""

SHORTEST_LAG, LONGEST_LAG = 32, 267
"""Samples: periods of voices from 500 down to 60 Hz."""

FLOOR = 1e-4
"""Amplitude under which all is silence: 80 dB below a full-scale tone."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SpectralAnalysis(keras.layers.Layer):
    """Log spectra and autocorrelation of the last samples at every hop, mapped to channels.

    What is it for: the stem of a `SoundStream` with `stem="source_filter"`. Two voices
    that differ in phase alone sound alike, and give the same features here. Windows
    end where their hop ends: nothing ahead is seen.

    Args:
        filters: int. Output channels.
        hop: int. Samples from one output step to the next.

    Call arguments:
        x: float (batch, samples, 1), samples a multiple of `hop`.

    Returns:
        float (batch, samples / hop, filters).
    """

    def __init__(self, filters: int, hop: int, **kwargs):
        super().__init__(autocast=False, **kwargs)  # spectra are float32 in any policy
        self.filters = filters
        self.hop = hop
        self.dense = PointwiseDense(filters, dtype=self.dtype_policy, name="dense")

    def build(self, input_shape):
        lags = LONGEST_LAG - SHORTEST_LAG + 1
        self.dense.build((None, None, SHORT_WINDOW // 2 + 1 + LONG_BINS + lags))
        self.built = True

    def call(self, x):
        waveform = ops.cast(ops.squeeze(x, axis=-1), "float32")
        short = self._power(waveform, SHORT_WINDOW, SHORT_WINDOW)
        long = self._power(waveform, LONG_WINDOW, LONG_FFT)
        features = [_level(short), _level(long[..., :LONG_BINS]), self._periodicity(long)]
        features = ops.concatenate(features, axis=-1)
        return self.dense(ops.cast(features, self.compute_dtype))

    def _power(self, waveform, length: int, fft_length: int):
        """Power spectra of the `length` samples up to the end of each hop."""
        # Whole hops before the first sample, so that frames are slices of one reshape.
        parts = -(-length // self.hop)
        padded = ops.pad(waveform, ((0, 0), ((parts - 1) * self.hop, 0)))
        hops = ops.reshape(padded, (ops.shape(waveform)[0], -1, self.hop))
        steps = ops.shape(hops)[1] - parts + 1
        frames = ops.concatenate([hops[:, i : i + steps] for i in range(parts)], axis=-1)
        window = ops.convert_to_tensor(_late_window(length, self.hop))
        real, imaginary = ops.rfft(frames[..., parts * self.hop - length :] * window, fft_length)
        return real**2 + imaginary**2

    def _periodicity(self, power):
        """Autocorrelation, 2 at lag 0, at the periods of voices: (batch, time, lags)."""
        correlation = ops.irfft((power, ops.zeros_like(power)), LONG_FFT)
        # A window's own correlation falls with the lag, which would favor high voices.
        window = np.abs(np.fft.rfft(_late_window(LONG_WINDOW, self.hop), LONG_FFT)) ** 2
        own = np.fft.irfft(window)[: LONGEST_LAG + 1]
        gain = ops.convert_to_tensor((own[0] / own)[SHORTEST_LAG:].astype("float32"))
        energy = correlation[..., :1] + LONG_WINDOW * FLOOR**2
        return 2.0 * gain * correlation[..., SHORTEST_LAG : LONGEST_LAG + 1] / energy

    def compute_output_spec(self, x):
        steps = None if x.shape[1] is None else x.shape[1] // self.hop
        return keras.KerasTensor((x.shape[0], steps, self.filters), dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "filters": self.filters, "hop": self.hop}


def _level(power):
    """Logarithm of power, about -5 .. 5 from the floor to full scale."""
    return 0.5 * ops.log(power + FLOOR**2) - 0.5 * float(np.log(FLOOR))


def _late_window(length: int, hop: int) -> np.ndarray:
    """A window that rises slowly and falls within `hop`: its weight lies near its end.

    Scaled so that a tone's peak in the spectrum is its amplitude.
    """
    rise = np.hanning(2 * (length - hop) + 1)[: length - hop]
    fall = np.hanning(2 * hop + 1)[hop : 2 * hop]
    window = np.concatenate([rise, fall])
    return (2.0 * window / window.sum()).astype("float32")
