"""Run a model over the overlapping windows of long recordings."""

from collections.abc import Callable

import numpy as np
from keras import ops

from keras_speechssm.checks import to_int
from keras_speechssm.windows import (
    OVERLAP,
    TOKENIZER_WINDOW,
    merge_windows,
    plan_windows,
    slice_window,
)


def run_in_windows(
    run: Callable,
    signal: np.ndarray,
    num_tokens: int,
    size: int,
    windows_per_batch: int = 4,
    extra: int = 0,
    window: int = TOKENIZER_WINDOW,
    overlap: int = OVERLAP,
) -> np.ndarray:
    """Run a function over the windows of a signal and merge the results.

    Windows, overlaps, and the filling of a last window that is not full are those of the paper,
    see `keras_speechssm.windows`.

    Args:
        run: Takes (batch, window * size + extra) and returns (batch, window, ...).
        signal: Samples or tokens, (length,) or (batch, length).
        num_tokens: Length of the result.
        size: Values of the signal per token of the result.
        windows_per_batch: Windows that run at once at most. Defaults to `4`.
        extra: Values that a window needs beyond its end. Defaults to `0`.
        window: Length of a window in tokens. Defaults to `750`, 30 s at 25 Hz.
        overlap: Tokens that neighboring windows share. Defaults to `100`, 4 s at 25 Hz.

    Returns:
        (num_tokens, ...) or (batch, num_tokens, ...).

    Raises:
        ValueError: If `windows_per_batch` is below 1.
    """
    if to_int("windows_per_batch", windows_per_batch) < 1:
        raise ValueError(f"windows_per_batch must be at least 1, got {windows_per_batch}.")
    rows = np.atleast_2d(signal)
    plan = plan_windows(num_tokens, window, overlap)
    jobs = [(row, start) for row in rows for start, _, _ in plan]
    results = []
    while len(results) < len(jobs):
        # Powers of two: few shapes to compile, whatever the length.
        count = 1
        while 2 * count <= min(len(jobs) - len(results), windows_per_batch):
            count *= 2
        batch = jobs[len(results) : len(results) + count]
        windows = [slice_window(row, start * size, window * size + extra) for row, start in batch]
        results.extend(ops.convert_to_numpy(run(np.stack(windows))))
    merged = [
        merge_windows(results[first : first + len(plan)], plan)
        for first in range(0, len(jobs), len(plan))
    ]
    return merged[0] if signal.ndim == 1 else np.stack(merged)
