"""What tells decoded speech from real: SoundStream's discriminators.

One looks at the complex spectrum, three at the waveform, at full, half and quarter rate (Zeghidour
et al. 2021, section III-D). Their exact widths are not all in the paper; here they follow from one
number.
"""

from collections.abc import Sequence

import keras
from keras import ops

SPECTRAL_STRIDES = ((1, 2), (2, 2)) * 3
"""Of the six residual blocks over (frames, bins)."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class WaveformDiscriminator(keras.layers.Layer):
    """Strided convolutions over a waveform (batch, samples), after an average over `pool`.

    Args:
        channels: int. Of the first convolution; each of the four strided ones doubles them.
        pool: int. Samples that are averaged into one. Defaults to `1`.

    Returns:
        The activations of every layer, the last of them logits (batch, time, 1).
    """

    def __init__(self, channels: int, pool: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.pool = pool
        conv = _conv(keras.layers.Conv1D, self)
        self.layers = [conv(channels, 15)]
        self.layers += [conv(channels * 2**n, 11, strides=4) for n in range(1, 5)]
        self.layers += [conv(channels * 16, 5), conv(1, 3)]

    def call(self, waveform):
        x = waveform[..., None]
        if self.pool > 1:
            x = ops.average_pool(x, self.pool, self.pool, "valid")
        return _activations(x, self.layers)

    def get_config(self) -> dict:
        return {**super().get_config(), "channels": self.channels, "pool": self.pool}


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SpectralDiscriminator(keras.layers.Layer):
    """Residual blocks over the complex spectrum of a waveform (batch, samples).

    Args:
        channels: int. Of the first convolution.
        window: int. Samples of the spectrum's window; its hop is a quarter. Defaults to
            `1024`.

    Returns:
        The activations of every layer, the last of them logits (batch, frames, 1, 1).
    """

    def __init__(self, channels: int, window: int = 1024, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.window = window
        conv = _conv(keras.layers.Conv2D, self)
        self.first = conv(channels, 7)
        self.blocks = []
        for number, strides in enumerate(SPECTRAL_STRIDES):
            width = channels * 2 ** (number // 2 + 1)
            kernel = tuple(stride + 2 for stride in strides)
            before = channels * 2 ** ((number - 1) // 2 + 1) if number else channels
            # Of every other bin, in place of a strided convolution of one bin, in whose gradient
            # torch corrupts its memory on a CPU (2.13); TensorFlow crashed with it too.
            skip = keras.layers.Dense(width, dtype=self.dtype_policy)
            self.blocks.append((conv(before, 3), conv(width, kernel, strides=strides), skip))
        bins = (window // 2) // 2 ** len(SPECTRAL_STRIDES)
        self.last = conv(1, (1, bins), padding="valid")

    def call(self, waveform):
        real, imaginary = ops.stft(waveform, self.window, self.window // 4, self.window)
        x = ops.stack([real, imaginary], axis=-1)[:, :, 1:]  # a power of two of bins
        activations = [self.first(x)]
        for (narrow, strided, skip), (down, across) in zip(
            self.blocks, SPECTRAL_STRIDES, strict=True
        ):
            x = _leaky(activations[-1])
            activations.append(strided(_leaky(narrow(x))) + skip(x[:, ::down, ::across]))
        return [*activations, self.last(_leaky(activations[-1]))]

    def get_config(self) -> dict:
        return {**super().get_config(), "channels": self.channels, "window": self.window}


@keras.saving.register_keras_serializable(package="keras_speechssm")
class Discriminators(keras.layers.Layer):
    """All of them together.

    Args:
        channels: int. See `WaveformDiscriminator`. Defaults to `16`.
        pools: tuple of int. One waveform discriminator each. Defaults to `(1, 2, 4)`.
        windows: tuple of int. One spectral discriminator each. Defaults to `(1024,)`.

    Returns:
        For each its activations, the logits last.
    """

    def __init__(
        self,
        channels: int = 16,
        pools: Sequence[int] = (1, 2, 4),
        windows: Sequence[int] = (1024,),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels = channels
        self.pools = tuple(pools)
        self.windows = tuple(windows)
        dtype = self.dtype_policy
        self.members = [WaveformDiscriminator(channels, pool, dtype=dtype) for pool in self.pools]
        self.members += [
            SpectralDiscriminator(channels, window, dtype=dtype) for window in self.windows
        ]

    def call(self, waveform):
        return [member(waveform) for member in self.members]

    def get_config(self) -> dict:
        config = {"channels": self.channels, "pools": self.pools, "windows": self.windows}
        return {**super().get_config(), **config}


def _conv(kind, layer: keras.layers.Layer):
    def make(channels, kernel_size, strides=1, padding="same"):
        return kind(channels, kernel_size, strides, padding=padding, dtype=layer.dtype_policy)

    return make


def _activations(x, layers) -> list:
    activations = [layers[0](x)]
    for layer in layers[1:]:
        activations.append(layer(_leaky(activations[-1])))
    return activations


def _leaky(x):
    return ops.leaky_relu(x, 0.2)
