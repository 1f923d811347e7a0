"""The training loop that every stage shares: `model.fit`, made resumable.

It knows nothing about what is trained: a compiled Keras model and a function from
the number of a step to its batch are all it takes.
"""

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import keras

from keras_speechssm.training.batches_ahead import made_ahead
from keras_speechssm.training.checkpoints import Checkpoints
from keras_speechssm.training.metrics import MetricsLog, TensorBoardLog, keep_lines, read_metrics
from keras_speechssm.training.option_checks import check_at_least, check_between, check_schedule
from keras_speechssm.training.schedule import Budget, LearningRate
from keras_speechssm.whole_files import claimed


def fit_resumable(
    model: keras.Model,
    make_batch: Callable[[int], tuple],
    output_dir: str | Path,
    *,
    learning_rate: float,
    total_steps: int,
    steps_per_epoch: int = 100,
    batches_per_step: int = 1,
    batch_threads: int = 1,
    warmup_steps: int | None = None,
    final_learning_rate: float = 0.02,
    validation_batches: Sequence[tuple] | None = None,
    monitor: str = "val_loss",
    best_from: float = 0.0,
    max_seconds: float | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> list[dict]:
    """Trains a compiled model with `fit`; run again, it goes on where it stopped.

    Writes into `output_dir`: `metrics.jsonl` (one line an epoch), `checkpoints/` (the last
    two, for resuming), `best/` and, where the package `tensorboardX` is installed,
    `tensorboard/`. However a run ends, run again it gives the losses that an unbroken one would
    have given, from its last intact checkpoint on. At the end the model holds the best weights;
    their moving averages, where the optimizer keeps such.

    Args:
        model: a compiled `keras.Model`.
        make_batch: function from a batch's number to `(x, y)` or `(x, y, sample_weight)`.
            Draw from `numpy.random.default_rng((seed, number))` and a resumed run sees the
            batches that an unbroken one would have seen.
        output_dir: folder of the run.
        learning_rate: float. Peak of the optimizer's learning rate, which follows
            `LearningRate` by the steps or the seconds, whichever run out first.
        total_steps: int. Steps of the whole run, a multiple of
            `steps_per_epoch` (else rounded up).
        steps_per_epoch: int. Steps between validations, log lines and checkpoints.
        batches_per_step: int. Batches that make one step, as many as the optimizer's
            `gradient_accumulation_steps`.
        batch_threads: int. How many threads make batches ahead; with more than one, several
            calls of `make_batch` run at a time.
        warmup_steps: int. Steps over which the learning rate rises. Defaults to five
            epochs.
        final_learning_rate: float. What the learning rate falls to, as a share of its peak.
        validation_batches: list of batches, or `None`: then the training loss selects.
        monitor: the logged value whose minimum marks the best weights.
        best_from: float. Share of the run before which no weights count as the best.
        max_seconds: float or `None`. Stop early after this much training time, that of the
            sessions before included.
        callbacks: further Keras callbacks.

    Returns:
        The lines of `metrics.jsonl`.

    Raises:
        ValueError: a number is out of range or another process trains in `output_dir` (nothing
            has been written then), or the loss is no number any more.
    """
    check_schedule(
        learning_rate=learning_rate,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=warmup_steps,
        final_learning_rate=final_learning_rate,
        max_seconds=max_seconds,
    )
    check_at_least(1, batch_threads=batch_threads)
    check_between(0, 1, best_from=best_from)
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    with claimed(output_dir):
        log = output_dir / "metrics.jsonl"
        checkpoints, best = (
            Checkpoints(output_dir / "checkpoints"),
            Checkpoints(output_dir / "best", 1),
        )
        epochs, per_epoch = -(-total_steps // steps_per_epoch), steps_per_epoch * batches_per_step
        warmup_epochs = 5 if warmup_steps is None else max(1.0, warmup_steps / steps_per_epoch)
        monitor = "loss" if validation_batches is None else monitor
        first_epoch = checkpoints.restore(model).get("epoch", 0)
        keep_lines(log, first_epoch)
        budget = Budget(output_dir, epochs, max_seconds)
        if budget.used(first_epoch) < 1.0:
            batches = made_ahead(make_batch, first_epoch * per_epoch, batch_threads)
            validation = None if validation_batches is None else _Fixed(validation_batches)
            averages = _averages_weights(model.optimizer) and validation is not None
            model.fit(
                batches,
                initial_epoch=first_epoch,
                steps_per_epoch=per_epoch,
                epochs=epochs,
                shuffle=False,
                verbose=0,
                callbacks=[
                    StopAtNaN(output_dir),
                    LearningRate(budget, learning_rate, warmup_epochs, final_learning_rate),
                    *callbacks,
                    *([keras.callbacks.SwapEMAWeights()] if averages else []),
                    MetricsLog(log, steps_per_epoch, max_seconds),
                    *_tensorboard(output_dir, steps_per_epoch, first_epoch),
                    KeepBest(best, monitor, read_metrics(log), budget, best_from),
                    KeepCheckpoint(checkpoints),
                ],
                validation_data=validation,
            )
        if best.restore(model) and _averages_weights(model.optimizer):
            model.optimizer.finalize_variable_values(model.trainable_variables)
        return read_metrics(log)


class _Fixed(keras.utils.PyDataset):
    """The same batches at every validation.

    Of a generator Keras repeats those that it looked at to learn their shapes.
    """

    def __init__(self, batches: Sequence[tuple]):
        super().__init__()
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple:
        return self.batches[index]


def _tensorboard(output_dir: Path, *steps) -> list[keras.callbacks.Callback]:
    if importlib.util.find_spec("tensorboardX") is None:
        return []
    return [TensorBoardLog(output_dir / "tensorboard", *steps)]


class KeepBest(keras.callbacks.Callback):
    """Stores the state whenever a logged value falls below all before, earlier runs' too.

    Args:
        checkpoints: where to.
        monitor: name of the value.
        lines: of the metrics so far.
        budget: what the run may use.
        best_from: share of it before which nothing is stored.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        monitor: str,
        lines: Sequence[dict],
        budget: Budget,
        best_from: float = 0.0,
    ):
        super().__init__()
        self.checkpoints = checkpoints
        self.monitor = monitor
        self.budget = budget
        self.best_from = best_from
        values = [line.get(monitor) for number, line in enumerate(lines) if self._counts(number)]
        self.lowest = min((value for value in values if value is not None), default=None)

    def _counts(self, epoch: int) -> bool:
        return self.budget.used(epoch) >= self.best_from

    def on_epoch_end(self, epoch, logs=None):
        value = float(logs[self.monitor])
        if not self._counts(epoch):
            return
        if self.lowest is None or value < self.lowest:
            if self.checkpoints.save(self.model, epoch + 1, **{self.monitor: value}):
                self.lowest = value


class StopAtNaN(keras.callbacks.Callback):
    """Ends a run whose loss is no number, before anything of it is stored; comes first."""

    def __init__(self, output_dir: Path):
        super().__init__()
        self.output_dir = output_dir

    def on_epoch_end(self, epoch, logs=None):
        wrong = [name for name, value in (logs or {}).items() if not math.isfinite(value)]
        if wrong:
            raise ValueError(
                f"{wrong[0]} is {logs[wrong[0]]} in epoch {epoch + 1}: lower the learning rate. "
                f"{self.output_dir} holds what was before."
            )


class KeepPresets(keras.callbacks.Callback):
    """Writes a preset every so many steps, to choose among by what they generate.

    Args:
        folder: gets a folder `step-00000400` for each.
        every_steps: int. Steps between them; they are written at the ends of epochs.
        steps_per_epoch: int.
    """

    def __init__(self, folder: Path, every_steps: int, steps_per_epoch: int):
        super().__init__()
        self.folder = folder
        self.every_steps = every_steps
        self.steps_per_epoch = steps_per_epoch

    def on_epoch_end(self, epoch, logs=None):
        before, step = (number * self.steps_per_epoch for number in (epoch, epoch + 1))
        if before // self.every_steps == step // self.every_steps:
            return
        optimizer = self.model.optimizer
        weights = self.model.trainable_variables if _averages_weights(optimizer) else []
        kept = [keras.ops.copy(weight) for weight in weights]
        if weights:
            optimizer.finalize_variable_values(weights)  # the averages, for the preset only
        self.model.save_to_preset(str(self.folder / f"step-{step:08d}"))
        for weight, value in zip(weights, kept, strict=True):
            weight.assign(value)


class KeepCheckpoint(keras.callbacks.Callback):
    """Stores the state at the end of every epoch; comes last of all callbacks."""

    def __init__(self, checkpoints: Checkpoints):
        super().__init__()
        self.checkpoints = checkpoints

    def on_epoch_end(self, epoch, logs=None):
        self.checkpoints.save(self.model, epoch + 1)


def _averages_weights(optimizer) -> bool:
    """Whether it keeps moving averages of the weights (`use_ema`)."""
    return bool(getattr(getattr(optimizer, "inner_optimizer", optimizer), "use_ema", False))
