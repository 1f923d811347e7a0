"""Audibility of the boundaries between synthesis windows (paper, appendix A.2).

The same measures are taken on windows of 5 s around boundaries and around the centers between
them: an opinion score, and the jumps at the place itself, which a mean over 5 s would hide.
"""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.audio.mel import log_mel, spectrogram
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.evaluation.metrics.confidence_intervals import mean_interval
from keras_speechssm.evaluation.models.mean_opinion_score import (
    DNSMOS,
    MOSPredictor,
    load_mos_predictor,
)
from keras_speechssm.shapes import SAMPLE_RATE, TOKEN_RATE
from keras_speechssm.windows import OVERLAP, SYNTHESIS_WINDOW, StreamingWindows

STUDY_SECONDS = 5.0

_SIDE_SECONDS = 0.25
_FFT = 1024


def evaluate_boundaries(
    audio_folders: Sequence[str | Path],
    *,
    window: int = SYNTHESIS_WINDOW,
    overlap: int = OVERLAP,
    first_windows: Sequence[int] = (),
    mos_predictor: str = DNSMOS,
    limit: int | None = None,
) -> dict:
    """Compare level, spectrum and opinion score at window boundaries with those between them.

    Args:
        audio_folders: Continuations of this package, without their prompts.
        window: Tokens per synthesis window, as the continuations were made with.
        overlap: Tokens that neighboring windows share.
        first_windows: Tokens of the first windows. Defaults to none, the paper's plan, as in
            `evaluate generate`; `100 200 400` are the growing windows of `continue`.
        mos_predictor: `dnsmos` or `distillmos`.
        limit: Use only the first files.

    Returns:
        See `compare_boundaries`.
    """
    check_at_least(1, limit=limit)
    continuations = (
        (
            waveform,
            synthesis_boundaries(len(waveform) / SAMPLE_RATE, window, overlap, first_windows),
        )
        for waveform in map(read_audio, find_audio(audio_folders)[:limit])
    )
    return compare_boundaries(continuations, load_mos_predictor(mos_predictor))


def synthesis_boundaries(
    seconds: float,
    window: int = SYNTHESIS_WINDOW,
    overlap: int = OVERLAP,
    first_windows: Sequence[int] = (),
) -> list[float]:
    """Compute where the windows of a continuation meet, in seconds from its start.

    Args:
        seconds: Length of the continuation.
        window: Tokens per synthesis window, as in `SpeechContinuation`.
        overlap: Tokens that neighboring windows share.
        first_windows: Tokens of the first windows.
    """
    windows = StreamingWindows(window, overlap, first_windows)
    plan = windows.feed(round(seconds * TOKEN_RATE))
    ends = [keep_end / TOKEN_RATE for _, _, keep_end in plan]
    return [end for end in ends if end < seconds]


def level_jump(waveform: np.ndarray, place: float) -> float:
    """Difference in dB between the 0.25 s before and after a place in seconds."""
    before, after = (
        10.0 * float(np.log10(np.mean(np.asarray(side, "float64") ** 2) + 1e-6))
        for side in _sides(waveform, place)
    )
    return abs(after - before)


def spectral_jump(waveform: np.ndarray, place: float) -> float:
    """Mean absolute difference of the log-mel spectra of the 0.25 s before and after a place.

    Levels are removed, so that it measures a change of sound, in natural logarithms.
    """
    spectra = []
    for side in _sides(waveform, place):
        power = spectrogram(side, _FFT, _FFT // 4, power=2.0).mean(axis=0)
        spectrum = log_mel(power, 40, floor=1e-4)
        spectra.append(spectrum - spectrum.mean())
    before, after = spectra
    return float(np.abs(after - before).mean())


def compare_boundaries(
    continuations: Iterable[tuple[np.ndarray, Sequence[float]]],
    predict: MOSPredictor | None = None,
) -> dict:
    """Take the same measures at boundaries and at the centers between them.

    The boundaries of one recording are not independent: each recording counts as its means, and
    the difference is taken within it.

    Args:
        continuations: Waveforms float (samples,), each with its boundaries from
            `synthesis_boundaries`. Those with fewer than two boundaries are not used.
        predict: Predictor of opinion scores. Defaults to `None`: no scores.

    Returns:
        `boundary`, `center`, and `difference` of the two: for each measure (`level_jump_db`,
        `spectral_jump`, `mos`) its interval over the recordings; `num_boundaries`,
        `num_centers`, `num_recordings`.

    Raises:
        ValueError: No recording has two boundaries.
    """
    rows, counts = [], {"boundary": 0, "center": 0}
    for waveform, boundaries in continuations:
        places = _places(len(waveform) / SAMPLE_RATE, boundaries)
        if not all(places.values()):
            continue
        row = {
            kind: {n: float(np.mean(v)) for n, v in _measure(waveform, found, predict).items()}
            for kind, found in places.items()
        }
        row["difference"] = {n: row["boundary"][n] - row["center"][n] for n in row["center"]}
        rows.append(row)
        for kind, found in places.items():
            counts[kind] += len(found)
    if not rows:
        raise ValueError("No continuation has two boundaries; use continuations of a minute.")
    report: dict = {
        kind: {name: mean_interval([row[kind][name] for row in rows]) for name in rows[0][kind]}
        for kind in rows[0]
    }
    numbers = {"num_boundaries": counts["boundary"], "num_centers": counts["center"]}
    return {**report, **numbers, "num_recordings": len(rows)}


def _sides(waveform: np.ndarray, place: float) -> tuple[np.ndarray, np.ndarray]:
    middle, side = round(place * SAMPLE_RATE), round(_SIDE_SECONDS * SAMPLE_RATE)
    return waveform[middle - side : middle], waveform[middle : middle + side]


def _places(seconds: float, boundaries: Sequence[float]) -> dict[str, list[float]]:
    """Boundaries with room around them, and the centers between two boundaries."""
    half = STUDY_SECONDS / 2
    return {
        "boundary": [place for place in boundaries if half <= place <= seconds - half],
        "center": [(a + b) / 2 for a, b in itertools.pairwise(boundaries)],
    }


def _measure(
    waveform: np.ndarray, places: Sequence[float], predict: MOSPredictor | None
) -> dict[str, list[float]]:
    measures = {
        "level_jump_db": [level_jump(waveform, place) for place in places],
        "spectral_jump": [spectral_jump(waveform, place) for place in places],
    }
    if predict is not None:
        starts = [max(0, round((place - STUDY_SECONDS / 2) * SAMPLE_RATE)) for place in places]
        length = round(STUDY_SECONDS * SAMPLE_RATE)
        measures["mos"] = [predict(waveform[start : start + length]) for start in starts]
    return measures
