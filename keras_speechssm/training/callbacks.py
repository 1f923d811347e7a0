"""Callbacks of a training run: log, progress bar, schedule, checkpoints and presets."""

import contextlib
import json
import logging
import math
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
from tqdm import tqdm

from keras_speechssm.checks import first_line
from keras_speechssm.files import atomic_write, is_bucket, open_path
from keras_speechssm.training.checkpoints import Checkpoints
from keras_speechssm.training.distribution import (
    broadcast,
    is_first_process,
    num_processes,
    save_preset,
)
from keras_speechssm.training.sharded_checkpoints import ShardedCheckpoints

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Fraction of a run's steps, or of its time if that runs out first, that has passed.

    Attributes:
        output_dir: Folder of the run, for its `metrics.jsonl`.
        total_epochs: Epochs of the whole run.
        max_seconds: Training time of the whole run, or `None`.
    """

    output_dir: str | Path
    total_epochs: int
    max_seconds: float | None = None

    def metrics(self) -> list[dict]:
        """Read the lines of `metrics.jsonl`."""
        return read_metrics(open_path(self.output_dir) / "metrics.jsonl")

    def fraction(self, epochs: int) -> float:
        """Return the fraction of the run, 0 to 1, that its first `epochs` epochs took."""
        fraction = epochs / self.total_epochs
        lines = [] if self.max_seconds is None else self.metrics()[:epochs]
        if lines:
            seconds = lines[-1].get("seconds", 0.0)
            if seconds >= self.max_seconds:
                return 1.0
            fraction = max(fraction, seconds / self.max_seconds)
        return min(fraction, 1.0)


class TimeLimitedSchedule(keras.callbacks.Callback):
    """Moves the learning rate schedule forward when time runs out before the steps do.

    On a shared machine nobody knows how many steps fit into an hour, and a schedule that is cut
    off halfway leaves out its best part, the low learning rates. The warm-up is not moved.

    Args:
        lead: Variable of `StepSchedule`, in steps.
        progress: Progress of the run.
        steps_per_epoch: Steps per epoch.
        warmup_steps: Steps of the warm-up.
    """

    def __init__(
        self,
        lead: keras.Variable,
        progress: Progress,
        steps_per_epoch: int,
        warmup_steps: int = 0,
    ):
        super().__init__()
        self.lead = lead
        self.progress = progress
        self.steps_per_epoch = steps_per_epoch
        self.warmup_steps = warmup_steps

    def on_epoch_begin(self, epoch, logs=None):
        done = epoch * self.steps_per_epoch
        total = self.progress.total_epochs * self.steps_per_epoch
        lead = max(0.0, self.progress.fraction(epoch) * total - done)
        self.lead.assign(lead if done >= self.warmup_steps else 0.0)


class MetricsLog(keras.callbacks.Callback):
    """Appends one JSON line per epoch to a file: step, seconds of training, losses.

    Args:
        path: The `.jsonl` file.
        steps_per_epoch: Steps per epoch.
        max_seconds: Training stops at the end of the epoch in which this much training time,
            including earlier sessions, has passed. Defaults to `None`: no limit.
        earlier_seconds: Training time of earlier sessions, with that of an interrupted epoch.
            Defaults to `0.0`: that of the last line.
    """

    def __init__(
        self,
        path: Path,
        steps_per_epoch: int,
        max_seconds: float | None = None,
        earlier_seconds: float = 0.0,
    ):
        super().__init__()
        self.path = path
        self.steps_per_epoch = steps_per_epoch
        self.max_seconds = max_seconds
        self.earlier_seconds = earlier_seconds
        self.seconds_before = 0.0
        self.pending = []

    def on_train_begin(self, logs=None):
        last = read_metrics(self.path)[-1:]
        logged = last[0].get("seconds", 0.0) if last else 0.0
        self.seconds_before = max(logged, self.earlier_seconds)
        self.started = time.monotonic()

    def seconds(self) -> float:
        """Return the training time so far, including earlier sessions."""
        return self.seconds_before + time.monotonic() - self.started

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.seconds()
        line = {"step": (epoch + 1) * self.steps_per_epoch, "seconds": round(seconds, 1)}
        line.update({name: float(value) for name, value in (logs or {}).items()})
        self.pending.append(json.dumps(line) + "\n")
        if is_first_process():
            self._write()
        seconds = broadcast(seconds)  # and the others find the line
        shown = "  ".join(f"{k} {v:.4g}" for k, v in line.items() if k not in ("step", "seconds"))
        if is_first_process():
            logger.info("step %d  %.0f s  %s", line["step"], seconds, shown)
        if self.max_seconds is not None and seconds >= self.max_seconds:
            self.model.stop_training = True

    def _write(self) -> None:
        """Append the pending lines; they stay pending while the disk is full."""
        if is_bucket(self.path):  # where files can only be replaced
            lines = [json.dumps(line) + "\n" for line in read_metrics(self.path)]
            with atomic_write(self.path) as temporary:
                temporary.write_text("".join([*lines, *self.pending]), encoding="utf-8")
            self.pending = []
            return
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("".join(self.pending))
            self.pending = []
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, size)  # no partial line
            logger.warning("%s could not be written (%s); training continues.", self.path, error)


class ProgressBar(keras.callbacks.Callback):
    """Shows the steps, the time left and the loss, if the standard error is a terminal.

    Args:
        total_batches: Batches of the whole run.
        done_batches: Batches of earlier sessions.
    """

    def __init__(self, total_batches: int, done_batches: int = 0):
        super().__init__()
        self.total_batches = total_batches
        self.done_batches = done_batches

    @staticmethod
    def is_visible() -> bool:
        """Return whether the standard error is a terminal."""
        return sys.stderr is not None and sys.stderr.isatty()

    def on_train_begin(self, logs=None):
        self.bar = tqdm(total=self.total_batches, initial=self.done_batches, unit="batch")

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        self.bar.set_postfix(loss=f"{(logs or {}).get('loss', math.nan):.4g}")

    def on_train_end(self, logs=None):
        self.bar.close()


class TensorBoardLog(keras.callbacks.Callback):
    """Writes losses and learning rate per epoch for TensorBoard, using `tensorboardX`.

    `keras.callbacks.TensorBoard` needs TensorFlow; `tensorboardX` does not.

    Args:
        folder: Folder of the event files. TensorBoard ignores what a killed session wrote after
            its last checkpoint.
        steps_per_epoch: Steps per epoch.
        first_epoch: Epochs that earlier sessions have finished.
    """

    def __init__(self, folder: Path, steps_per_epoch: int, first_epoch: int = 0):
        super().__init__()
        from tensorboardX import SummaryWriter

        self.steps_per_epoch = steps_per_epoch
        purged = first_epoch * steps_per_epoch + 1 if first_epoch else None
        self.writer = SummaryWriter(str(folder), purge_step=purged)

    def on_epoch_end(self, epoch, logs=None):
        try:
            for name, value in _with_learning_rate(logs, self.model).items():
                self.writer.add_scalar(name, value, (epoch + 1) * self.steps_per_epoch)
            self.writer.flush()
        except OSError as error:
            logger.warning(
                "The TensorBoard files could not be written (%s); training continues.", error
            )

    def on_train_end(self, logs=None):
        self.writer.close()


class WandbLog(keras.callbacks.Callback):
    """Sends losses and learning rate per epoch to Weights & Biases.

    Args:
        run: The run that `wandb_run` started.
        steps_per_epoch: Steps per epoch.
    """

    def __init__(self, run, steps_per_epoch: int):
        super().__init__()
        self.run = run
        self.steps_per_epoch = steps_per_epoch

    def on_epoch_end(self, epoch, logs=None):
        values = _with_learning_rate(logs, self.model)
        self.run.log(values, step=(epoch + 1) * self.steps_per_epoch)


@contextlib.contextmanager
def wandb_run(output_dir: Path, project: str, about: dict) -> Iterator:
    """Start a run of Weights & Biases, or resume that of an earlier session.

    Args:
        output_dir: Folder of the training run. `wandb_run.txt` in it holds the id.
        project: Name of the project.
        about: What the session is run with.

    Raises:
        ValueError: If Weights & Biases does not start the run.
    """
    import wandb

    path = output_dir / "wandb_run.txt"
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(uuid.uuid4().hex, encoding="utf-8")
    try:
        run = wandb.init(
            project=project,
            id=path.read_text(encoding="utf-8"),
            name=output_dir.name,
            resume="allow",
            config=about,
            dir=None if is_bucket(output_dir) else str(output_dir),
        )
    except wandb.Error as error:
        raise ValueError(
            f"Weights & Biases did not start a run ({first_line(error)}); run `wandb login`, set "
            "WANDB_MODE=offline, or leave wandb_project out."
        ) from None
    exit_code = 1
    try:
        yield run
        exit_code = 0
    finally:
        run.finish(exit_code=exit_code)


def _with_learning_rate(logs: dict | None, model: keras.Model) -> dict[str, float]:
    rate = keras.ops.convert_to_numpy(model.optimizer.learning_rate)
    values = {**(logs or {}), "learning_rate": rate}
    return {name: float(value) for name, value in values.items()}


def read_metrics(path: str | Path) -> list[dict]:
    """Read the lines of a run's `metrics.jsonl`.

    Args:
        path: The file.

    Returns:
        One dict per epoch; an empty list if the file does not exist. An incomplete last line,
        which a killed session leaves, is ignored.

    Raises:
        ValueError: If another line is not JSON.
    """
    path = open_path(path)
    if not path.exists():
        return []
    try:
        complete, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
        return [dict(json.loads(line)) for line in complete.splitlines() if line.strip()]
    except (ValueError, TypeError):
        raise ValueError(f"{path} is damaged; delete it, and the run resumes without it.") from None


def truncate_log(path: str | Path, count: int) -> None:
    """Keep the first `count` lines of a run's `metrics.jsonl`."""
    if open_path(path).exists():
        lines = [json.dumps(line) + "\n" for line in read_metrics(path)[:count]]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")


