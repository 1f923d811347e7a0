"""Systems side by side on one benchmark: what `speechssm evaluate continuations` does.

A system is a folder of continuations, `<name>.flac` (or another format) for each recording of
the benchmark: ours or anybody's. The ground truth, transcribed anew, is always one of them.
"""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    read_least_reference,
    read_real_time_factor,
)
from keras_speechssm.evaluation.metrics.confidence_intervals import (
    mean_interval,
    proportion_interval,
)
from keras_speechssm.evaluation.metrics.repetition import (
    auto_bleu,
    repeated_fraction,
    repetition_over_time,
    slamkit_auto_bleu,
)
from keras_speechssm.evaluation.metrics.side_by_side import Judge, judge_pairs, win_rates
from keras_speechssm.evaluation.metrics.silence import non_speech_fraction, silence_fraction
from keras_speechssm.evaluation.metrics.similarity import semantic_coherence, semantic_similarity
from keras_speechssm.evaluation.models.judges import OFFLINE_JUDGE, CachedJudge, open_judge
from keras_speechssm.evaluation.models.mean_opinion_score import (
    LONGEST_FOURTH_MINUTE,
    DNSMOSPredictor,
    MOSPredictor,
    minute_spans,
    naturalness_over_time,
)
from keras_speechssm.evaluation.models.sentence_embedders import (
    OFFLINE_EMBEDDER,
    SentenceEmbedder,
    open_embedder,
)
from keras_speechssm.evaluation.models.text_models import (
    OFFLINE_TEXT_MODEL,
    TextModel,
    open_text_model,
)
from keras_speechssm.evaluation.models.transcribers import (
    OFFLINE_TRANSCRIBER,
    Transcriber,
    TranscriptStore,
    open_transcriber,
    plain_words,
    words_to_text,
)
from keras_speechssm.evaluation.report import AudioClips, excerpt, write_report
from keras_speechssm.files import cached_json, checksum, remove_partial_files, run_lock
from keras_speechssm.shapes import SAMPLE_RATE

MINUTE = 60.0

SHORT_FORM_SECONDS = 15.0
"""Continuations up to here are rated as a whole (N-MOS), the paper's 7 s among them."""


@dataclass(frozen=True)
class EvaluationModels:
    """What measures: see the modules of each.

    Attributes:
        transcriber: waveform -> words.
        text_model: text -> nats.
        sentence_embedder: texts -> vectors.
        speaker_embedder: waveform -> vector.
        mos_predictor: waveform -> opinion score.
    """

    transcriber: Transcriber
    text_model: TextModel
    sentence_embedder: SentenceEmbedder
    speaker_embedder: SpeakerEmbedder
    mos_predictor: MOSPredictor

    def names(self) -> dict[str, str]:
        """What each is called, for the record."""
        return {
            "transcriber": self.transcriber.name,
            "text_model": self.text_model.name,
            "sentence_embedder": self.sentence_embedder.name,
            "speaker_embedder": self.speaker_embedder.name,
            "mos_predictor": self.mos_predictor.name,
        }


def load_evaluation_models(
    transcripts: Path,
    transcriber: str,
    text_model: str,
    embedder: str,
    embedder_prompt: str | None = None,
    speaker_embedder: str = OFFLINE_SPEAKER_EMBEDDER,
) -> EvaluationModels:
    """Instruments by their names, with transcripts kept in a folder; see `Instruments`."""
    return EvaluationModels(
        TranscriptStore(open_transcriber(transcriber), transcripts),
        open_text_model(text_model),
        open_embedder(embedder, embedder_prompt),
        open_speaker_embedder(speaker_embedder),
        DNSMOSPredictor(),
    )


