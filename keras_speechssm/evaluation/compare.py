"""Comparison of systems on one benchmark.

A system is a folder of continuations, `<name>.flac` (or another format) for each recording of
the benchmark, ours or anybody's. The ground truth is always one of the systems; its words are
recognized like those of the others.
"""

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio, read_duration
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import name_recordings
from keras_speechssm.data.segmentation import Span, speech_turns
from keras_speechssm.data.speaker_embedding import (
    OFFLINE_SPEAKER_EMBEDDER,
    SpeakerEmbedder,
    open_speaker_embedder,
)
from keras_speechssm.evaluation.generate import (
    BenchmarkItem,
    check_options,
    check_times,
    read_benchmark,
    read_min_reference_seconds,
    read_real_time_factor,
)
from keras_speechssm.evaluation.metrics.confidence_intervals import (
    fraction_interval,
    mean_interval,
)
from keras_speechssm.evaluation.metrics.naturalness import (
    LONGEST_FOURTH_MINUTE,
    minute_spans,
    naturalness_over_time,
)
from keras_speechssm.evaluation.metrics.repetition import (
    auto_bleu,
    repeated_fraction,
    repetition_over_time,
    slamkit_auto_bleu,
)
from keras_speechssm.evaluation.metrics.side_by_side import judge_pairs, win_rates
from keras_speechssm.evaluation.metrics.silence import non_speech_fraction, silence_fraction
from keras_speechssm.evaluation.metrics.similarity import semantic_coherence, semantic_similarity
from keras_speechssm.evaluation.models.judges import (
    OFFLINE_JUDGE,
    CachedJudge,
    Judge,
    load_judge,
    read_judge_template,
)
from keras_speechssm.evaluation.models.mean_opinion_score import (
    DNSMOS,
    MOSPredictor,
    load_mos_predictor,
)
from keras_speechssm.evaluation.models.sentence_embedders import (
    OFFLINE_EMBEDDER,
    SentenceEmbedder,
    load_sentence_embedder,
)
from keras_speechssm.evaluation.models.text_models import (
    OFFLINE_TEXT_MODEL,
    TextModel,
    load_text_model,
)
from keras_speechssm.evaluation.models.transcribers import (
    DEFAULT_TRANSCRIBER,
    CachedTranscriber,
    Transcriber,
    load_transcriber,
)
from keras_speechssm.evaluation.models.transcript import Word, plain_words, words_to_text
from keras_speechssm.evaluation.report import AudioClips, excerpts, write_report
from keras_speechssm.files import cached_json, checksum, remove_partial_files, run_lock
from keras_speechssm.shapes import SAMPLE_RATE

logger = logging.getLogger(__name__)

GROUND_TRUTH = "ground truth"

MINUTE = 60.0

SHORT_FORM_SECONDS = 15.0
"""Continuations up to this length are scored as a whole (N-MOS), such as the paper's 7 s."""

FAILED_NON_SPEECH = 0.5
FAILED_REPETITION = 0.5
"""A minute has failed if more than this fraction of it is not speech, or repeats 4-grams."""

SCALARS = (
    "n_mos",
    "nll_nats_per_unit",
    "semantic_similarity",
    "speaker_similarity",
    "auto_bleu",
    "auto_bleu_arithmetic",
    "slamkit_auto_bleu",
    "repeated_4_grams",
    "words_per_minute",
    "word_confidence",
)
"""Measures with one number per item."""

# Raise it whenever a measure of an item changes, so that cached measures are not used.
_DEFINITIONS = 4


