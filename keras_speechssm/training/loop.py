"""The training loop that every stage shares: `model.fit`, made resumable.

It knows nothing about what is trained: a compiled Keras model and a function from
the number of a step to its batch are all it takes.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import keras

from keras_speechssm.training.metrics import MetricsLog, read_metrics
from keras_speechssm.training.schedule import Budget, LearningRate


def fit_resumable(
    model: keras.Model,
    make_batch: Callable[[int], tuple],
    output_dir: str | Path,
    *,
    learning_rate: float,
    total_steps: int,
    steps_per_epoch: int = 100,
    validation_batches: Sequence[tuple] | None = None,
    monitor: str = "val_loss",
    max_seconds: float | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> list[dict]:
    """Trains a compiled model with `fit`; run again, it goes on where it stopped.

    Writes into `output_dir`: `metrics.jsonl` (one line an epoch), `backup/` (model,
    optimizer and epoch, for resuming) and `best.weights.h5`. At the end the model
    holds the best weights.

    Args:
        model: a compiled `keras.Model`.
        make_batch: function from the step to `(x, y)` or `(x, y, sample_weight)`. Draw
            from `numpy.random.default_rng((seed, step))` and a resumed run sees the
            batches that an unbroken one would have seen.
        output_dir: folder of the run.
        learning_rate: float. Peak of the optimizer's learning rate, which follows
            `LearningRate` by the steps or the seconds, whichever run out first.
        total_steps: int. Optimizer steps of the whole run, a multiple of
            `steps_per_epoch` (else rounded up).
        steps_per_epoch: int. Steps between validations, log lines and backups.
        validation_batches: list of batches, or `None`: then the training loss selects.
        monitor: the logged value whose minimum marks the best weights.
        max_seconds: float or `None`. Stop early after this much training time.
        callbacks: further Keras callbacks.

    Returns:
        The lines of `metrics.jsonl`.
    """
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    log, best = output_dir / "metrics.jsonl", output_dir / "best.weights.h5"
    epochs = -(-total_steps // steps_per_epoch)
    first_epoch = _finished_epochs(output_dir / "backup")
    if validation_batches is None:
        monitor = "loss"
    if first_epoch < epochs:
        keep_best = _keep_best(best, monitor, read_metrics(log))
        backup = keras.callbacks.BackupAndRestore(
            str(output_dir / "backup"), delete_checkpoint=False
        )
        budget = Budget(output_dir, epochs, max_seconds)
        metrics_log = MetricsLog(log, steps_per_epoch, max_seconds)
        # Plain iterators: Keras' PyDataset fetches ahead, across the ends of epochs.
        first_step = first_epoch * steps_per_epoch
        validation = {}
        if validation_batches is not None:
            validation = {
                "validation_data": (batch for batch in itertools.cycle(validation_batches)),
                "validation_steps": len(validation_batches),
            }
        model.fit(
            (make_batch(step) for step in itertools.count(first_step)),
            steps_per_epoch=steps_per_epoch,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=[
                LearningRate(budget, learning_rate),
                *callbacks,
                keep_best,
                metrics_log,
                backup,
            ],
            **validation,
        )
    if best.exists():
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        model.load_weights(str(best))
    return read_metrics(log)


def _keep_best(path: Path, monitor: str, lines: list[dict]) -> keras.callbacks.Callback:
    """Stores the weights whenever `monitor` falls below all before, earlier runs' too."""
    return keras.callbacks.ModelCheckpoint(
        str(path),
        monitor=monitor,
        mode="min",
        save_best_only=True,
        save_weights_only=True,
        initial_value_threshold=min(
            (line[monitor] for line in lines if monitor in line), default=None
        ),
    )


def _finished_epochs(backup_dir: Path) -> int:
    """Epochs that Keras' `BackupAndRestore` has recorded as finished."""
    metadata = backup_dir / "training_metadata.json"
    if not metadata.exists():
        return 0
    return int(json.loads(metadata.read_text())["epoch"])
