"""Training runs that are killed during their last epoch, without waiting for a kill."""

import shutil
from pathlib import Path

import numpy as np

from keras_speechssm.training.callbacks import read_metrics


def verify_last_epoch_is_repeated(run: Path, train) -> None:
    """`train()` again, after the last epoch was lost: each loss is that of the unbroken run."""
    whole = read_metrics(run / "metrics.jsonl")
    for folder in ("checkpoints", "best"):
        shutil.rmtree(run / folder / f"epoch-{len(whole):05d}", ignore_errors=True)
    train()
    found = read_metrics(run / "metrics.jsonl")
    assert len(found) == len(whole) > 1
    for line, expected in zip(found, whole, strict=True):
        assert line.keys() == expected.keys()
        for name in set(line) - {"seconds"}:
            np.testing.assert_allclose(line[name], expected[name], rtol=1e-4, err_msg=name)