@dataclasses.dataclass(frozen=True)
class ComparisonOptions:
    """What is compared.

    Attributes:
        prompt_seconds: Length of the prompts: 3 in short form, 10 in long form.
        until_seconds: End of what is compared, from the start of the prompt. Defaults to the end
            of each recording; after that there is no ground truth.
        with_prompt: Names of the systems whose audio begins with the prompt.
        min_reference_seconds: Seconds that must follow the prompt in a recording: 200 for the
            paper's win rates, which use recordings of 3.5 min and more. Defaults to what the
            systems were generated with.
        subset: Maximal number of recordings, drawn as in `evaluate generate`. Defaults to all.
        subset_seed: Seed of the subset.
    """

    prompt_seconds: float = 10.0
    until_seconds: float | None = None
    with_prompt: Sequence[str] = ()
    min_reference_seconds: float | None = None
    subset: int | None = None
    subset_seed: int = 0


@dataclasses.dataclass(frozen=True)
class EvaluationModelNames:
    """Names of the models that measure; the defaults run offline.

    Attributes:
        transcriber: `moonshine-tiny`, `whisper-base`, `whisper-tiny-en` or `pocketsphinx`; a
            preset of KerasHub such as `moonshine_base_en`; a name or folder of a speech
            recognizer of `transformers`, such as `wav2vec2-base-960h`, the paper's; or the address
            of an OpenAI-compatible service and its model, such as
            `http://localhost:8000/v1#whisper-1`.
        text_model: Scores transcripts: `pocketsphinx-trigram`, or a preset, folder or handle of a
            `keras_hub.models.CausalLM`, such as `gemma_2b_en`, the paper's.
        embedder: Compares transcripts with the true text: `all-MiniLM-L6-v2`, or a name or folder
            of a sentence-transformers model.
        embedder_prompt: Text before each text, for an embedder trained with prompts.
        speaker_embedder: `resemblyzer`, or a name or folder of a model of `transformers` with an
            x-vector head, such as `microsoft/wavlm-base-plus-sv`.
        mos_predictor: `dnsmos` or `distillmos`.
    """

    transcriber: str = DEFAULT_TRANSCRIBER
    text_model: str = OFFLINE_TEXT_MODEL
    embedder: str = OFFLINE_EMBEDDER
    embedder_prompt: str | None = None
    speaker_embedder: str = OFFLINE_SPEAKER_EMBEDDER
    mos_predictor: str = DNSMOS


@dataclasses.dataclass(frozen=True)
class JudgeOptions:
    """Who judges transcripts side by side.

    Attributes:
        judge: `likelihood`, offline; the address of an OpenAI-compatible service, such as
            `http://localhost:8000/v1`, with its key in the environment variable
            `OPENAI_API_KEY`; or a preset of an instruction-tuned `keras_hub.models.CausalLM`.
        judge_model: Model to request from the service.
        judge_template: Text file with the question to the judge, with the places `{text_a}` and
            `{text_b}`, for instance the paper's (appendix D). Defaults to our own question with
            the same criteria, scale and labels.
        truncate_short_form: Cut both transcripts to the words of the shorter one in short form
            (up to 15 s) as well. The paper cuts them in long form only.
    """

    judge: str = OFFLINE_JUDGE
    judge_model: str | None = None
    judge_template: str | None = None
    truncate_short_form: bool = False


DEFAULT_COMPARISON = ComparisonOptions()
DEFAULT_MODELS = EvaluationModelNames()
DEFAULT_JUDGE = JudgeOptions()


@dataclasses.dataclass(frozen=True)
class EvaluationModels:
    """The models that measure a continuation.

    Attributes:
        transcriber: Waveform to words.
        text_model: Text to nats.
        sentence_embedder: Texts to vectors.
        speaker_embedder: Waveform to vector.
        mos_predictor: Waveform to opinion score.
    """

    transcriber: Transcriber
    text_model: TextModel
    sentence_embedder: SentenceEmbedder
    speaker_embedder: SpeakerEmbedder
    mos_predictor: MOSPredictor

    @classmethod
    def load(cls, names: EvaluationModelNames, transcripts: str | Path) -> "EvaluationModels":
        """Load the models by their names.

        Args:
            names: Names of the models.
            transcripts: Folder that keeps the transcripts.
        """
        return cls(
            CachedTranscriber(load_transcriber(names.transcriber), transcripts),
            load_text_model(names.text_model),
            load_sentence_embedder(names.embedder, names.embedder_prompt),
            open_speaker_embedder(names.speaker_embedder),
            load_mos_predictor(names.mos_predictor),
        )

    def names(self) -> dict[str, str]:
        """Return the name of each model, for the report."""
        return {field.name: getattr(self, field.name).name for field in dataclasses.fields(self)}


