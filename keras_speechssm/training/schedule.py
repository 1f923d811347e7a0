"""The learning rate of a run, by the steps or the seconds that it may take."""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_speechssm.training.metrics import read_metrics


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
