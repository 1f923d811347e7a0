"""Whether one hears where synthesis windows meet (paper, appendix A.2).

Windows of 5 s centerd on boundaries against windows centerd between them: the same measures
on both. Besides the opinion score there are the jumps right at the place, which a window's mean
would hide.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.audio.mel import mel_filters
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.evaluation.metrics.confidence_intervals import mean_interval
from keras_speechssm.evaluation.models.mean_opinion_score import DNSMOSPredictor, MOSPredictor
from keras_speechssm.pipeline import FIRST_WINDOW
from keras_speechssm.shapes import SAMPLE_RATE, TOKEN_RATE
from keras_speechssm.windows import OVERLAP, SYNTHESIS_WINDOW, StreamingWindows

STUDY_SECONDS = 5.0
_SIDE_SECONDS = 0.25
_FFT = 1024


def synthesis_boundaries(
    seconds: float,
    window: int = SYNTHESIS_WINDOW,
    overlap: int = OVERLAP,
    first_window: int = FIRST_WINDOW,
) -> list[float]:
    """Where the windows of a continuation meet, in seconds from its start.

    Args:
        seconds: length of the continuation.
        window, overlap, first_window: tokens, as in `SpeechContinuation`.
    """
    windows = StreamingWindows(window, overlap, first_window)
    plan = windows.feed(round(seconds * TOKEN_RATE))
    ends = [keep_end / TOKEN_RATE for _, _, keep_end in plan]
    return [end for end in ends if end < seconds]


def level_jump(waveform: np.ndarray, place: float) -> float:
    """Difference in dB between the 0.25 s before and after a place in seconds."""
    before, after = _sides(waveform, place)
    return abs(_level(after) - _level(before))


def spectral_jump(waveform: np.ndarray, place: float) -> float:
    """Mean absolute difference of the log-mel spectra of the 0.25 s before and after a place.

    Levels are taken out: what is left is a change of sound, in natural logarithms.
    """
    spectra = [_log_mel(side) for side in _sides(waveform, place)]
    before, after = (spectrum - spectrum.mean() for spectrum in spectra)
    return float(np.abs(after - before).mean())


def _sides(waveform: np.ndarray, place: float) -> tuple[np.ndarray, np.ndarray]:
    middle, side = round(place * SAMPLE_RATE), round(_SIDE_SECONDS * SAMPLE_RATE)
    return waveform[middle - side : middle], waveform[middle : middle + side]


def _level(samples: np.ndarray) -> float:
    return 10.0 * float(np.log10(np.mean(np.asarray(samples, "float64") ** 2) + 1e-6))


def _log_mel(samples: np.ndarray) -> np.ndarray:
    starts = range(0, len(samples) - _FFT + 1, _FFT // 4)
    frames = np.stack([samples[start : start + _FFT] for start in starts]) * np.hanning(_FFT)
    power = (np.abs(np.fft.rfft(frames, axis=-1)) ** 2).mean(axis=0)
    return np.log(power @ mel_filters(40, _FFT) + 1e-4)


def boundary_study(
    continuations: Iterable[tuple[np.ndarray, Sequence[float]]],
    predict: MOSPredictor | None = None,
) -> dict:
    """The same measures at boundaries and half way between them.

    Boundaries of one recording are not independent of each other: a recording counts as its
    means, and the difference is taken within it.

    Args:
        continuations: a waveform float (samples,) and its boundaries each, those from
            `synthesis_boundaries`. Others than those with two boundaries are left out.
        predict: of opinion scores; `None` leaves them out.

    Returns:
        `{"boundary": measures, "center": measures, "difference": of boundary and center,
        "num_boundaries", "num_centres", "num_recordings"}`, measures being `{measure: interval}`
        of `level_jump_db`, `spectral_jump` and `mos`, as `confidence.mean_interval` gives them
        over the recordings.

    Raises:
        ValueError: no recording has two boundaries.
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
        raise ValueError(
            "No continuation is long enough for two boundaries; give a minute or more."
        )
    report: dict = {
        kind: {name: mean_interval([row[kind][name] for row in rows]) for name in rows[0][kind]}
        for kind in rows[0]
    }
    numbers = {"num_boundaries": counts["boundary"], "num_centres": counts["center"]}
    return {**report, **numbers, "num_recordings": len(rows)}


def _places(seconds: float, boundaries: Sequence[float]) -> dict[str, list[float]]:
    """Boundaries with room around them, and what lies half way between two."""
    half = STUDY_SECONDS / 2
    return {
        "boundary": [place for place in boundaries if half <= place <= seconds - half],
        "center": [(a + b) / 2 for a, b in zip(boundaries[:-1], boundaries[1:], strict=True)],
    }


def _measure(
    waveform: np.ndarray, places: Sequence[float], predict: MOSPredictor | None
) -> dict[str, list[float]]:
    measures = {
        "level_jump_db": [level_jump(waveform, place) for place in places],
        "spectral_jump": [spectral_jump(waveform, place) for place in places],
    }
    if predict is not None:
        measures["mos"] = [predict(_window(waveform, place)) for place in places]
    return measures


def _window(waveform: np.ndarray, place: float) -> np.ndarray:
    start = round((place - STUDY_SECONDS / 2) * SAMPLE_RATE)
    return waveform[max(start, 0) : start + round(STUDY_SECONDS * SAMPLE_RATE)]


def evaluate_boundaries(
    audio_folders: Sequence[str | Path],
    *,
    window: int = SYNTHESIS_WINDOW,
    overlap: int = OVERLAP,
    first_window: int = FIRST_WINDOW,
    limit: int | None = None,
) -> dict:
    """Level, spectrum and opinion score where synthesis windows meet, and between.

    Args:
        audio_folders: continuations of this package, without their prompts.
        window, overlap, first_window: tokens, as they were made with.
        limit: only the first so many files.
    """
    check_at_least(1, limit=limit)
    continuations = (
        (waveform, synthesis_boundaries(len(waveform) / SAMPLE_RATE, window, overlap, first_window))
        for waveform in map(read_audio, find_audio(audio_folders)[:limit])
    )
    return boundary_study(continuations, DNSMOSPredictor())