def evaluate_continuations(
    systems: Sequence[str],
    benchmark_folder: str | Path,
    output_folder: str | Path,
    *,
    comparison: ComparisonOptions = DEFAULT_COMPARISON,
    models: EvaluationModelNames = DEFAULT_MODELS,
    judge: JudgeOptions = DEFAULT_JUDGE,
    players: int = 3,
) -> dict:
    """Compare folders of continuations with one another and with the ground truth.

    Writes `report.json`, `report.md`, `report.html` (one file, with audio), plots, and the
    transcripts, measures and verdicts of each recording, with which an interrupted run resumes.
    Only recordings that all systems have are compared.

    Args:
        systems: `name=folder` each, a folder of continuations named as the recordings are. The
            others are judged against the first one.
        benchmark_folder: The recordings, each a prompt and its true continuation.
        output_folder: Folder to write.
        comparison: What is compared.
        models: Names of the models that measure.
        judge: Who judges transcripts side by side.
        players: Number of recordings to listen to in `report.html`.

    Returns:
        The content of `report.json`.

    Raises:
        ValueError: A folder is missing, two systems have one name, no recording was continued by
            all, a folder was generated with other prompts or not as far, an option is out of
            range, a model is unknown, or another process writes this report.
    """
    check_at_least(0, players=players)
    template = read_judge_template(judge.judge_template)
    compared, missing = compare_folders(systems, benchmark_folder, comparison)
    folders = parse_systems(systems)
    output = Path(output_folder)
    if output.is_file():
        raise ValueError(f"The output folder {output} is a file; choose another name.")
    cached_judge = CachedJudge(
        load_judge(judge.judge, judge.judge_model, template), output / "verdicts", template
    )
    loaded = EvaluationModels.load(models, output / "transcripts")
    factors = {name: read_real_time_factor(folder) for name, folder in folders.items()}
    output.mkdir(parents=True, exist_ok=True)
    # A second process would delete unfinished files of the first.
    with run_lock(output):
        for folder in (output, output / "transcripts", output / "verdicts"):
            remove_partial_files(folder)
        measured = _measure_all(compared, loaded, output)
        first = next(iter(folders))
        verdicts = _side_by_side(compared, measured, first, cached_judge, judge.truncate_short_form)
    report = {
        "benchmark": Path(benchmark_folder).resolve().name,
        "prompt_seconds": comparison.prompt_seconds,
        "until_seconds": comparison.until_seconds,
        "num_items": len(compared),
        "instruments": {**loaded.names(), "judge": cached_judge.name},
        "systems": {
            name: {
                **summarize_items(items),
                "num_missing": missing.get(name, 0),
                "real_time_factor": factors.get(name),
            }
            for name, items in measured.items()
        },
        "side_by_side": verdicts,
    }
    write_report(report, _clips(compared[:players]), output)
    return report