def measure_item(
    prompt: np.ndarray,
    continuation: np.ndarray,
    reference: np.ndarray | None,
    instruments: EvaluationModels,
    spans: Sequence[tuple[float, float] | None],
    judged_seconds: float,
    planned_seconds: float,
) -> dict:
    """All measures of one continuation.

    Args:
        prompt, continuation: float (samples,).
        reference: the true continuation, or `None` where there is none of that length.
        instruments: what measures.
        spans: of N-MOS-T, from `naturalness.minute_spans`.
        judged_seconds: how long the continuation was to be. Whoever stops before is silent for
            the rest, in what is measured minute by minute.
        planned_seconds: the same for all that are compared; the truth's may be shorter.

    Returns:
        dict of numbers, of lists over time or length, and of the transcripts `text` and
        `prompt_text`; measures that cannot be taken, such as the voice of silence, are `None`.
    """
    prompt_text = words_to_text(instruments.transcriber(prompt))
    turns = speech_turns(continuation) if len(continuation) else []
    # Recognizers make words of digital silence too, and sure ones.
    words = instruments.transcriber(continuation) if turns else []
    text = words_to_text(words)
    plain = plain_words(text)
    nats, units = instruments.text_model.negative_log_likelihood(text)
    seconds = len(prompt) / SAMPLE_RATE
    return {
        "text": text,
        "prompt_text": prompt_text,
        "seconds": len(continuation) / SAMPLE_RATE,
        "num_words": len(words),
        "words_per_minute": len(words) / (judged_seconds / MINUTE),
        "word_confidence": float(np.mean([word.confidence for word in words])) if words else None,
        "nll_nats_per_unit": nats / units if units else None,
        "nats": nats,
        "units": units,
        "semantic_similarity": _similarity(text, reference, instruments),
        "sc_l": semantic_coherence(prompt_text, text, instruments.sentence_embedder),
        # Nobody's voice is like nobody's.
        "speaker_similarity": _cosine(prompt, continuation, instruments.speaker_embedder)
        if turns and speech_turns(prompt)
        else None,
        "n_mos": _short_form(continuation, turns, planned_seconds, instruments.mos_predictor),
        "n_mos_t": naturalness_over_time(continuation, spans, seconds, instruments.mos_predictor),
        "auto_bleu": auto_bleu(plain),
        "auto_bleu_arithmetic": auto_bleu(plain, geometric=False),
        "slamkit_auto_bleu": slamkit_auto_bleu(plain),
        "repeated_4_grams": repeated_fraction(plain),
        "over_time": _over_time(words, turns, continuation, judged_seconds, planned_seconds),
    }


def _similarity(text: str, reference: np.ndarray | None, tools: EvaluationModels) -> float | None:
    """Of what was said to what is true, both transcribed alike."""
    if reference is None:
        return None
    # As of what was said: recognizers make words of silence.
    true_text = words_to_text(tools.transcriber(reference)) if speech_turns(reference) else ""
    return float(semantic_similarity([text], [true_text], tools.sentence_embedder)[0])


def _short_form(
    continuation: np.ndarray, turns: list[Span], planned_seconds: float, predict: MOSPredictor
) -> float | None:
    """Opinion of a whole short continuation: the worst of one without speech."""
    if planned_seconds > SHORT_FORM_SECONDS:
        return None
    return float(predict(continuation)) if turns else 1.0


def _cosine(first: np.ndarray, second: np.ndarray, embed: Callable) -> float | None:
    cosine = float(np.asarray(embed(first)) @ np.asarray(embed(second)))
    return cosine if np.isfinite(cosine) else None


def _over_time(
    words: list,
    turns: list[Span],
    continuation: np.ndarray,
    judged_seconds: float,
    planned_seconds: float,
) -> list[dict]:
    """Silence, non-speech and repetition of each minute of what was to be said.

    A rest of less than half a minute is left out: a second without a word has not failed. Only
    where no more was planned does it count as a minute.
    """
    minutes = max(int(planned_seconds <= MINUTE / 2), round(judged_seconds / MINUTE))
    missing = round(judged_seconds * SAMPLE_RATE) - len(continuation)
    silent = silence_fraction(np.pad(continuation, (0, max(0, missing))), MINUTE)
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
            "non_speech_share": other,
            "repeated_4_grams": found["repeated_fraction"],
            "words": found["num"],
        }
        for quiet, other, found in zip(silent, outside, repeated, strict=False)
    ][:minutes]


