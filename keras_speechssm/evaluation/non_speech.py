"""Share of non-speech over time: noise and hum that are not silent are no speech either."""

import numpy as np


def share_outside(turns: list[tuple[float, float]], duration: float, seconds: float) -> list[float]:
    """Share of each stretch of time that no turn covers.

    Args:
        turns: (start, end) in seconds, in order, without overlap.
        duration: of the whole, in seconds.
        seconds: length of a stretch.
    """
    shares = []
    for start in np.arange(0.0, duration, seconds):
        stop = min(start + seconds, duration)
        covered = sum(max(0.0, min(stop, end) - max(start, begin)) for begin, end in turns)
        shares.append(float(1.0 - covered / (stop - start)))
    return shares
