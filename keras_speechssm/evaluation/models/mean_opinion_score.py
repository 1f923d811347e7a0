"""How natural speech sounds, and whether that lasts: N-MOS and N-MOS-T (paper, section 7.2).

A predictor has a `name` and gives a mean opinion score, 1 .. 5, for a waveform. DNSMOS (from
the package `speechmos`, offline) was made for noise suppression: it hears noise and distortion,
not prosody, and says nothing of content. People's ratings come by `listening_test.py`.
N-MOS is of a whole continuation of some seconds, N-MOS-T of 5 s in each minute of a long one.
"""

import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from keras_speechssm.shapes import SAMPLE_RATE

SPAN_SECONDS = 5.0

LONGEST_FOURTH_MINUTE = 255.0
"""Up to here the fourth minute goes on to the end (t_max in the paper); else minutes follow."""


class MOSPredictor(Protocol):
    """Waveform float32 (samples,) at 16 kHz -> opinion score, 1 .. 5."""

    name: str

    def __call__(self, waveform: np.ndarray) -> float: ...


class DNSMOSPredictor:
    """The overall score of DNSMOS P.835 (Reddy et al. 2022). Clips below 9 s are repeated."""

    name = "dnsmos"

    def __init__(self):
        from speechmos import dnsmos

        self._run = dnsmos.run

    def __call__(self, waveform: np.ndarray) -> float:
        waveform = np.clip(np.asarray(waveform, "float32"), -1.0, 1.0)
        if not len(waveform):
            raise ValueError("A MOS predictor needs audio; the waveform is empty.")
        return float(self._run(waveform, SAMPLE_RATE)["ovrl_mos"])


def minute_spans(
    name: str, prompt_seconds: float, end_seconds: float
) -> list[tuple[float, float] | None]:
    """The 5 s of each minute that are judged, the same for every system.

    One span lies in each of [prompt, 60], [60, 120], [120, 180], [180, end] and, past four
    minutes, in each minute after: times count from the start of the prompt, as the paper's do.

    Args:
        name: of the item; the same name gives the same spans whatever else is judged.
        prompt_seconds: length of the prompt.
        end_seconds: where the shortest of what is compared ends: the ground truth, or the
            generation's length.

    Returns:
        (start, end) in seconds for each minute, at least four entries; `None` where less than
        5 s lie in a minute.
    """
    past = max(0.0, end_seconds - LONGEST_FOURTH_MINUTE)
    minutes = 4 + int(np.ceil(past / 60.0))
    edges = [prompt_seconds, *(60.0 * minute for minute in range(1, minutes)), end_seconds]
    random = np.random.default_rng((0, zlib.crc32(name.encode())))
    spans: list[tuple[float, float] | None] = []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        draw = float(random.random())  # drawn in any case: an item's spans do not shift
        room = min(stop, end_seconds) - max(start, prompt_seconds) - SPAN_SECONDS
        if room < -1e-6:
            spans.append(None)
            continue
        begins = max(start, prompt_seconds) + draw * max(room, 0.0)
        spans.append((begins, begins + SPAN_SECONDS))
    return spans


def naturalness_over_time(
    continuation: np.ndarray,
    spans: Sequence[tuple[float, float] | None],
    prompt_seconds: float,
    predict: MOSPredictor,
) -> list[float | None]:
    """Predicted opinion of each minute's span.

    Args:
        continuation: float (samples,), without the prompt.
        spans: from `minute_spans`, in seconds from the start of the prompt.
        prompt_seconds: length of the prompt.
        predict: such as `DNSMOSPredictor()`.

    Returns:
        One score a span; `None` where there is no span, and 1.0, the worst, where the system
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