GROUND_TRUTH = "ground truth"


@dataclass(frozen=True)
class ComparedItem:
    """A benchmark's recording, and each system's continuation of it.

    Attributes:
        item: the recording.
        continuations: files by system.
        prompt_seconds: how much of the recording is its prompt.
        until_seconds: where what is judged ends, from the start of the prompt.
        with_prompt: systems whose audio begins with the prompt.
    """

    item: BenchmarkItem
    continuations: dict[str, Path]
    prompt_seconds: float
    until_seconds: float
    with_prompt: frozenset[str]

    @property
    def systems(self) -> list[str]:
        """All that are compared, the ground truth last."""
        return [*self.continuations, GROUND_TRUTH]

    def read_prompt(self) -> np.ndarray:
        """float32 (samples,)."""
        return read_audio(self.item.audio)[: round(self.prompt_seconds * SAMPLE_RATE)]

    def read(self, system: str) -> np.ndarray:
        """A system's continuation up to where it is judged, float32 (samples,)."""
        path = self.continuations.get(system, self.item.audio)
        has_prompt = system == GROUND_TRUTH or system in self.with_prompt
        start = self.prompt_seconds if has_prompt else 0.0
        if path.stat().st_size == 0 or read_duration(path) == 0.0:
            return np.zeros(0, "float32")  # a system that failed and wrote a file of nothing
        # The whole, not a part: what is resampled would differ at the cut.
        return read_audio(path)[round(start * SAMPLE_RATE) :][: self.judged_samples]

    @property
    def judged_samples(self) -> int:
        """How long a continuation is where it is judged."""
        return round((self.until_seconds - self.prompt_seconds) * SAMPLE_RATE)

    @property
    def has_reference(self) -> bool:
        """Whether the recording goes on, to a minute, as long as what is judged."""
        return self.until_seconds - self.item.seconds <= 60.0

    def spans(self, system: str) -> list[tuple[float, float] | None]:
        """The 5 s of each minute, the same for all; the truth has none beyond its own end.

        In four minutes nobody has: the last of them ends where the truth does, as the paper's
        t_max (section 7.2).
        """
        end = self.until_seconds
        if end <= LONGEST_FOURTH_MINUTE:
            end = min(end, self.item.seconds)
        spans = minute_spans(self.item.name, self.prompt_seconds, end)
        if system != GROUND_TRUTH:
            return spans
        return [span if span and span[1] <= self.item.seconds + 0.01 else None for span in spans]


def parse_systems(systems: Sequence[str]) -> dict[str, Path]:
    """Folders by system from `name=folder` (or a folder, which its own name names).

    Raises:
        ValueError: no system, a folder is missing, or a name is taken, or holds other than
            letters, digits, spaces, dots, plus, minus and underscores.
    """
    found: dict[str, Path] = {}
    taken = {folder_name(GROUND_TRUTH), "prompt"}  # both are heard beside the systems
    for entry in map(str, systems):
        name, sign, folder = entry.partition("=")
        if not sign or Path(entry).is_dir():
            name, folder = Path(entry).resolve().name, entry
        plain = re.fullmatch(r"\w[\w .+-]*", name)
        if not plain or folder_name(name) in taken:
            raise ValueError(f"{name!r} cannot name a system here; write another name=folder.")
        if not Path(folder).is_dir():
            raise ValueError(f"The folder {folder} of the system {name!r} does not exist.")
        found[name] = Path(folder)
        taken.add(folder_name(name))
    if not found:
        raise ValueError("Name at least one system: name=folder.")
    return found


