"""Does a continuation last? Silence, repetition, voice and naturalness of each of its minutes."""

import sys
from collections.abc import Callable, Sequence
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
from keras_speechssm.evaluation.models.mean_opinion_score import DNSMOSPredictor
from keras_speechssm.evaluation.report import markdown_table, plot_curves
from keras_speechssm.evaluation.studies.token_agreement import without_repeats
from keras_speechssm.files import atomic_write, cached_json, checksum, write_json
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.presets import DEFAULT_PRESET, fetch_folder, fingerprint
from keras_speechssm.shapes import SAMPLE_RATE, TOKEN_RATE

MINUTE = 60

_DEFINITIONS = 1
"""Raise it whenever a measure changes: what reports keep is then measured anew."""

MEASURES = ("silence_fraction", "repeated_4_grams", "token_entropy", "speaker_similarity", "mos")


def measure_minutes(
    prompt: np.ndarray,
    continuation: np.ndarray,
    tokenize: Callable[[np.ndarray], np.ndarray],
    embed: Callable[[np.ndarray], np.ndarray],
    predict: Callable[[np.ndarray], float],
) -> dict[str, list[float | None]]:
    """All measures of each whole minute; of less than a minute, of the whole.

    A minute in which nobody speaks has no voice, `None`, and the worst of opinions, 1.

    Args:
        prompt, continuation: float (samples,) at 16 kHz.
        tokenize: waveform to semantic tokens (time,).
        embed: waveform to a unit vector of its voice.
        predict: waveform to an opinion score.

    Returns:
        by measure of `MEASURES` a value for each minute: the share of silent frames; the share
        of its 4-grams of tokens that occurred before in the same minute, and the entropy of its
        tokens in nats, runs of one token counted once; the cosine of its voice to the prompt's;
        the opinion of its middle 10 s.
    """
    minutes = max(1, len(continuation) // (MINUTE * SAMPLE_RATE))
    tokens = np.asarray(tokenize(continuation))
    voice = embed(prompt) if speech_turns(prompt) else None
    measured: dict[str, list[float | None]] = {name: [] for name in MEASURES}
    measured["silence_fraction"] = silence_fraction(continuation, float(MINUTE))[:minutes]
    for minute in range(minutes):
        samples = continuation[minute * MINUTE * SAMPLE_RATE :][: MINUTE * SAMPLE_RATE]
        said = without_repeats(tokens[minute * MINUTE * TOKEN_RATE :][: MINUTE * TOKEN_RATE])
        middle, half = len(samples) // 2, min(5 * SAMPLE_RATE, len(samples) // 2)
        measured["repeated_4_grams"].append(repeated_fraction(said))
        measured["token_entropy"].append(entropy(said))
        heard = bool(speech_turns(samples))
        cosine = np.nan if voice is None or not heard else float(np.dot(embed(samples), voice))
        measured["speaker_similarity"].append(cosine if np.isfinite(cosine) else None)
        opinion = float(predict(samples[middle - half : middle + half])) if heard else 1.0
        measured["mos"].append(opinion)
    return measured


def trend(values: Sequence[float | None], skipped_minutes: int) -> float | None:
    """Slope of the least-squares line through the minutes after the skipped ones, a minute.

    `None` for fewer than three values.
    """
    late = [(minute, v) for minute, v in enumerate(values[skipped_minutes:]) if v is not None]
    return float(np.polyfit(*zip(*late, strict=True), 1)[0]) if len(late) >= 3 else None


def evaluate_long_form(
    continuation_folder: str | Path,
    benchmark_folder: str | Path,
    output_folder: str | Path,
    *,
    preset: str = DEFAULT_PRESET,
    prompt_seconds: float = 10.0,
    skipped_minutes: int = 4,
    table_minutes: int = 1,
    confidence: float = CONFIDENCE,
) -> dict:
    """Measures the minutes of continuations, and of the true ones next to them.

    Writes `long-form.json`, `long-form.md`, `<measure>.png` for each of `MEASURES`, and what
    was measured of each recording, from which a run that was killed goes on.

    Args:
        continuation_folder: what `speechssm evaluate generate` wrote, without prompts.
        benchmark_folder: the recordings that were continued.
        output_folder: folder to write.
        preset: whose tokenizer counts repetitions.
        prompt_seconds: length of the prompts.
        skipped_minutes: so many first ones do not count for the trends.
        table_minutes: minutes in a column of the table in `long-form.md`.
        confidence: of the intervals, between 0 and 1.

    Returns:
        `{"continuation": {measure: [interval of each minute]}, "truth": the same, "trends":
        {measure: interval of the slopes a minute, of the continuations}, "extremes": {kind:
        {measure: [lowest, highest] of all single minutes}}, "num_recordings", "confidence"}`;
        the intervals are those of `confidence.mean_interval` over the
        recordings. A recording counts in its whole minutes (one of less than a minute as one),
        so that one that stops early drops out of the later ones;
        trends want three minutes and more after the skipped ones.

    Raises:
        ValueError: a continuation has no recording or lasts less than a second, the folder was
            generated with other prompts, or a number is out of range.
    """
    check_at_least(0.5, prompt_seconds=prompt_seconds)
    check_at_least(0, skipped_minutes=skipped_minutes)
    check_at_least(1, table_minutes=table_minutes)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a share between 0 and 1.")
    check_options(continuation_folder, prompt_seconds, 0.0)
    output = Path(output_folder)
    if output.is_file():
        raise ValueError(f"Cannot write a report to {output}: a file lies there.")
    recordings = name_recordings([benchmark_folder])
    continuations = name_recordings([continuation_folder])
    if unknown := sorted(set(continuations) - set(recordings)):
        raise ValueError(f"{continuations[unknown[0]]} continues no recording of the benchmark.")
    tokenizer = SemanticTokenizer.from_preset(preset)
    known_tokens = fingerprint(fetch_folder(preset, SemanticTokenizer.preset_part))
    tools = tokenizer.tokenize, open_speaker_embedder(), DNSMOSPredictor()
    rows: dict[str, list[dict]] = {"continuation": [], "truth": []}
    for number, (name, path) in enumerate(continuations.items(), start=1):
        print(f"{number} of {len(continuations)}: {name}", file=sys.stderr)
        key = {
            "definitions": _DEFINITIONS,
            "tokenizer": known_tokens,
            "prompt_seconds": prompt_seconds,
            "files": [checksum(recordings[name]), checksum(path)],
        }
        measured = cached_json(
            output / "items" / f"{name}.json",
            key,
            partial(_measure, recordings[name], path, prompt_seconds, tools),
        )
        for kind, found in measured.items():
            rows[kind].append(found)
    report = summarize_minutes(rows, skipped_minutes, confidence)
    if not report["trends"]["mos"]["num"]:
        few = f"No continuation has {skipped_minutes + 3} whole minutes, so there are no trends"
        print(f"{few}; skipped_minutes may be less.", file=sys.stderr)
    write_json(output / "long-form.json", report)
    with atomic_write(output / "long-form.md") as temporary:
        temporary.write_text(minutes_table(report, table_minutes), encoding="utf-8")
    for measure in MEASURES:
        curves = {kind: report[kind][measure] for kind in rows if report[kind][measure]}
        with atomic_write(output / f"{measure}.png") as temporary:
            temporary.write_bytes(plot_curves(curves, measure.replace("_", " "), "minute"))
    return report


def _measure(recording: Path, path: Path, prompt_seconds: float, tools: tuple) -> dict[str, dict]:
    waveform, cut = read_audio(recording), round(prompt_seconds * SAMPLE_RATE)
    prompt, truth = waveform[:cut], waveform[cut:]
    continuation = read_audio(path, min_seconds=1.0)
    found = {"continuation": measure_minutes(prompt, continuation, *tools)}
    if len(truth) >= SAMPLE_RATE:
        found["truth"] = measure_minutes(prompt, truth, *tools)
    return found


def summarize_minutes(
    rows: dict[str, list[dict]], skipped_minutes: int, confidence: float = CONFIDENCE
) -> dict:
    """The report of `evaluate_long_form`, of what `measure_minutes` gave for each recording."""
    report: dict = {"num_recordings": len(rows["continuation"]), "confidence": confidence}
    for kind, measured in rows.items():
        longest = max((len(row["mos"]) for row in measured), default=0)
        report[kind] = {
            name: [
                _interval([row[name][m] for row in measured if m < len(row[name])], confidence)
                for m in range(longest)
            ]
            for name in MEASURES
        }
    report["extremes"] = {
        kind: {
            name: _extremes([v for row in measured for v in row[name] if v is not None])
            for name in MEASURES
        }
        for kind, measured in rows.items()
    }
    slopes = {
        name: [trend(row[name], skipped_minutes) for row in rows["continuation"]]
        for name in MEASURES
    }
    report["trends"] = {name: _interval(found, confidence) for name, found in slopes.items()}
    return report


def _extremes(values: Sequence[float]) -> list[float]:
    return [min(values), max(values)] if values else []


def _interval(values: Sequence[float | None], confidence: float) -> dict:
    return mean_interval([value for value in values if value is not None], confidence)


def minutes_table(report: dict, table_minutes: int = 1) -> str:
    """The report of `evaluate_long_form` as a table in Markdown, a measure a row.

    Args:
        report: of `summarize_minutes`.
        table_minutes: minutes in a column, whose mean it shows.

    Returns:
        the columns of the continuations, the lowest and the highest mean of the truth's minutes
        as far as every true continuation lasts, the slope after the skipped minutes, and the
        lowest and the highest single minute of the continuations and of the truth.
    """
    opinions = report["truth"]["mos"]
    lasting = [minute for minute in opinions if minute["num"] == opinions[0]["num"]]
    minutes = range(len(report["continuation"]["mos"]))
    columns = [minutes[start : start + table_minutes] for start in minutes[::table_minutes]]
    titles = [f"{c[0] + 1}-{c[-1] + 1}" if len(c) > 1 else f"{c[0] + 1}" for c in columns]
    rows = []
    for name in MEASURES:
        ours = report["continuation"][name]
        blocks = [_means([ours[minute] for minute in column]) for column in columns]
        truth = _means(report["truth"][name][: len(lasting)])
        slope = report["trends"][name]
        rows.append(
            [
                name.replace("_", " "),
                *(f"{np.mean(means):#.3g}" if means else "-" for means in blocks),
                _range(_extremes(truth)),
                f"{slope['mean']:+.5f} ± {slope['half_width']:.5f}" if slope["num"] > 1 else "-",
                *(_range(report["extremes"][kind][name]) for kind in ("continuation", "truth")),
            ]
        )
    last = f"the truth, minutes 1 to {len(lasting)}" if lasting else "the truth"
    slope_title = f"slope a minute, {report['confidence']:.4g} sure"
    singles = ["single minutes", "the truth's"]
    return markdown_table(["minute", *titles, last, slope_title, *singles], rows)


def _range(extremes: Sequence[float]) -> str:
    return " to ".join(f"{end:#.3g}" for end in extremes) or "-"


def _means(minutes: Sequence[dict]) -> list[float]:
    """Of those minutes that any recording has a value for."""
    return [minute["mean"] for minute in minutes if minute["num"]]