@dataclasses.dataclass(frozen=True)
class ComparedItem:
    """A benchmark's recording, and each system's continuation of it.

    Attributes:
        item: The recording.
        continuations: Files by system.
        prompt_seconds: Length of the prompt.
        until_seconds: End of what is compared, from the start of the prompt.
        with_prompt: Systems whose audio begins with the prompt.
    """

    item: BenchmarkItem
    continuations: dict[str, Path]
    prompt_seconds: float
    until_seconds: float
    with_prompt: frozenset[str]

    @property
    def systems(self) -> list[str]:
        """All systems, the ground truth last."""
        return [*self.continuations, GROUND_TRUTH]

    @property
    def judged_samples(self) -> int:
        """Number of samples of a continuation that are compared."""
        return round((self.until_seconds - self.prompt_seconds) * SAMPLE_RATE)

    @property
    def is_long_form(self) -> bool:
        """Whether continuations are longer than those that are rated as a whole."""
        return self.until_seconds - self.prompt_seconds > SHORT_FORM_SECONDS

    @property
    def has_reference(self) -> bool:
        """Whether the recording is as long as what is compared, up to a minute."""
        return self.until_seconds - self.item.seconds <= 60.0

    def read_prompt(self) -> np.ndarray:
        """Read the prompt, float32 (samples,)."""
        return read_audio(self.item.audio)[: round(self.prompt_seconds * SAMPLE_RATE)]

    def read(self, system: str) -> np.ndarray:
        """Read what is compared of a system's continuation, float32 (samples,)."""
        path = self.continuations.get(system, self.item.audio)
        has_prompt = system == GROUND_TRUTH or system in self.with_prompt
        start = self.prompt_seconds if has_prompt else 0.0
        if path.stat().st_size == 0 or read_duration(path) == 0.0:
            return np.zeros(0, "float32")  # the system failed and wrote an empty file
        # The whole file: resampling a part would change the samples near the cut.
        return read_audio(path)[round(start * SAMPLE_RATE) :][: self.judged_samples]

    def spans(self, system: str) -> list[tuple[float, float] | None]:
        """Return the 5 s of each minute, the same for all systems.

        The ground truth has none after its own end. Within four minutes nobody has: the last of
        them ends where the truth does, as the paper's t_max (section 7.2).
        """
        end = self.until_seconds
        if end <= LONGEST_FOURTH_MINUTE:
            end = min(end, self.item.seconds)
        spans = minute_spans(self.item.name, self.prompt_seconds, end)
        if system != GROUND_TRUTH:
            return spans
        return [span if span and span[1] <= self.item.seconds + 0.01 else None for span in spans]


def parse_systems(systems: Sequence[str]) -> dict[str, Path]:
    """Read the folders of systems.

    Args:
        systems: `name=folder` each, or a folder, whose name is then the system's.

    Returns:
        The folders by name.

    Raises:
        ValueError: There is no system, a folder is missing, or a name is used twice or has
            characters other than letters, digits, spaces, dots, plus, minus and underscores.
    """
    found: dict[str, Path] = {}
    taken = {folder_name(GROUND_TRUTH), "prompt"}  # both are next to the systems in the report
    for entry in map(str, systems):
        name, sign, folder = entry.partition("=")
        if not sign or Path(entry).is_dir():
            name, folder = Path(entry).resolve().name, entry
        if not re.fullmatch(r"\w[\w .+-]*", name) or folder_name(name) in taken:
            raise ValueError(f"{name!r} cannot be the name of a system; write another name=folder.")
        if not Path(folder).is_dir():
            raise ValueError(f"The folder {folder} of the system {name!r} does not exist.")
        found[name] = Path(folder)
        taken.add(folder_name(name))
    if not found:
        raise ValueError("Expected at least one system, as name=folder.")
    return found


def folder_name(system: str) -> str:
    """Return the name of a system's folder in a report."""
    return system.replace(" ", "_").casefold()


