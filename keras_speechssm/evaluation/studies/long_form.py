"""Long continuations minute by minute: silence, repetition, voice and naturalness."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import name_recordings
from keras_speechssm.data.segmentation import speech_turns
from keras_speechssm.data.speaker_embedding import open_speaker_embedder
from keras_speechssm.evaluation.generate import check_options
from keras_speechssm.evaluation.metrics.confidence_intervals import CONFIDENCE, mean_interval
from keras_speechssm.evaluation.metrics.repetition import entropy, repeated_fraction
from keras_speechssm.evaluation.metrics.silence import silence_fraction
from keras_speechssm.evaluation.metrics.token_agreement import without_repeats
from keras_speechssm.evaluation.models.mean_opinion_score import (
    MOSPredictor,
    installed_mos_predictors,
    load_mos_predictor,
)
from keras_speechssm.evaluation.report import plot_curves
from keras_speechssm.evaluation.tables import markdown_table
from keras_speechssm.files import atomic_write, cached_json, checksum, write_json
from keras_speechssm.models import SemanticTokenizer
from keras_speechssm.presets import DEFAULT_PRESET, fetch_folder, fingerprint
from keras_speechssm.shapes import SAMPLE_RATE, TOKEN_RATE

logger = logging.getLogger(__name__)

MINUTE = 60

MEASURES = ("silence_fraction", "repeated_4_grams", "token_entropy", "speaker_similarity")
"""Measures of a minute; the names of the MOS predictors follow."""

# Raise it whenever a measure changes, so that cached measures are not used.
_DEFINITIONS = 2


def evaluate_long_form(
    continuation_folder: str | Path,
    benchmark_folder: str | Path,
    output_folder: str | Path,
    *,
    preset: str = DEFAULT_PRESET,
    prompt_seconds: float = 10.0,
    mos_predictors: Sequence[str] = (),
    skipped_minutes: int = 4,
    table_minutes: int = 1,
    confidence: float = CONFIDENCE,
) -> dict:
    """Measure continuations minute by minute, next to the true continuations.

    Writes `long-form.json`, `long-form.md`, a PNG per measure, and the measures of each
    recording, with which an interrupted run resumes.

    Args:
        continuation_folder: Output of `speechssm evaluate generate`, without prompts.
        benchmark_folder: The recordings that were continued.
        output_folder: Folder to write.
        preset: Preset whose tokenizer counts repetitions.
        prompt_seconds: Length of the prompts.
        mos_predictors: `dnsmos`, `distillmos` or both. Defaults to those that are installed.
        skipped_minutes: Number of first minutes that do not count for the trends.
        table_minutes: Minutes per column of the table in `long-form.md`.
        confidence: Confidence level of the intervals, between 0 and 1.

    Returns:
        `continuation` and `truth`, per measure the intervals of each minute over the recordings;
        `trends`, per measure the interval of the slopes per minute of the continuations;
        `extremes`, per kind and measure the lowest and highest single minute; `num_recordings`
        and `confidence`. A recording that stops early is missing in later minutes. Trends need
        three minutes after the skipped ones.

    Raises:
        ValueError: A continuation has no recording or is shorter than a second, the folder was
            generated with other prompts, or an option is out of range.
    """
    check_at_least(0.5, prompt_seconds=prompt_seconds)
    check_at_least(0, skipped_minutes=skipped_minutes)
    check_at_least(1, table_minutes=table_minutes)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1.")
    check_options(continuation_folder, prompt_seconds, 0.0)
    output = Path(output_folder)
    if output.is_file():
        raise ValueError(f"The output folder {output} is a file; choose another name.")
    recordings = name_recordings([benchmark_folder])
    continuations = name_recordings([continuation_folder])
    if unknown := sorted(set(continuations) - set(recordings)):
        raise ValueError(
            f"{continuations[unknown[0]]} has no recording of this name in {benchmark_folder}."
        )
    predictors = {
        name: load_mos_predictor(name) for name in mos_predictors or installed_mos_predictors()
    }
    tokenizer = SemanticTokenizer.from_preset(preset)
    tokenizer_weights = fingerprint(fetch_folder(preset, SemanticTokenizer.preset_part))
    measure = partial(
        measure_minutes,
        tokenize=tokenizer.tokenize,
        embed=open_speaker_embedder(),
        predictors=predictors,
    )
    rows: dict[str, list[dict]] = {"continuation": [], "truth": []}
    for number, (name, path) in enumerate(continuations.items(), start=1):
        logger.info("%d of %d: %s", number, len(continuations), name)
        key = {
            "definitions": _DEFINITIONS,
            "tokenizer": tokenizer_weights,
            "predictors": sorted(predictors),
            "prompt_seconds": prompt_seconds,
            "files": [checksum(recordings[name]), checksum(path)],
        }
        measured = cached_json(
            output / "items" / f"{name}.json",
            key,
            partial(_measure, recordings[name], path, prompt_seconds, measure),
        )
        for kind, found in measured.items():
            rows[kind].append(found)
    report = summarize_minutes(rows, skipped_minutes, confidence)
    if not report["trends"]["silence_fraction"]["num"]:
        logger.warning(
            "No continuation has %d complete minutes, so there are no trends; reduce "
            "skipped_minutes.",
            skipped_minutes + 3,
        )
    write_json(output / "long-form.json", report)
    with atomic_write(output / "long-form.md") as temporary:
        temporary.write_text(minutes_table(report, table_minutes), encoding="utf-8")
    for measure_name in report["trends"]:
        curves = {kind: report[kind][measure_name] for kind in rows if report[kind][measure_name]}
        with atomic_write(output / f"{measure_name}.png") as temporary:
            title = measure_name.replace("_", " ")
            temporary.write_bytes(plot_curves(curves, title, "minute"))
    return report


def measure_minutes(
    prompt: np.ndarray,
    continuation: np.ndarray,
    tokenize: Callable[[np.ndarray], np.ndarray],
    embed: Callable[[np.ndarray], np.ndarray],
    predictors: Mapping[str, MOSPredictor],
) -> dict[str, list[float | None]]:
    """Measure each complete minute of a continuation, or all of one that is shorter.

    A minute without speech has no voice, `None`, and the worst opinion score, 1.

    Args:
        prompt: float (samples,) at 16 kHz.
        continuation: float (samples,) at 16 kHz.
        tokenize: Function from a waveform to semantic tokens (time,).
        embed: Function from a waveform to the unit vector of its voice.
        predictors: MOS predictors by name.

    Returns:
        A value per minute for each measure: the fraction of silent frames; the fraction of its
        4-grams of tokens that occurred before in the same minute, and the entropy of its tokens
        in nats, both with runs of one token counted once; the cosine of its voice to the
        prompt's; and for each predictor the opinion score of its middle 10 s.
    """
    minutes = max(1, len(continuation) // (MINUTE * SAMPLE_RATE))
    tokens = np.asarray(tokenize(continuation))
    voice = embed(prompt) if speech_turns(prompt) else None
    measured: dict[str, list[float | None]] = {name: [] for name in (*MEASURES, *predictors)}
    measured["silence_fraction"] += silence_fraction(continuation, float(MINUTE))[:minutes]
    for minute in range(minutes):
        samples = continuation[minute * MINUTE * SAMPLE_RATE :][: MINUTE * SAMPLE_RATE]
        said = without_repeats(tokens[minute * MINUTE * TOKEN_RATE :][: MINUTE * TOKEN_RATE])
        middle, half = len(samples) // 2, min(5 * SAMPLE_RATE, len(samples) // 2)
        measured["repeated_4_grams"].append(repeated_fraction(said))
        measured["token_entropy"].append(entropy(said))
        has_speech = bool(speech_turns(samples))
        has_voice = voice is not None and has_speech
        cosine = float(np.dot(embed(samples), voice)) if has_voice else np.nan
        measured["speaker_similarity"].append(cosine if np.isfinite(cosine) else None)
        clip = samples[middle - half : middle + half]
        for name, predict in predictors.items():
            measured[name].append(float(predict(clip)) if has_speech else 1.0)
    return measured


def trend(values: Sequence[float | None], skipped_minutes: int) -> float | None:
    """Fit a line through the minutes after the skipped ones.

    Returns:
        Its slope per minute; `None` for fewer than three values.
    """
    late = [(minute, v) for minute, v in enumerate(values[skipped_minutes:]) if v is not None]
    return float(np.polyfit(*zip(*late, strict=True), 1)[0]) if len(late) >= 3 else None


def summarize_minutes(
    rows: Mapping[str, Sequence[dict]], skipped_minutes: int, confidence: float = CONFIDENCE
) -> dict:
    """Summarize the measures of all recordings; see `evaluate_long_form`.

    Args:
        rows: Results of `measure_minutes` for `continuation` and `truth`.
        skipped_minutes: Number of first minutes that do not count for the trends.
        confidence: Confidence level of the intervals. Defaults to `0.99`.
    """
    measures = list(rows["continuation"][0])

    def interval(values: Sequence[float | None]) -> dict:
        return mean_interval([value for value in values if value is not None], confidence)

    report: dict = {"num_recordings": len(rows["continuation"]), "confidence": confidence}
    for kind, measured in rows.items():
        longest = max((len(row["silence_fraction"]) for row in measured), default=0)
        report[kind] = {
            name: [
                interval([row[name][minute] for row in measured if minute < len(row[name])])
                for minute in range(longest)
            ]
            for name in measures
        }
    report["extremes"] = {
        kind: {
            name: _extremes([v for row in measured for v in row[name] if v is not None])
            for name in measures
        }
        for kind, measured in rows.items()
    }
    report["trends"] = {
        name: interval([trend(row[name], skipped_minutes) for row in rows["continuation"]])
        for name in measures
    }
    return report


def minutes_table(report: dict, table_minutes: int = 1) -> str:
    """Render the report of `evaluate_long_form` as a Markdown table with a row per measure.

    Args:
        report: Result of `summarize_minutes`.
        table_minutes: Minutes per column, whose mean it shows. Defaults to `1`.

    Returns:
        Columns of the continuations; the lowest and highest mean of the truth's minutes, as far
        as every true continuation lasts; the slope after the skipped minutes; and the lowest and
        highest single minute of the continuations and of the truth.
    """
    counts = [minute["num"] for minute in report["truth"]["silence_fraction"]]
    num_lasting = sum(count == counts[0] for count in counts)
    minutes = range(len(report["continuation"]["silence_fraction"]))
    columns = [minutes[start : start + table_minutes] for start in minutes[::table_minutes]]
    titles = [f"{c[0] + 1}-{c[-1] + 1}" if len(c) > 1 else f"{c[0] + 1}" for c in columns]
    rows = []
    for name, slope in report["trends"].items():
        ours = report["continuation"][name]
        blocks = [_means([ours[minute] for minute in column]) for column in columns]
        truth = _means(report["truth"][name][:num_lasting])
        rows.append(
            [
                name.replace("_", " "),
                *(f"{np.mean(means):#.3g}" if means else "-" for means in blocks),
                _range(_extremes(truth)),
                f"{slope['mean']:+.5f} ± {slope['half_width']:.5f}" if slope["num"] > 1 else "-",
                *(_range(report["extremes"][kind][name]) for kind in ("continuation", "truth")),
            ]
        )
    truth_title = f"truth, minutes 1 to {num_lasting}" if num_lasting else "truth"
    slope_title = f"slope per minute, {100 * report['confidence']:g} % interval"
    singles = ["single minutes", "single minutes of the truth"]
    return markdown_table(["minute", *titles, truth_title, slope_title, *singles], rows)


def _measure(
    recording: Path, path: Path, prompt_seconds: float, measure: Callable
) -> dict[str, dict]:
    waveform, cut = read_audio(recording), round(prompt_seconds * SAMPLE_RATE)
    prompt, truth = waveform[:cut], waveform[cut:]
    continuation = read_audio(path, min_seconds=1.0)
    found = {"continuation": measure(prompt, continuation)}
    if len(truth) >= SAMPLE_RATE:
        found["truth"] = measure(prompt, truth)
    return found


def _extremes(values: Sequence[float]) -> list[float]:
    return [min(values), max(values)] if values else []


def _means(minutes: Sequence[dict]) -> list[float]:
    """Means of the minutes in which some recording has a value."""
    return [minute["mean"] for minute in minutes if minute["num"]]


def _range(extremes: Sequence[float]) -> str:
    return " to ".join(f"{end:#.3g}" for end in extremes) or "-"
