"""Whether one hears where synthesis windows meet (paper, appendix A.2).

Windows of 5 s centred on boundaries against windows centred between them: the same measures
on both. Besides the opinion score there are the jumps right at the place, which a window's mean
would hide.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio import read_audio
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.evaluation.confidence import mean_interval
from keras_speechssm.evaluation.naturalness import DNSMOSPredictor, MOSPredictor
from keras_speechssm.mel import mel_filters
from keras_speechssm.pipeline import FIRST_WINDOW
from keras_speechssm.shapes import SAMPLE_RATE, TOKEN_RATE
from keras_speechssm.training.option_checks import check_at_least
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
    waveforms: Sequence[np.ndarray],
    boundaries: Sequence[Sequence[float]],
    predict: MOSPredictor | None = None,
) -> dict:
    """The same measures at boundaries and half way between them.

    Args:
        waveforms: continuations, float (samples,) each.
        boundaries: of each, from `synthesis_boundaries`.
        predict: of opinion scores; `None` leaves them out.

    Returns:
        `{"boundary": measures, "centre": measures}`, each `{measure: interval}` of
        `level_jump_db`, `spectral_jump` and `mos`, as `confidence.mean_interval` gives them.
    """
    places: dict[str, list[tuple[int, float]]] = {"boundary": [], "centre": []}
    for number, found in enumerate(boundaries):
        end = len(waveforms[number]) / SAMPLE_RATE
        inside = [b for b in found if STUDY_SECONDS / 2 <= b <= end - STUDY_SECONDS / 2]
        places["boundary"] += [(number, place) for place in inside]
        centres = [(a + b) / 2 for a, b in zip(found[:-1], found[1:], strict=True)]
        places["centre"] += [(number, place) for place in centres]
    if not places["centre"] or not places["boundary"]:
        raise ValueError(
            "No continuation is long enough for two boundaries; give a minute or more."
        )
    report: dict = {}
    for kind, found in places.items():
        measures = {
            "level_jump_db": [level_jump(waveforms[n], place) for n, place in found],
            "spectral_jump": [spectral_jump(waveforms[n], place) for n, place in found],
        }
        if predict is not None:
            measures["mos"] = [predict(_window(waveforms[n], place)) for n, place in found]
        report[kind] = {name: mean_interval(values) for name, values in measures.items()}
    return report


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
    waveforms = [read_audio(path) for path in find_audio(audio_folders)[:limit]]
    boundaries = [
        synthesis_boundaries(len(waveform) / SAMPLE_RATE, window, overlap, first_window)
        for waveform in waveforms
    ]
    return boundary_study(waveforms, boundaries, DNSMOSPredictor())