def folder_name(system: str) -> str:
    """What a system's folder in a report is called."""
    return system.replace(" ", "_").casefold()


def compare_folders(
    systems: Sequence[str],
    benchmark_folder: str | Path,
    *,
    prompt_seconds: float,
    until_seconds: float | None,
    with_prompt: Sequence[str] = (),
    least_reference: float | None = None,
    subset: int | None = None,
    subset_seed: int = 0,
) -> tuple[list[ComparedItem], dict[str, int]]:
    """The recordings that all systems have continued, in order.

    Args:
        systems: `name=folder` each.
        benchmark_folder: the recordings.
        prompt_seconds: length of the prompts.
        until_seconds: where the judged time ends, or `None` for the recordings' ends.
        with_prompt: systems whose audio begins with the prompt.
        least_reference, subset, subset_seed: see `generation.read_benchmark`. Without
            `least_reference`, it is what the folders were generated with, so that a subset is
            drawn from the same recordings.

    Returns:
        The recordings, and by system how many it lacks.

    Raises:
        ValueError: a folder is missing, numbers are out of range, no recording was continued
            by all, or a folder was generated with other prompts or not as far.
    """
    check_times(prompt_seconds, until_seconds)
    folders = parse_systems(systems)
    unknown = sorted(set(with_prompt) - set(folders))
    if unknown:
        raise ValueError(f"with_prompt names {unknown[0]!r}, which is no system.")
    if least_reference is None:
        least_reference = max(map(read_least_reference, folders.values()))
    items = read_benchmark(
        benchmark_folder,
        prompt_seconds,
        least_reference=least_reference,
        subset=subset,
        subset_seed=subset_seed,
    )
    found = {name: name_recordings([folder]) for name, folder in folders.items()}
    lacking = {name: sum(i.name not in known for i in items) for name, known in found.items()}
    compared = [
        ComparedItem(
            item,
            {name: known[item.name] for name, known in found.items()},
            prompt_seconds,
            item.seconds if until_seconds is None else until_seconds,
            frozenset(with_prompt),
        )
        for item in items
        if all(item.name in known for known in found.values())
    ]
    if not compared:
        fewest = max(lacking, key=lacking.get)
        raise ValueError(
            f"No recording of {benchmark_folder} was continued by all systems; {fewest!r} lacks "
            f"{lacking[fewest]} of {len(items)}, such as {items[0].name!r}."
        )
    longest = max(entry.item.seconds for entry in compared)
    for folder in folders.values():
        check_options(folder, prompt_seconds, until_seconds or longest)
    return compared, lacking


FAILED_NON_SPEECH = 0.5
FAILED_REPETITION = 0.5
"""A minute has failed if more than this share of it is no speech, or repeats what was said."""

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
"""Measures that are one number an item."""


