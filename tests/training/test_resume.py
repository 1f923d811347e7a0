"""A resumed run draws what an unbroken one draws: dropout, noise, masks."""

import os
import signal
import sys

import keras
import numpy as np
import pytest

from keras_speechssm.training.callbacks import read_metrics
from keras_speechssm.training.config import TrainingConfig
from keras_speechssm.training.trainer import fit_resumable


class StopAfter(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


class Terminate(keras.callbacks.Callback):
    """Sends SIGTERM, as a cluster that takes the machine away, after some batches of an epoch."""

    def __init__(self, epoch, batches):
        super().__init__()
        self.when = epoch, batches - 1

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.when:
            os.kill(os.getpid(), signal.SIGTERM)


def make_batch(step):
    x = np.random.default_rng((0, step)).normal(size=(8, 3)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def train(folder, callbacks=()):
    keras.utils.set_random_seed(1)
    inner = keras.Sequential([keras.Input((3,)), keras.layers.GaussianNoise(0.3)])
    model = keras.Sequential(
        [
            keras.Input((3,)),
            inner,
            keras.layers.Dense(8, "tanh"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    options = {"use_ema": True, "ema_momentum": 0.9, "gradient_accumulation_steps": 2}
    model.compile(optimizer=keras.optimizers.Adam(0.01, **options), loss="mse")
    config = TrainingConfig(
        output_dir=folder,
        learning_rate=0.01,
        steps_per_epoch=3,
        total_steps=12,
        gradient_accumulation_steps=2,
        ema_momentum=0.9,
    )
    batches = [make_batch(10_000)]
    fit_resumable(model, make_batch, config, validation_batches=batches, callbacks=callbacks)
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An unbroken run: its model and its losses."""
    folder = tmp_path_factory.mktemp("whole")
    return train(folder), losses_of(folder)


def losses_of(folder):
    return [(line["loss"], line["val_loss"]) for line in read_metrics(folder / "metrics.jsonl")]


def check_same(broken, folder, whole):
    model, losses = whole
    assert len(losses) == 4
    np.testing.assert_allclose(losses_of(folder), losses, rtol=1e-5)
    for one, other in zip(model.get_weights(), broken.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)


def test_losses_of_a_resumed_run_are_those_of_an_unbroken_one(tmp_path, whole):
    train(tmp_path, [StopAfter()])
    check_same(train(tmp_path), tmp_path, whole)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_sigterm_saves_the_state_in_the_middle_of_an_epoch(tmp_path, whole):
    before = signal.getsignal(signal.SIGTERM)
    # In the middle of a step of two batches, then once more in the same epoch.
    for batches, saved in ((3, 3), (2, 5)):
        with pytest.raises(KeyboardInterrupt, match=f"after batch {saved} of epoch 2, which is"):
            train(tmp_path, [Terminate(1, batches)])
        assert len(losses_of(tmp_path)) == 1
    assert signal.getsignal(signal.SIGTERM) == before
    check_same(train(tmp_path), tmp_path, whole)


def test_sigterm_at_the_end_of_an_epoch_ends_the_next_one(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt, match="after batch 1 of epoch 3, which is saved"):
        train(tmp_path, [Terminate(1, 6)])
    check_same(train(tmp_path), tmp_path, whole)
