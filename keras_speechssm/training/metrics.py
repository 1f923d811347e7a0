"""The record of a training run: one JSON line an epoch."""

import json
import os
import sys
import time
from pathlib import Path

import keras

from keras_speechssm.whole_files import whole_file


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


def keep_lines(path: str | Path, count: int) -> None:
    """Keeps the first `count` lines of a run's metrics: those up to its last checkpoint."""
    if Path(path).exists():
        lines = [json.dumps(line) + "\n" for line in read_metrics(path)[:count]]
        with whole_file(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")


def warn(line: str) -> None:
    """Tells of a mishap that a run survives."""
    print(f"speechssm: {line}.", file=sys.stderr, flush=True)