def compare_folders(
    systems: Sequence[str],
    benchmark_folder: str | Path,
    comparison: ComparisonOptions = DEFAULT_COMPARISON,
) -> tuple[list[ComparedItem], dict[str, int]]:
    """Find the recordings that all systems have continued.

    Args:
        systems: `name=folder` each.
        benchmark_folder: The recordings.
        comparison: What is compared. Without `min_reference_seconds`, that of the folders is
            used, so that a subset is drawn from the same recordings.

    Returns:
        The recordings in order, and per system the number of recordings that it lacks.

    Raises:
        ValueError: A folder is missing, an option is out of range, no recording was continued by
            all, or a folder was generated with other prompts or not as far.
    """
    check_times(comparison.prompt_seconds, comparison.until_seconds)
    folders = parse_systems(systems)
    unknown = sorted(set(comparison.with_prompt) - set(folders))
    if unknown:
        raise ValueError(f"with_prompt names {unknown[0]!r}; expected one of {', '.join(folders)}.")
    min_reference_seconds = comparison.min_reference_seconds
    if min_reference_seconds is None:
        min_reference_seconds = max(map(read_min_reference_seconds, folders.values()))
    items = read_benchmark(
        benchmark_folder,
        comparison.prompt_seconds,
        min_reference_seconds=min_reference_seconds,
        subset=comparison.subset,
        subset_seed=comparison.subset_seed,
    )
    found = {name: name_recordings([folder]) for name, folder in folders.items()}
    missing = {name: sum(i.name not in known for i in items) for name, known in found.items()}
    until = comparison.until_seconds
    compared = [
        ComparedItem(
            item,
            {name: known[item.name] for name, known in found.items()},
            comparison.prompt_seconds,
            item.seconds if until is None else until,
            frozenset(comparison.with_prompt),
        )
        for item in items
        if all(item.name in known for known in found.values())
    ]
    if not compared:
        worst = max(missing, key=lambda name: missing[name])
        raise ValueError(
            f"No recording of {benchmark_folder} was continued by all systems; {worst!r} lacks "
            f"{missing[worst]} of {len(items)}, such as {items[0].name!r}."
        )
    longest = max(entry.item.seconds for entry in compared)
    for folder in folders.values():
        check_options(folder, comparison.prompt_seconds, until or longest)
    return compared, missing


def measure_item(
    prompt: np.ndarray,
    continuation: np.ndarray,
    reference: np.ndarray | None,
    models: EvaluationModels,
    spans: Sequence[tuple[float, float] | None],
    judged_seconds: float,
    planned_seconds: float,
) -> dict:
    """Measure one continuation.

    Args:
        prompt: float (samples,).
        continuation: float (samples,).
        reference: The true continuation, or `None` if there is none of that length.
        models: What measures.
        spans: Spans of N-MOS-T, from `minute_spans`.
        judged_seconds: Expected length of the continuation. A system that stops earlier is
            silent for the rest in the measures per minute.
        planned_seconds: The same for all systems; the truth's `judged_seconds` may be shorter.

    Returns:
        Numbers, lists over time or length, and transcripts: `text` of the continuation,
        `prompt_text`, and `joint_text` of both together, which is what judges read: no word is cut
        in two between them. It is empty if the continuation is. Measures that are undefined, such
        as the voice of silence, are `None`.
    """
    prompt_text = words_to_text(models.transcriber(prompt))
    turns = speech_turns(continuation) if len(continuation) else []
    # Recognizers hear words in digital silence too, with high confidence.
    words = models.transcriber(continuation) if turns else []
    text = words_to_text(words)
    joint = models.transcriber(np.concatenate([prompt, continuation])) if words else []
    plain = plain_words(text)
    nats, units = models.text_model.negative_log_likelihood(text)
    seconds = len(prompt) / SAMPLE_RATE
    # No similarity of voices unless both contain speech.
    cosine = np.nan
    if turns and speech_turns(prompt):
        voices = [np.asarray(models.speaker_embedder(audio)) for audio in (prompt, continuation)]
        cosine = float(voices[0] @ voices[1])
    return {
        "text": text,
        "prompt_text": prompt_text,
        "joint_text": words_to_text(joint),
        "seconds": len(continuation) / SAMPLE_RATE,
        "num_words": len(words),
        "words_per_minute": len(words) / (judged_seconds / MINUTE),
        "word_confidence": float(np.mean([word.confidence for word in words])) if words else None,
        "nll_nats_per_unit": nats / units if units else None,
        "nats": nats,
        "units": units,
        "semantic_similarity": _similarity(text, reference, models),
        "sc_l": semantic_coherence(prompt_text, text, models.sentence_embedder),
        "speaker_similarity": cosine if np.isfinite(cosine) else None,
        "n_mos": _short_form(continuation, turns, planned_seconds, models.mos_predictor),
        "n_mos_t": naturalness_over_time(continuation, spans, seconds, models.mos_predictor),
        "auto_bleu": auto_bleu(plain),
        "auto_bleu_arithmetic": auto_bleu(plain, geometric=False),
        "slamkit_auto_bleu": slamkit_auto_bleu(plain),
        "repeated_4_grams": repeated_fraction(plain),
        "over_time": _over_time(words, turns, continuation, judged_seconds, planned_seconds),
    }


