import keras
import numpy as np
import pytest
from gradient import gradients
from keras import ops

from keras_speechssm.training.adversarial import (
    AdversarialCodec,
    AdversarialPhaseIn,
    Discriminators,
    feature_distance,
    hinge,
)
from keras_speechssm.training.callbacks import Progress

SAMPLES = 1024


class Gain(keras.Model):
    """The smallest codec: a factor."""

    def __init__(self):
        super().__init__()
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")

    def call(self, waveform, training=None):
        return waveform * ops.convert_to_tensor(self.gain)


def make_model(**weights):
    keras.utils.set_random_seed(0)
    model = AdversarialCodec(Gain(), Discriminators(2, (1,), (128,)), **weights)
    model.build((None, SAMPLES))
    model.codec.gain.assign(0.5)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse")
    return model


def waveforms(batch=4):
    return np.random.default_rng(0).normal(size=(batch, SAMPLES)).astype("float32")


def numpy_of(tensor):
    return float(ops.convert_to_numpy(tensor))


def test_the_losses_by_hand():
    activations = [[None, np.array([0.5, -2.0], "float32")], [None, np.array([3.0], "float32")]]
    assert numpy_of(hinge(activations, 1.0)) == pytest.approx((np.mean([0.5, 3.0]) + 0.0) / 2)
    assert numpy_of(hinge(activations, -1.0)) == pytest.approx((np.mean([1.5, 0.0]) + 4.0) / 2)
    real = [[np.full((2, 2), 2.0, "float32"), None]]
    decoded = [[np.full((2, 2), 1.0, "float32"), None]]
    assert numpy_of(feature_distance(real, decoded)) == pytest.approx(0.5, rel=1e-3)
    assert numpy_of(feature_distance(real, real)) == 0.0


@pytest.mark.slow_to_compile
def test_the_loss_is_the_compiled_one_outside_training():
    model, x = make_model(), ops.convert_to_tensor(waveforms())
    value = model.compute_loss(x=x, y=x, y_pred=0.5 * x, training=False)
    assert numpy_of(value) == pytest.approx(0.25 * np.mean(waveforms() ** 2), rel=1e-5)


def parts(model, x):
    """Training loss as a function of the decoded waveform, and its parts as numbers."""
    x = ops.convert_to_tensor(x)
    total = numpy_of(model.compute_loss(x=x, y=x, y_pred=0.5 * x, training=True))
    values = [numpy_of(tracker.result()) for tracker in model.trackers.values()]
    return total, values


@pytest.mark.slow_to_compile
def test_the_training_loss_is_the_sum_of_its_parts():
    x = waveforms()
    model = make_model(adversarial_weight=2.0, feature_weight=3.0)
    model.fraction.assign(0.5)
    total, (discriminator_loss, generator_loss, features) = parts(model, x)
    mse = 0.25 * np.mean(x**2)
    expected = mse + discriminator_loss + 0.5 * (2.0 * generator_loss + 3.0 * features)
    assert total == pytest.approx(expected, rel=1e-4) and features > 0.01


@pytest.mark.slow_to_compile
def test_the_codec_listens_to_the_held_discriminators_only():
    x = waveforms()

    def loss_of(fraction):
        model = make_model()
        model.fraction.assign(fraction)

        def loss(decoded):
            return model.compute_loss(x=x, y=x, y_pred=decoded, training=True)

        return gradients(loss, [0.5 * x])[0][0]

    # Without a say of theirs the gradient is that of the compiled loss alone.
    np.testing.assert_allclose(loss_of(0.0), -x / x.size, atol=1e-6)
    assert np.abs(loss_of(1.0) - loss_of(0.0)).max() > 1e-5


def changes(fraction, **weights):
    """How far one step of plain gradient descent moves the discriminators."""
    model, x = make_model(**weights), waveforms()
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    model.fraction.assign(fraction)
    before = [w.copy() for w in model.discriminators.get_weights()]
    model.fit(x, x, batch_size=4, epochs=1, verbose=0)
    return [b - a for a, b in zip(before, model.discriminators.get_weights(), strict=True)]


@pytest.mark.slow_to_compile
def test_the_discriminators_do_not_learn_to_please_the_codec():
    alone = changes(0.0)
    both = changes(1.0, adversarial_weight=50.0, feature_weight=50.0)
    assert max(np.abs(change).max() for change in alone) > 1e-5
    for a, b in zip(alone, both, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow_to_compile
def test_discriminators_learn_to_tell_and_the_codec_learns_from_them():
    model = make_model(feature_weight=1.0)
    model.compile(optimizer=keras.optimizers.Adam(3e-3), loss=lambda y, y_pred: 0.0 * y_pred)
    x = waveforms(32)
    history = model.fit(x, x, batch_size=8, epochs=30, verbose=0).history
    assert min(history["discriminator_loss"]) < 0.3
    # No compiled loss: whatever moved the gain from 0.5 towards 1 was they.
    assert abs(numpy_of(model.codec.gain) - 1.0) < 0.15
    assert history["feature_loss"][-1] < 0.5 * history["feature_loss"][0]


def test_they_come_in_late(tmp_path):
    callback = AdversarialPhaseIn(Progress(tmp_path, 20), start=0.5, duration=0.1)
    model = make_model()
    callback.set_model(model)
    fractions = []
    for epoch in (0, 10, 11, 12, 19):
        callback.on_epoch_begin(epoch)
        fractions.append(numpy_of(model.fraction))
    np.testing.assert_allclose(fractions, [0.0, 0.0, 0.5, 1.0, 1.0], atol=1e-5)
