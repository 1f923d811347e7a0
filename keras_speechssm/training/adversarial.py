"""A codec and its discriminators, trained together: SoundStream's adversarial losses."""

import keras
from keras import ops

from keras_speechssm.training.discriminators import Discriminators
from keras_speechssm.training.schedule import Budget


@keras.saving.register_keras_serializable(package="keras_speechssm")
class AdversarialCodec(keras.Model):
    """A codec with discriminators, which one `fit` and one optimizer train at once.

    What is it for: distances of spectra leave a codec's speech muffled, since the mean of all
    that could be is what they favour; a discriminator hears that it is none of it (Zeghidour et
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
        of_real = self.discriminators(real)
        telling = hinge(of_real, 1.0) + hinge(self.discriminators(ops.stop_gradient(decoded)), -1.0)
        of_decoded = self._held_discriminators(decoded)
        convincing = hinge(of_decoded, 1.0)
        features = feature_distance(of_real, of_decoded)
        values = (telling, convincing, features)
        for tracker, value in zip(self.trackers.values(), values, strict=True):
            tracker.update_state(value)
        if not training:
            return loss
        weighted = self.adversarial_weight * convincing + self.feature_weight * features
        return loss + telling + ops.convert_to_tensor(self.share) * weighted

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


def feature_distance(of_real: list, of_decoded: list):
    """L1 distance of activations relative to the real ones', the mean over layers."""
    distances = []
    for real, decoded in zip(of_real, of_decoded, strict=True):
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
