"""Adversarial training of a codec: the discriminators and losses of SoundStream."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_speechssm.training.callbacks import Progress

SPECTRAL_STRIDES = ((1, 2), (2, 2)) * 3
"""Strides of the six residual blocks over (frames, bins)."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class WaveformDiscriminator(keras.layers.Layer):
    """Strided convolutions over a waveform (batch, samples), which is averaged over `pool` first.

    Args:
        channels: Channels of the first convolution. Each of the four strided ones doubles them.
        pool: Samples that are averaged into one. Defaults to `1`.

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
        channels: Channels of the first convolution.
        window: Window of the spectrum in samples; the hop is a quarter of it. Defaults to
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
            # Applied to every other bin. The gradient of a strided convolution with a kernel of
            # one bin corrupts memory with torch 2.13 on a CPU, and crashes TensorFlow.
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
    """All discriminators of a codec.

    Args:
        channels: Channels of their first convolutions. Defaults to `16`.
        pools: One waveform discriminator for each average. Defaults to `(1, 2, 4)`.
        windows: One spectral discriminator for each window. Defaults to `(1024,)`.

    Returns:
        The activations of each discriminator, with the logits last.
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


@keras.saving.register_keras_serializable(package="keras_speechssm")
class AdversarialCodec(keras.Model):
    """A codec with discriminators, which one `fit` and one optimizer train together.

    Spectral losses are minimized by the mean of all plausible outputs, which sounds muffled; a
    discriminator penalizes that (equations 1 to 5 of the reference, in the hinge form).

    One step computes one gradient: the discriminators' gradient does not flow into the decoded
    waveform, and the codec's gradient does not flow into the discriminators' weights. Besides
    the compiled losses the model adds, in training (validation only logs them),

    - the loss of the discriminators: `max(0, 1 - D(x)) + max(0, 1 + D(y))`;
    - `adversarial_weight * max(0, 1 - D(y))`;
    - `feature_weight` times the distance of the discriminators' activations for x and y,
      relative to those for x.

    Args:
        codec: A `SoundStream`.
        discriminators: The `Discriminators`.
        adversarial_weight: Weight of the generator loss. Defaults to `1.0`.
        feature_weight: Weight of the feature distance. Defaults to `100.0`, as in the paper.

    Attributes:
        fraction: Fraction of both weights that is in force, 0 to 1; see `AdversarialPhaseIn`.

    Reference:
        - [Zeghidour et al., 2021](https://arxiv.org/abs/2107.03312)
    """

    def __init__(
        self,
        codec,
        discriminators: Discriminators,
        adversarial_weight: float = 1.0,
        feature_weight: float = 100.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.codec = codec
        self.discriminators = discriminators
        self.adversarial_weight = adversarial_weight
        self.feature_weight = feature_weight
        self.fraction = self.add_weight(
            shape=(), initializer="ones", trainable=False, dtype="float32", name="fraction"
        )
        names = ("discriminator_loss", "adversarial_loss", "feature_loss")
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}

    def build(self, input_shape) -> None:
        """Build the discriminators.

        Args:
            input_shape: `(batch, samples)` of the waveform.
        """
        self.discriminators(keras.KerasTensor((1, input_shape[-1])))
        self.built = True

    def call(self, waveform, training=None):
        return self.codec(waveform, training=training)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True, **kwargs
    ):
        loss = super().compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training, **kwargs
        )
        real, decoded = (v["waveform"] if isinstance(v, dict) else v for v in (y, y_pred))
        real_features = self.discriminators(real)
        discriminator_loss = hinge(real_features, 1.0) + hinge(
            self.discriminators(ops.stop_gradient(decoded)), -1.0
        )
        # The codec's gradient must not reach the weights of the discriminators.
        held = [ops.stop_gradient(v.value) for v in self.discriminators.trainable_variables]
        others = [v.value for v in self.discriminators.non_trainable_variables]
        decoded_features = self.discriminators.stateless_call(held, others, decoded)[0]
        generator_loss = hinge(decoded_features, 1.0)
        features = feature_distance(real_features, decoded_features)
        values = (discriminator_loss, generator_loss, features)
        for tracker, value in zip(self.trackers.values(), values, strict=True):
            tracker.update_state(value)
        if not training:
            return loss
        weighted = self.adversarial_weight * generator_loss + self.feature_weight * features
        return loss + discriminator_loss + ops.convert_to_tensor(self.fraction) * weighted


def hinge(activations: list, sign: float):
    """Return the mean of `max(0, 1 - sign * logits)` over discriminators, a float32 scalar."""
    losses = [
        ops.mean(ops.relu(1.0 - sign * ops.cast(found[-1], "float32"))) for found in activations
    ]
    return sum(losses) / len(losses)


def feature_distance(real_features: list, decoded_features: list):
    """Return the L1 distance of activations relative to the real ones, averaged over layers."""
    distances = []
    for real, decoded in zip(real_features, decoded_features, strict=True):
        for x, y in zip(real[:-1], decoded[:-1], strict=True):
            x = ops.stop_gradient(ops.cast(x, "float32"))
            distance = ops.mean(ops.abs(x - ops.cast(y, "float32")))
            distances.append(distance / (ops.mean(ops.abs(x)) + 1e-3))
    return sum(distances) / len(distances)


class AdversarialPhaseIn(keras.callbacks.Callback):
    """Ramps up the adversarial losses late in training, after the discriminators have learned.

    Args:
        progress: Progress of the run.
        start: Fraction of the run after which they begin. Defaults to `0.5`.
        duration: Fraction of the run over which they rise to their full weight. Defaults to
            `0.1`.
    """

    def __init__(self, progress: Progress, start: float = 0.5, duration: float = 0.1):
        super().__init__()
        self.progress = progress
        self.start = start
        self.duration = duration

    def on_epoch_begin(self, epoch, logs=None):
        fraction = (self.progress.fraction(epoch) - self.start) / self.duration
        self.model.fraction.assign(min(1.0, max(0.0, fraction)))