def summarize(items: dict[str, dict]) -> dict:
    """Means of what `measure_item` gives, with 99 % confidence intervals.

    Args:
        items: measures by item.

    Returns:
        dict: each of `SCALARS` as `mean_interval` gives it, `perplexity_per_unit` (the
        exponential of the mean likelihood), `pooled_nll_nats_per_unit`, `sc_l`, `n_mos_t` and
        `over_time` as lists of intervals (`proportion_interval`'s of `failed`), `num_items`,
        `num_without_words`, `seconds`.
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
        for name in ("silence_fraction", "non_speech_share", "repeated_4_grams", "words")
    }
    failed = [list(map(has_failed, row)) for row in minutes]
    summary["over_time"]["failed"] = _curve(failed, proportion_interval)
    return summary


def has_failed(minute: dict) -> float:
    """1 if a minute says nothing, is mostly no speech or mostly repeats itself, else 0."""
    return float(
        minute["words"] == 0
        or minute["non_speech_share"] > FAILED_NON_SPEECH
        or minute["repeated_4_grams"] > FAILED_REPETITION
    )


def _curve(rows: list[list], interval: Callable = mean_interval) -> list[dict[str, float]]:
    """Interval at each place over the rows that reach it and have a value there."""
    columns = zip_longest(*rows)
    return [interval([value for value in column if value is not None]) for column in columns]


_DEFINITIONS = 2
"""Raise it whenever a measure of an item changes: what reports keep is then measured anew."""


def evaluate_continuations(
    systems: Sequence[str],
    benchmark_folder: str | Path,
    output_folder: str | Path,
    *,
    prompt_seconds: float = 10.0,
    until_seconds: float | None = None,
    with_prompt: Sequence[str] = (),
    least_reference: float | None = None,
    subset: int | None = None,
    subset_seed: int = 0,
    transcriber: str = OFFLINE_TRANSCRIBER,
    text_model: str = OFFLINE_TEXT_MODEL,
    embedder: str = OFFLINE_EMBEDDER,
    embedder_prompt: str | None = None,
    speaker_embedder: str = OFFLINE_SPEAKER_EMBEDDER,
    judge: str = OFFLINE_JUDGE,
    judge_model: str | None = None,
    players: int = 3,
) -> dict:
    """Compares folders of continuations with one another and with the ground truth.

    Writes `report.json`, `report.md`, `report.html` (with players, one file), plots, and the
    transcripts, measures and verdicts of each recording, from which a run that was killed goes
    on. Compared are the recordings that all systems have.

    Args:
        systems: `name=folder` each, a folder of continuations named as the recordings are. The
            first is the one that the others are judged against.
        benchmark_folder: the recordings, each a prompt and its true continuation.
        output_folder: folder to write.
        prompt_seconds: length of the prompts: 3 in short form, 10 in long form.
        until_seconds: judge no further than this, from the start of the prompt. Defaults to
            `None`: up to where each recording ends. Beyond that there is no ground truth.
        with_prompt: names of the systems whose audio begins with the prompt.
        least_reference: seconds that must follow the prompt in a recording: 200 for the
            paper's win rates, which are of recordings of 3.5 min and more. Defaults to `None`:
            what the systems were generated with.
        subset, subset_seed: only so many recordings, as `evaluate generate` draws them.
        transcriber: `pocketsphinx`, offline; or a name or folder of a speech recognizer that
            `transformers` loads, such as `whisper-small.en`.
        text_model: judges transcripts: `pocketsphinx-trigram`, offline; or a preset, folder or
            handle of a `keras_hub.models.CausalLM`, such as `gemma_2b_en`.
        embedder: compares transcripts with the true text: `all-MiniLM-L6-v2`, offline; or a name
            or folder of a sentence-transformers model.
        embedder_prompt: put before each text, where that model was trained with prompts.
        speaker_embedder: `resemblyzer`, offline; or a name or folder of a model of `transformers`
            with an x-vector head, such as `microsoft/wavlm-base-plus-sv`.
        judge: `likelihood`, offline; the address of an OpenAI-compatible service, such as
            `http://localhost:8000/v1`, its key in the environment variable `OPENAI_API_KEY`; or
            a preset of an instruction-tuned `keras_hub.models.CausalLM`.
        judge_model: the model to ask that service for.
        players: recordings that one can listen to in `report.html`.

    Returns:
        the content of `report.json`.

    Raises:
        ValueError: a folder is missing, two systems have one name, no recording was continued
            by all, a folder was generated with other prompts or not as far, a number is out of
            range, an instrument is unknown, or another process is at this report.
    """
    check_at_least(0, players=players)
    compared, lacking = compare_folders(
        systems,
        benchmark_folder,
        prompt_seconds=prompt_seconds,
        until_seconds=until_seconds,
        with_prompt=with_prompt,
        least_reference=least_reference,
        subset=subset,
        subset_seed=subset_seed,
    )
    folders = parse_systems(systems)
    output = Path(output_folder)
    if output.is_file():
        raise ValueError(f"Cannot write a report to {output}: a file lies there.")
    asked = CachedJudge(open_judge(judge, judge_model), output / "verdicts")
    instruments = load_evaluation_models(
        output / "transcripts", transcriber, text_model, embedder, embedder_prompt, speaker_embedder
    )
    factors = {name: read_real_time_factor(folder) for name, folder in folders.items()}
    output.mkdir(parents=True, exist_ok=True)
    # Two at once would clear each other's unfinished files away.
    with run_lock(output):
        for folder in (output, output / "transcripts", output / "verdicts"):
            remove_partial_files(folder)
        measured = _measure_all(compared, instruments, output)
        games = _side_by_side(compared, measured, next(iter(folders)), asked)
    report = {
        "benchmark": Path(benchmark_folder).resolve().name,
        "prompt_seconds": prompt_seconds,
        "until_seconds": until_seconds,
        "num_items": len(compared),
        "instruments": {**instruments.names(), "judge": asked.name},
        "systems": {
            name: {
                **summarize(items),
                "lacks": lacking.get(name, 0),
                "real_time_factor": factors.get(name),
            }
            for name, items in measured.items()
        },
        "side_by_side": games,
    }
    write_report(report, _heard(compared[:players]), output)
    return report


def _heard(compared: Sequence[ComparedItem]) -> AudioClips:
    """The ends of the prompts and of all continuations."""
    return {
        entry.item.name: {
            "prompt": excerpt(entry.read_prompt()),
            **{name: excerpt(entry.read(name)) for name in entry.systems},
        }
        for entry in compared
    }


def _measure_all(
    compared: Sequence[ComparedItem], instruments: EvaluationModels, output: Path
) -> dict[str, dict[str, dict]]:
    """Measures by system and item; those that are on the disk for the same audio are kept."""
    measured: dict[str, dict[str, dict]] = {name: {} for name in compared[0].systems}
    for number, entry in enumerate(compared, start=1):
        print(f"{number} of {len(compared)}: {entry.item.name}", file=sys.stderr)
        recording = checksum(entry.item.audio)
        for system in entry.systems:
            path = output / "items" / folder_name(system) / f"{entry.item.name}.json"
            key = {
                "definitions": _DEFINITIONS,
                **instruments.names(),
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
                path, key, partial(_measure, entry, system, instruments)
            )
    return measured


def _measure(entry: ComparedItem, system: str, instruments: EvaluationModels) -> dict:
    reference = entry.read(GROUND_TRUTH)
    continuation = reference if system == GROUND_TRUTH else entry.read(system)
    judged = len(reference) if system == GROUND_TRUTH else entry.judged_samples
    return measure_item(
        entry.read_prompt(),
        continuation,
        reference if entry.has_reference else None,
        instruments,
        entry.spans(system),
        judged / SAMPLE_RATE,
        entry.judged_samples / SAMPLE_RATE,
    )


def _side_by_side(
    compared: Sequence[ComparedItem],
    measured: dict[str, dict[str, dict]],
    first: str,
    judge: Judge,
) -> dict:
    """Win rates of each system against the ground truth and against the first system.

    The truth plays where there is one: not for 16 min after recordings of four (section 7.3).
    """
    report: dict = {}
    for other in (GROUND_TRUTH, first):
        games = {}
        for system in (name for name in measured if name != other):
            true = GROUND_TRUTH in (system, other)
            names = [e.item.name for e in compared if e.has_reference or not true]
            if names:
                played = _judge_pairs(judge, measured[system], measured[other], names)
                games[system] = win_rates(played)
        if games:
            report[f"against {other}"] = games
    return report


def _judge_pairs(judge: Judge, ours: dict[str, dict], theirs: dict[str, dict], names: list) -> list:
    """Games on the items of these names, prompt and continuation together."""
    texts = [[items[name]["text"] for name in names] for items in (ours, theirs)]
    return judge_pairs(judge, *texts, prompts=[ours[name]["prompt_text"] for name in names])
