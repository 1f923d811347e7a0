"""Systems side by side on one benchmark: what `speechssm evaluate continuations` does.

A system is a folder of continuations, `<name>.flac` (or another format) for each recording of
the benchmark: ours or anybody's. The ground truth, transcribed anew, is always one of them.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from keras_speechssm.data.speaker_embedding import OFFLINE_SPEAKER_EMBEDDER
from keras_speechssm.evaluation.comparison_files import Heard, ends_heard, write_report
from keras_speechssm.evaluation.comparison_items import (
    GROUND_TRUTH,
    ComparedItem,
    compare_folders,
    folder_name,
    parse_systems,
)
from keras_speechssm.evaluation.comparison_summary import summarise
from keras_speechssm.evaluation.generation_log import read_real_time_factor
from keras_speechssm.evaluation.item_measures import Instruments, measure_item, open_instruments
from keras_speechssm.evaluation.judges import OFFLINE_JUDGE, RememberedJudge, open_judge
from keras_speechssm.evaluation.sentence_embedding import OFFLINE_EMBEDDER
from keras_speechssm.evaluation.side_by_side import Judge, play_games, win_rates
from keras_speechssm.evaluation.text_models import OFFLINE_TEXT_MODEL
from keras_speechssm.evaluation.transcription import OFFLINE_TRANSCRIBER
from keras_speechssm.shapes import SAMPLE_RATE
from keras_speechssm.training.option_checks import check_at_least
from keras_speechssm.whole_files import checksum, claimed, remembered, remove_partial_files

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
        transcriber: `pocketsphinx`, offline; or a name or folder of a speech recogniser that
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
    asked = RememberedJudge(open_judge(judge, judge_model), output / "verdicts")
    instruments = open_instruments(
        output / "transcripts", transcriber, text_model, embedder, embedder_prompt, speaker_embedder
    )
    factors = {name: read_real_time_factor(folder) for name, folder in folders.items()}
    output.mkdir(parents=True, exist_ok=True)
    # Two at once would clear each other's unfinished files away.
    with claimed(output):
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
                **summarise(items),
                "lacks": lacking.get(name, 0),
                "real_time_factor": factors.get(name),
            }
            for name, items in measured.items()
        },
        "side_by_side": games,
    }
    write_report(report, _heard(compared[:players]), output)
    return report


def _heard(compared: Sequence[ComparedItem]) -> Heard:
    """The ends of the prompts and of all continuations."""
    return {
        entry.item.name: {
            "prompt": ends_heard(entry.read_prompt()),
            **{name: ends_heard(entry.read(name)) for name in entry.systems},
        }
        for entry in compared
    }


def _measure_all(
    compared: Sequence[ComparedItem], instruments: Instruments, output: Path
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
            measured[system][entry.item.name] = remembered(
                path, key, partial(_measure, entry, system, instruments)
            )
    return measured


def _measure(entry: ComparedItem, system: str, instruments: Instruments) -> dict:
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
                played = _play(judge, measured[system], measured[other], names)
                games[system] = win_rates(played)
        if games:
            report[f"against {other}"] = games
    return report


def _play(judge: Judge, ours: dict[str, dict], theirs: dict[str, dict], names: list) -> list:
    """Games on the items of these names, prompt and continuation together."""
    texts = [[items[name]["text"] for name in names] for items in (ours, theirs)]
    return play_games(judge, *texts, prompts=[ours[name]["prompt_text"] for name in names])