def summarize_items(items: Mapping[str, dict]) -> dict:
    """Summarize the measures of one system over all items, with 99 % confidence intervals.

    Args:
        items: Results of `measure_item` by item.

    Returns:
        Each of `SCALARS` as an interval; `perplexity_per_unit` (the exponential of the mean
        likelihood), `pooled_nll_nats_per_unit`; `sc_l`, `n_mos_t` and `over_time` as lists of
        intervals (Wilson's for `failed`); `num_items`, `num_without_words`, `seconds`.
    """
    rows = list(items.values())
    summary: dict = {"num_items": len(rows)}
    for name in SCALARS:
        summary[name] = mean_interval([row[name] for row in rows if row[name] is not None])
    units = sum(row["units"] for row in rows)
    nats = sum(row["nats"] for row in rows)
    summary["perplexity_per_unit"] = float(np.exp(summary["nll_nats_per_unit"]["mean"]))
    summary["pooled_nll_nats_per_unit"] = nats / units if units else float("nan")
    summary["num_without_words"] = sum(row["num_words"] == 0 for row in rows)
    summary["seconds"] = sum(row["seconds"] for row in rows)
    summary["sc_l"] = _curve([row["sc_l"] for row in rows])
    summary["n_mos_t"] = _curve([row["n_mos_t"] for row in rows])
    minutes = [row["over_time"] for row in rows]
    summary["over_time"] = {
        name: _curve([[minute[name] for minute in row] for row in minutes])
        for name in ("silence_fraction", "non_speech_fraction", "repeated_4_grams", "words")
    }
    failed = [list(map(has_failed, row)) for row in minutes]
    summary["over_time"]["failed"] = _curve(failed, fraction_interval)
    return summary


def has_failed(minute: Mapping[str, float]) -> float:
    """Return 1 if a minute has no words, is mostly not speech or mostly repetition, else 0."""
    return float(
        minute["words"] == 0
        or minute["non_speech_fraction"] > FAILED_NON_SPEECH
        or minute["repeated_4_grams"] > FAILED_REPETITION
    )


def _measure_all(
    compared: Sequence[ComparedItem], models: EvaluationModels, output: Path
) -> dict[str, dict[str, dict]]:
    """Measure by system and item; cached measures of the same audio are used."""
    measured: dict[str, dict[str, dict]] = {name: {} for name in compared[0].systems}
    for number, entry in enumerate(compared, start=1):
        logger.info("%d of %d: %s", number, len(compared), entry.item.name)
        recording = checksum(entry.item.audio)
        for system in entry.systems:
            path = output / "items" / folder_name(system) / f"{entry.item.name}.json"
            key = {
                "definitions": _DEFINITIONS,
                **models.names(),
                "audio": recording
                if system == GROUND_TRUTH
                else checksum(entry.continuations[system]),
                "recording": recording,
                "prompt_seconds": entry.prompt_seconds,
                "until_seconds": entry.until_seconds,
                "with_prompt": system in entry.with_prompt,
            }
            remove_partial_files(path.parent)
            measured[system][entry.item.name] = cached_json(
                path, key, partial(_measure, entry, system, models)
            )
    return measured


