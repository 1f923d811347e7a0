"""The training loop that every stage shares: `model.fit`, made resumable.

It knows nothing about what is trained: a compiled Keras model and a function from
the number of a step to its batch are all it takes.
"""

import importlib.util
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras

from keras_speechssm.checks import check_at_least, check_between
from keras_speechssm.files import run_lock
from keras_speechssm.training.callbacks import (
    BestCheckpoint,
    Budget,
    CheckpointCallback,
    LearningRate,
    MetricsLog,
    StopAtNaN,
    TensorBoardLog,
    _averages_weights,
    read_metrics,
    truncate_log,
)
from keras_speechssm.training.checkpoints import Checkpoints
from keras_speechssm.training.config import check_schedule


def prefetch(make_batch: Callable[[int], tuple], first: int, threads: int) -> Iterator[tuple]:
    """The batches from number `first` on, in order, each begun some batches before its turn.

    An accelerator then need not wait for a batch that one core makes in the time of many steps.
    A plain iterator for `fit`: Keras' PyDataset fetches ahead, across the ends of epochs.

    Args:
        make_batch: function of a batch's number.
        first: int. Number of the first batch.
        threads: int. How many batches are made at a time; twice as many wait for their turn.

    Raises:
        Whatever `make_batch` raises, when the turn of that batch has come.
    """
    pool, made = ThreadPoolExecutor(threads, "batches"), deque()
    numbers = itertools.count(first)
    try:
        while True:
            while len(made) < 2 * threads:
                made.append(pool.submit(make_batch, next(numbers)))
            yield made.popleft().result()
    finally:  # When the iterator is dropped: what has not begun is not begun.
        pool.shutdown(wait=False, cancel_futures=True)


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
    with run_lock(output_dir):
        log = output_dir / "metrics.jsonl"
        checkpoints, best = (
            Checkpoints(output_dir / "checkpoints"),
            Checkpoints(output_dir / "best", 1),
        )
        epochs, per_epoch = -(-total_steps // steps_per_epoch), steps_per_epoch * batches_per_step
        warmup_epochs = 5 if warmup_steps is None else max(1.0, warmup_steps / steps_per_epoch)
        monitor = "loss" if validation_batches is None else monitor
        first_epoch = checkpoints.restore(model).get("epoch", 0)
        truncate_log(log, first_epoch)
        budget = Budget(output_dir, epochs, max_seconds)
        if budget.used(first_epoch) < 1.0:
            batches = prefetch(make_batch, first_epoch * per_epoch, batch_threads)
            validation = (
                None if validation_batches is None else _ValidationBatches(validation_batches)
            )
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
                    BestCheckpoint(best, monitor, read_metrics(log), budget, best_from),
                    CheckpointCallback(checkpoints),
                ],
                validation_data=validation,
            )
        if best.restore(model) and _averages_weights(model.optimizer):
            model.optimizer.finalize_variable_values(model.trainable_variables)
        return read_metrics(log)


class _ValidationBatches(keras.utils.PyDataset):
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
