"""The record of a training run: one JSON line an epoch."""

import json
import sys
import time
from pathlib import Path

import keras


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

    def on_train_begin(self, logs=None):
        last = read_metrics(self.path)[-1:]
        self.seconds_before = last[0]["seconds"] if last else 0.0
        self.started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.seconds_before + time.monotonic() - self.started
        line = {"step": (epoch + 1) * self.steps_per_epoch, "seconds": round(seconds, 1)}
        line.update({name: float(value) for name, value in (logs or {}).items()})
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        shown = "  ".join(f"{k} {v:.4g}" for k, v in line.items() if k not in ("step", "seconds"))
        print(f"step {line['step']}  {seconds:.0f} s  {shown}", file=sys.stderr, flush=True)
        if self.max_seconds is not None and seconds >= self.max_seconds:
            self.model.stop_training = True


def read_metrics(path: str | Path) -> list[dict]:
    """The lines of a run's `metrics.jsonl`; empty where there is none yet."""
    path = Path(path)
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