def _measure(entry: ComparedItem, system: str, models: EvaluationModels) -> dict:
    reference = entry.read(GROUND_TRUTH)
    continuation = reference if system == GROUND_TRUTH else entry.read(system)
    judged = len(reference) if system == GROUND_TRUTH else entry.judged_samples
    return measure_item(
        entry.read_prompt(),
        continuation,
        reference if entry.has_reference else None,
        models,
        entry.spans(system),
        judged / SAMPLE_RATE,
        entry.judged_samples / SAMPLE_RATE,
    )


def _side_by_side(
    compared: Sequence[ComparedItem],
    measured: Mapping[str, Mapping[str, dict]],
    first: str,
    judge: Judge,
    truncate_short_form: bool,
) -> dict:
    """Win rates of each system against the ground truth and against the first system.

    The truth takes part where there is one: not for 16 min after recordings of four (section
    7.3).
    """
    report: dict = {}
    for other in (GROUND_TRUTH, first):
        rates = {}
        for system in (name for name in measured if name != other):
            needs_truth = GROUND_TRUTH in (system, other)
            chosen = [entry for entry in compared if entry.has_reference or not needs_truth]
            if chosen:
                ours, theirs = (
                    [measured[side][entry.item.name]["joint_text"] for entry in chosen]
                    for side in (system, other)
                )
                truncated = [entry.is_long_form or truncate_short_form for entry in chosen]
                rates[system] = win_rates(judge_pairs(judge, ours, theirs, truncated))
        if rates:
            report[f"against {other}"] = rates
    return report


def _clips(compared: Sequence[ComparedItem]) -> AudioClips:
    """The beginnings and ends of the prompts and of all continuations."""
    return {
        entry.item.name: {
            "prompt": excerpts(entry.read_prompt()),
            **{name: excerpts(entry.read(name)) for name in entry.systems},
        }
        for entry in compared
    }


def _similarity(text: str, reference: np.ndarray | None, models: EvaluationModels) -> float | None:
    """Similarity of a text to the true one, which is transcribed in the same way."""
    if reference is None:
        return None
    true_text = words_to_text(models.transcriber(reference)) if speech_turns(reference) else ""
    return float(semantic_similarity([text], [true_text], models.sentence_embedder)[0])


def _short_form(
    continuation: np.ndarray, turns: Sequence[Span], planned_seconds: float, predict: MOSPredictor
) -> float | None:
    """Opinion score of a whole short continuation; the worst score if there is no speech."""
    if planned_seconds > SHORT_FORM_SECONDS:
        return None
    return float(predict(continuation)) if turns else 1.0


def _over_time(
    words: Sequence[Word],
    turns: Sequence[Span],
    continuation: np.ndarray,
    judged_seconds: float,
    planned_seconds: float,
) -> list[dict]:
    """Silence, non-speech and repetition of each minute.

    A last part of less than half a minute is left out, unless no more was planned: a second
    without words has not failed.
    """
    minutes = max(int(planned_seconds <= MINUTE / 2), round(judged_seconds / MINUTE))
    num_missing = round(judged_seconds * SAMPLE_RATE) - len(continuation)
    silent = silence_fraction(np.pad(continuation, (0, max(0, num_missing))), MINUTE)
    outside = non_speech_fraction(turns, judged_seconds, MINUTE)
    said = [
        (plain, word.start)
        for word in words
        if word.start < judged_seconds
        for plain in plain_words(word.text)
    ]
    texts, starts = [text for text, _ in said], [start for _, start in said]
    repeated = repetition_over_time(texts, starts, MINUTE, judged_seconds)
    return [
        {
            "silence_fraction": quiet,
            "non_speech_fraction": other,
            "repeated_4_grams": found["repeated_fraction"],
            "words": found["num"],
        }
        for quiet, other, found in zip(silent, outside, repeated, strict=False)
    ][:minutes]


def _curve(rows: Sequence[list], interval: Callable = mean_interval) -> list[dict[str, float]]:
    """Interval at each place, over the rows that have a value there."""
    columns = zip_longest(*rows)
    return [interval([value for value in column if value is not None]) for column in columns]
