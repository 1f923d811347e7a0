"""A resumed run draws what an unbroken one draws: dropout, noise, masks."""

import keras
import numpy as np

from keras_speechssm.training.callbacks import read_metrics
from keras_speechssm.training.config import TrainingConfig
from keras_speechssm.training.trainer import fit_resumable


class StopAfter(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


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


def test_losses_of_a_resumed_run_are_those_of_an_unbroken_one(tmp_path):
    whole = train(tmp_path / "whole")
    train(tmp_path / "broken", [StopAfter()])
    broken = train(tmp_path / "broken")
    losses = [
        [
            (line["loss"], line["val_loss"])
            for line in read_metrics(tmp_path / run / "metrics.jsonl")
        ]
        for run in ("whole", "broken")
    ]
    assert len(losses[0]) == len(losses[1]) == 4
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for one, other in zip(whole.get_weights(), broken.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)
