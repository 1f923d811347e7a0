"""A codec and its discriminators, trained together: SoundStream's adversarial losses."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_speechssm.training.callbacks import Budget

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


@keras.saving.register_keras_serializable(package="keras_speechssm")
class AdversarialCodec(keras.Model):
    """A codec with discriminators, which one `fit` and one optimizer train at once.

    What is it for: distances of spectra leave a codec's speech muffled, since the mean of all
    that could be is what they favor; a discriminator hears that it is none of it (Zeghidour et
    al. 2021, equations 1 to 5, in the hinge form).

    A step has one gradient: the discriminators get theirs from a decoded waveform that is
    held, the codec its own through discriminators whose weights are held. Beside the compiled
    losses it adds, in training only (validations just log them),

    - the discriminators': `max(0, 1 - D(x)) + max(0, 1 + D(y))`;
    - `adversarial_weight * max(0, 1 - D(y))`;
    - `feature_weight` times the distance of the discriminators' activations for x and y,
      relative to those for x.

    Args:
        codec: a `SoundStream`.
        discriminators: `Discriminators`.
        adversarial_weight: float. Defaults to `1.0`.
        feature_weight: float. Defaults to `100.0`, as in the paper.

    Attributes:
        share: how much of both weights is in force, 0 to 1; see `AdversarialPhaseIn`.
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
        self.share = self.add_weight(
            shape=(), initializer="ones", trainable=False, dtype="float32", name="share"
        )
        names = ("discriminator_loss", "adversarial_loss", "feature_loss")
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}

    def build_on(self, samples: int) -> None:
        """Builds the discriminators for waveforms of that length, so that weights can load."""
        self.discriminators(keras.KerasTensor((1, samples)))
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
        of_decoded = self._held_discriminators(decoded)
        generator_loss = hinge(of_decoded, 1.0)
        features = feature_distance(real_features, of_decoded)
        values = (discriminator_loss, generator_loss, features)
        for tracker, value in zip(self.trackers.values(), values, strict=True):
            tracker.update_state(value)
        if not training:
            return loss
        weighted = self.adversarial_weight * generator_loss + self.feature_weight * features
        return loss + discriminator_loss + ops.convert_to_tensor(self.share) * weighted

    def _held_discriminators(self, waveform) -> list:
        """What the discriminators say, with a gradient for the waveform but none for them."""
        held = [ops.stop_gradient(v.value) for v in self.discriminators.trainable_variables]
        others = [v.value for v in self.discriminators.non_trainable_variables]
        return self.discriminators.stateless_call(held, others, waveform)[0]


def hinge(activations: list, sign: float):
    """`max(0, 1 - sign * logits)`, the mean over discriminators; float32 scalar."""
    losses = [
        ops.mean(ops.relu(1.0 - sign * ops.cast(found[-1], "float32"))) for found in activations
    ]
    return sum(losses) / len(losses)


def feature_distance(real_features: list, of_decoded: list):
    """L1 distance of activations relative to the real ones', the mean over layers."""
    distances = []
    for real, decoded in zip(real_features, of_decoded, strict=True):
        for x, y in zip(real[:-1], decoded[:-1], strict=True):
            x = ops.stop_gradient(ops.cast(x, "float32"))
            distance = ops.mean(ops.abs(x - ops.cast(y, "float32")))
            distances.append(distance / (ops.mean(ops.abs(x)) + 1e-3))
    return sum(distances) / len(distances)


class AdversarialPhaseIn(keras.callbacks.Callback):
    """Lets the discriminators speak late: before that they learn, and the codec need not listen.

    Args:
        budget: what the run may use.
        begins: float. Share of the budget after which they come in. Defaults to `0.5`.
        lasts: float. Share of the budget over which their say rises to all. Defaults to
            `0.1`.
    """

    def __init__(self, budget: Budget, begins: float = 0.5, lasts: float = 0.1):
        super().__init__()
        self.budget = budget
        self.begins = begins
        self.lasts = lasts

    def on_epoch_begin(self, epoch, logs=None):
        share = (self.budget.used(epoch) - self.begins) / self.lasts
        self.model.share.assign(min(1.0, max(0.0, share)))