class BestCheckpoint(keras.callbacks.Callback):
    """Saves the state whenever a logged value is the lowest so far, earlier sessions included.

    Args:
        checkpoints: Where to save.
        monitor: Name of the value.
        lines: Lines of `metrics.jsonl` so far.
        progress: Progress of the run.
        best_from: Fraction of the run before which nothing is saved. Defaults to `0.0`.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | ShardedCheckpoints,
        monitor: str,
        lines: Sequence[dict],
        progress: Progress,
        best_from: float = 0.0,
    ):
        super().__init__()
        self.checkpoints = checkpoints
        self.monitor = monitor
        self.progress = progress
        self.best_from = best_from
        values = [line.get(monitor) for number, line in enumerate(lines) if self._counts(number)]
        self.lowest = min((value for value in values if value is not None), default=None)

    def _counts(self, epoch: int) -> bool:
        return self.progress.fraction(epoch) >= self.best_from

    def on_epoch_end(self, epoch, logs=None):
        value = float(logs[self.monitor])
        is_best = self._counts(epoch) and (self.lowest is None or value < self.lowest)
        if is_best and self.checkpoints.save(self.model, epoch + 1, **{self.monitor: value}):
            self.lowest = value


class StopAtNaN(keras.callbacks.Callback):
    """Raises when a logged value is NaN or infinite. Must be the first callback.

    `keras.callbacks.TerminateOnNaN` reads the loss of every batch, which makes the accelerator
    wait, does not look at validation losses, and lets later callbacks save the bad state.

    Args:
        output_dir: Folder of the run, for the message.
    """

    def __init__(self, output_dir: str | Path):
        super().__init__()
        self.output_dir = output_dir

    def on_epoch_end(self, epoch, logs=None):
        wrong = [name for name, value in (logs or {}).items() if not math.isfinite(value)]
        if wrong:
            raise ValueError(
                f"{wrong[0]} is {logs[wrong[0]]} in epoch {epoch + 1}; lower the learning rate. "
                f"{self.output_dir} holds the state before this epoch."
            )


class PresetCheckpoint(keras.callbacks.Callback):
    """Saves a preset every so many steps, to choose from by the speech that they generate.

    Args:
        folder: Receives one folder per preset, such as `step-00000400`.
        every_steps: Steps between presets; they are saved at the ends of epochs.
        steps_per_epoch: Steps per epoch.
        exported: Model to save. Defaults to `None`: the trained model.
    """

    def __init__(
        self,
        folder: Path,
        every_steps: int,
        steps_per_epoch: int,
        exported: keras.Model | None = None,
    ):
        super().__init__()
        self.folder = folder
        self.every_steps = every_steps
        self.steps_per_epoch = steps_per_epoch
        self.exported = exported

    def on_epoch_end(self, epoch, logs=None):
        before, step = (number * self.steps_per_epoch for number in (epoch, epoch + 1))
        if before // self.every_steps == step // self.every_steps:
            return
        optimizer = self.model.optimizer
        weights = self.model.trainable_variables if averages_weights(optimizer) else []
        values = [keras.ops.copy(weight) for weight in weights]
        if weights:
            optimizer.finalize_variable_values(weights)  # the averages, for the preset only
        exported = self.model if self.exported is None else self.exported
        save_preset(exported, self.folder, f"step-{step:08d}")
        for weight, value in zip(weights, values, strict=True):
            weight.assign(value)


class CheckpointCallback(keras.callbacks.Callback):
    """Saves the state at the end of every epoch. Must be the last callback.

    Args:
        checkpoints: Where to save.
    """

    def __init__(self, checkpoints: Checkpoints | ShardedCheckpoints):
        super().__init__()
        self.checkpoints = checkpoints

    def on_epoch_end(self, epoch, logs=None):
        logged = {name: float(value) for name, value in (logs or {}).items()}
        self.checkpoints.save(self.model, epoch + 1, logs=logged)


class SaveWhenInterrupted(keras.callbacks.Callback):
    """Saves the state after the batch in which SIGTERM came, and ends the training.

    Clusters send it before they take a machine away. When several processes train together, JAX
    finds the batch that all of them stop after.

    Args:
        checkpoints: Where to save.
        log: Knows the training time.
        skipped: Batches of the first epoch that an earlier session has trained on.
    """

    def __init__(
        self, checkpoints: Checkpoints | ShardedCheckpoints, log: MetricsLog, skipped: int = 0
    ):
        super().__init__()
        self.checkpoints = checkpoints
        self.log = log
        self.skipped = skipped
        self.has_signal = False
        self._batches = 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Catch the signal during the block."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        if num_processes() > 1 or not in_main_thread:  # JAX has a handler; threads have none
            yield
            return

        def note(number, frame):
            self.has_signal = True

        before = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _must_stop(self) -> bool:
        if num_processes() == 1 or self.has_signal:
            return self.has_signal
        from jax.experimental import multihost_utils

        self._batches += 1
        return multihost_utils.reached_preemption_sync_point(self._batches)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.has_signal = self._must_stop()
        if not self.has_signal or batch + 1 == self.params["steps"]:
            return  # after the last batch of an epoch the state is saved anyway
        model = self.model  # reads the state back from the compiled step
        done = self.skipped + batch + 1
        metrics = [keras.ops.convert_to_numpy(v).tolist() for v in model.metrics_variables]
        about = {"batch": done, "metrics": metrics, "seconds": self.log.seconds()}
        self.checkpoints.save(model, self.epoch, **about)
        self.checkpoints.wait()
        raise KeyboardInterrupt(f" after batch {done} of epoch {self.epoch + 1}, which is saved")

    def on_epoch_end(self, epoch, logs=None):
        self.skipped = 0


class ValidateAverages(keras.callbacks.SwapEMAWeights):
    """Validates the moving averages of the weights, also if several processes share them."""

    def _backend_swap_variables(self, optimizer):
        # Keras holds the weights as NumPy arrays, but a process has only a part of them.
        averages = optimizer._model_variables_moving_average
        for weight, average in zip(optimizer._trainable_variables, averages, strict=True):
            kept = keras.ops.copy(weight)
            weight.assign(average)
            average.assign(kept)


class RestoreMetrics(keras.callbacks.Callback):
    """Sets the metrics to those of an epoch that was interrupted.

    Args:
        about: What the checkpoints' `restore` returned.
    """

    def __init__(self, about: dict):
        super().__init__()
        self.values = about.get("metrics", [])

    def on_epoch_begin(self, epoch, logs=None):
        for variable, value in zip(self.model.metrics_variables, self.values, strict=False):
            variable.assign(value)
        self.values = []


def averages_weights(optimizer: keras.optimizers.Optimizer) -> bool:
    """Return whether an optimizer keeps moving averages of the weights (`use_ema`)."""
    return bool(getattr(getattr(optimizer, "inner_optimizer", optimizer), "use_ema", False))
