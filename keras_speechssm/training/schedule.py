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
        lines = self.metrics()[:epochs]
        if self.max_seconds and lines:
            used = max(used, lines[-1]["seconds"] / self.max_seconds)
        return min(used, 1.0)


class LearningRate(keras.callbacks.Callback):
    """Raises the learning rate over five epochs, then lowers it along a cosine to 2 %.

    Args:
        budget: what the run may use.
        peak: float. Highest learning rate.
    """

    def __init__(self, budget: Budget, peak: float):
        super().__init__()
        self.budget = budget
        self.peak = peak

    def on_epoch_begin(self, epoch, logs=None):
        share = 0.02 + 0.49 * (1.0 + np.cos(np.pi * self.budget.used(epoch)))
        self.model.optimizer.learning_rate = self.peak * share * min(1.0, (epoch + 1) / 5)
