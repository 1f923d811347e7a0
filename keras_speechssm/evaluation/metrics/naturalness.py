"""Mean opinion scores over time: N-MOS and N-MOS-T of the paper (section 7.2).

N-MOS is the score of a whole continuation of some seconds, N-MOS-T that of 5 s in each minute of
a long one. Scores come from a predictor of `models.mos` or from people (`listening_test`).
"""

import itertools
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from keras_speechssm.shapes import SAMPLE_RATE

SPAN_SECONDS = 5.0

LONGEST_FOURTH_MINUTE = 255.0
"""Up to here the fourth minute extends to the end (t_max in the paper); else minutes follow."""


def minute_spans(
    name: str, prompt_seconds: float, end_seconds: float
) -> list[tuple[float, float] | None]:
    """Draw the 5 s of each minute that are judged, the same for every system.

    There is one span in each of [prompt, 60], [60, 120], [120, 180], [180, end] and, beyond four
    minutes, in each further minute. Times count from the start of the prompt, as in the paper.

    Args:
        name: Name of the item; the same name gives the same spans, whatever else is judged.
        prompt_seconds: Length of the prompt.
        end_seconds: End of the shortest audio that is compared: the ground truth's, or the
            generation's.

    Returns:
        (start, end) in seconds for each minute, at least four entries; `None` where a minute
        has less than 5 s.
    """
    past = max(0.0, end_seconds - LONGEST_FOURTH_MINUTE)
    minutes = 4 + int(np.ceil(past / 60.0))
    edges = [prompt_seconds, *(60.0 * minute for minute in range(1, minutes)), end_seconds]
    random = np.random.default_rng((0, zlib.crc32(name.encode())))
    spans: list[tuple[float, float] | None] = []
    for start, stop in itertools.pairwise(edges):
        draw = float(random.random())  # drawn in any case, so that later spans do not shift
        room = min(stop, end_seconds) - max(start, prompt_seconds) - SPAN_SECONDS
        if room < -1e-6:
            spans.append(None)
            continue
        begin = max(start, prompt_seconds) + draw * max(room, 0.0)
        spans.append((begin, begin + SPAN_SECONDS))
    return spans


def naturalness_over_time(
    continuation: np.ndarray,
    spans: Sequence[tuple[float, float] | None],
    prompt_seconds: float,
    predict: Callable[[np.ndarray], float],
) -> list[float | None]:
    """Predict the opinion score of each minute's span.

    Args:
        continuation: float (samples,), without the prompt.
        spans: Spans from `minute_spans`, in seconds from the start of the prompt.
        prompt_seconds: Length of the prompt.
        predict: A `MOSPredictor`.

    Returns:
        One score per span: `None` where there is no span, and 1.0, the worst, where the system
        had stopped speaking by then.
    """
    scores: list[float | None] = []
    for span in spans:
        if span is None:
            scores.append(None)
            continue
        start, stop = (round((second - prompt_seconds) * SAMPLE_RATE) for second in span)
        clip = continuation[start:stop]
        scores.append(float(predict(clip)) if len(clip) >= (stop - start) // 2 else 1.0)
    return scores
