"""The record of a training run: one JSON line an epoch."""

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_speechssm.files import atomic_write
from keras_speechssm.training.checkpoints import Checkpoints
from keras_speechssm.training.config import warn


@dataclass(frozen=True)
class Budget:
    """How much of a run's steps or seconds, whichever is scarcer, has been used.

    What is it for: on a shared machine nobody knows how many steps fit into an hour, and
    a schedule cut off half way leaves the best part of the training out.

    Attributes:
        output_dir: folder of the run, for its `metrics.jsonl`.
        total_epochs: epochs of the whole run.
        max_seconds: training time of the whole run, or `None`.
    """

    output_dir: Path
    total_epochs: int
    max_seconds: float | None = None

    def metrics(self) -> list[dict]:
        return read_metrics(self.output_dir / "metrics.jsonl")

    def used(self, epochs: int) -> float:
        """Share of the budget that the first `epochs` epochs took, 0 to 1."""
        used = epochs / self.total_epochs
        lines = [] if self.max_seconds is None else self.metrics()[:epochs]
        if lines:
            seconds = lines[-1].get("seconds", 0.0)
            used = 1.0 if seconds >= self.max_seconds else max(used, seconds / self.max_seconds)
        return min(used, 1.0)


class LearningRate(keras.callbacks.Callback):
    """Lowers the learning rate along a cosine, times a straight line by which it first rises.

    It changes at the beginning of an epoch, since seconds may be what runs out: a warm-up of ten
    epochs has ten stairs.

    Args:
        budget: what the run may use.
        peak: float. Highest learning rate.
        warmup_epochs: float. Epochs over which it rises. Defaults to `5`.
        final_share: float. What it falls to, as a share of the peak. Defaults to `0.02`.
    """

    def __init__(
        self, budget: Budget, peak: float, warmup_epochs: float = 5, final_share: float = 0.02
    ):
        super().__init__()
        self.budget = budget
        self.peak = peak
        self.warmup_epochs = warmup_epochs
        self.final_share = final_share

    def on_epoch_begin(self, epoch, logs=None):
        falls = 0.5 * (1.0 + np.cos(np.pi * self.budget.used(epoch)))
        share = self.final_share + (1.0 - self.final_share) * falls
        rises = min(1.0, (epoch + 1) / self.warmup_epochs)
        self.model.optimizer.learning_rate = self.peak * share * rises


class MetricsLog(keras.callbacks.Callback):
    """Writes one JSON line an epoch: step, seconds of training so far, losses.

    Args:
        path: the `.jsonl` file; lines are appended, so a resumed run goes on.
        steps_per_epoch: int.
        max_seconds: float or None. Training stops at the end of the epoch in which
            this much training time, earlier runs counted in, has been used.
    """

    def __init__(self, path: Path, steps_per_epoch: int, max_seconds: float | None = None):
        super().__init__()
        self.path = path
        self.steps_per_epoch = steps_per_epoch
        self.max_seconds = max_seconds
        self.seconds_before = 0.0
        self.waiting = []

    def on_train_begin(self, logs=None):
        last = read_metrics(self.path)[-1:]
        self.seconds_before = last[0].get("seconds", 0.0) if last else 0.0
        self.started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.seconds_before + time.monotonic() - self.started
        line = {"step": (epoch + 1) * self.steps_per_epoch, "seconds": round(seconds, 1)}
        line.update({name: float(value) for name, value in (logs or {}).items()})
        self.waiting.append(json.dumps(line) + "\n")
        self._write()
        shown = "  ".join(f"{k} {v:.4g}" for k, v in line.items() if k not in ("step", "seconds"))
        print(f"step {line['step']}  {seconds:.0f} s  {shown}", file=sys.stderr, flush=True)
        if self.max_seconds is not None and seconds >= self.max_seconds:
            self.model.stop_training = True

    def _write(self) -> None:
        """Appends what waits; where the disk is full it goes on waiting."""
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("".join(self.waiting))
            self.waiting = []
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, size)  # no half line
            warn(f"{self.path} could not be written ({error}); training on")


class TensorBoardLog(keras.callbacks.Callback):
    """Writes an epoch's losses and learning rate for TensorBoard, with `tensorboardX`.

    Args:
        folder: where the event files go. What a killed run wrote there after its last
            checkpoint, TensorBoard leaves out.
        steps_per_epoch: int.
        first_epoch: int. Epochs that earlier runs have finished.
    """

    def __init__(self, folder: Path, steps_per_epoch: int, first_epoch: int = 0):
        super().__init__()
        from tensorboardX import SummaryWriter

        self.steps_per_epoch = steps_per_epoch
        purged = first_epoch * steps_per_epoch + 1 if first_epoch else None
        self.writer = SummaryWriter(str(folder), purge_step=purged)

    def on_epoch_end(self, epoch, logs=None):
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        try:
            for name, value in {**(logs or {}), "learning_rate": rate}.items():
                self.writer.add_scalar(name, float(value), (epoch + 1) * self.steps_per_epoch)
            self.writer.flush()
        except OSError as error:
            warn(f"TensorBoard's files could not be written ({error}); training on")

    def on_train_end(self, logs=None):
        self.writer.close()


def read_metrics(path: str | Path) -> list[dict]:
    """The lines of a run's `metrics.jsonl`; empty where there is none yet.

    A last line that a killed run did not finish is left out.

    Raises:
        ValueError: another line is no JSON.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
        return [dict(json.loads(line)) for line in whole.splitlines() if line.strip()]
    except (ValueError, TypeError):
        raise ValueError(f"{path} is damaged; delete it, and the run goes on without.") from None


def truncate_log(path: str | Path, count: int) -> None:
    """Keeps the first `count` lines of a run's metrics: those up to its last checkpoint."""
    if Path(path).exists():
        lines = [json.dumps(line) + "\n" for line in read_metrics(path)[:count]]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")


class BestCheckpoint(keras.callbacks.Callback):
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


class PresetCheckpoint(keras.callbacks.Callback):
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


class CheckpointCallback(keras.callbacks.Callback):
    """Stores the state at the end of every epoch; comes last of all callbacks."""

    def __init__(self, checkpoints: Checkpoints):
        super().__init__()
        self.checkpoints = checkpoints

    def on_epoch_end(self, epoch, logs=None):
        self.checkpoints.save(self.model, epoch + 1)


def _averages_weights(optimizer) -> bool:
    """Whether it keeps moving averages of the weights (`use_ema`)."""
    return bool(getattr(getattr(optimizer, "inner_optimizer", optimizer), "use_ema", False))
