"""Systems side by side on one benchmark: what `speechssm evaluate continuations` does.

A system is a folder of continuations, `<name>.flac` (or another format) for each recording of
the benchmark: ours or anybody's. The ground truth, transcribed anew, is always one of them.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_speechssm.audio import read_audio
from keras_speechssm.data.speaker_embedding import SpeakerEmbedder
from keras_speechssm.evaluation.comparison_files import write_report
from keras_speechssm.evaluation.comparison_items import (
    GROUND_TRUTH,
    ComparedItem,
    compare_folders,
    parse_systems,
    read_continuation,
)
from keras_speechssm.evaluation.comparison_summary import summarise
from keras_speechssm.evaluation.generation import read_real_time_factor
from keras_speechssm.evaluation.item_measures import Instruments, measure_item
from keras_speechssm.evaluation.judges import OFFLINE_JUDGE, open_judge
from keras_speechssm.evaluation.naturalness import DNSMOSPredictor
from keras_speechssm.evaluation.sentence_embedding import OFFLINE_EMBEDDER, open_embedder
from keras_speechssm.evaluation.side_by_side import (
    Judge,
    play_games,
    truncate_to_shorter,
    win_rates,
)
from keras_speechssm.evaluation.text_models import OFFLINE_TEXT_MODEL, open_text_model
from keras_speechssm.evaluation.transcript_store import TranscriptStore
from keras_speechssm.evaluation.transcription import OFFLINE_TRANSCRIBER, open_transcriber
from keras_speechssm.shapes import SAMPLE_RATE
from keras_speechssm.training.option_checks import check_at_least
from keras_speechssm.whole_files import checksum, write_json


def evaluate_continuations(
    systems: Sequence[str],
    benchmark_folder: str | Path,
    output_folder: str | Path,
    *,
    prompt_seconds: float = 10.0,
    until_seconds: float | None = None,
    with_prompt: Sequence[str] = (),
    transcriber: str = OFFLINE_TRANSCRIBER,
    text_model: str = OFFLINE_TEXT_MODEL,
    embedder: str = OFFLINE_EMBEDDER,
    judge: str = OFFLINE_JUDGE,
    judge_model: str | None = None,
    limit: int | None = None,
    players: int = 3,
) -> dict:
    """Compares folders of continuations with one another and with the ground truth.

    Writes `report.json`, `report.md`, `report.html` (with players, one file), plots, and
    `items/` with the measures of each item, from which a run that was killed goes on.

    Args:
        systems: `name=folder` each, a folder of continuations named as the recordings are. The
            first is the one that the others are judged against.
        benchmark_folder: the recordings, each a prompt and its true continuation.
        output_folder: folder to write.
        prompt_seconds: length of the prompts: 3 in short form, 10 in long form.
        until_seconds: judge no further than this, from the start of the prompt. Defaults to
            `None`: up to where each recording ends. Beyond that there is no ground truth.
        with_prompt: names of the systems whose audio begins with the prompt.
        transcriber: see `transcription.open_transcriber`.
        text_model: see `text_models.open_text_model`.
        embedder: see `sentence_embedding.open_embedder`.
        judge, judge_model: see `judges.open_judge`.
        limit: only the first so many recordings.
        players: recordings that one can listen to in `report.html`.

    Returns:
        the content of `report.json`.

    Raises:
        ValueError: a folder is missing, two systems have one name, a system has none of the
            recordings, or an instrument is unknown.
    """
    check_at_least(1, limit=limit)
    check_at_least(0, players=players)
    compared = compare_folders(systems, benchmark_folder, prompt_seconds, until_seconds, limit)
    unknown = sorted(set(with_prompt) - set(parse_systems(systems)))
    if unknown:
        raise ValueError(f"with_prompt names {unknown[0]!r}, which is no system.")
    output = Path(output_folder)
    instruments = Instruments(
        TranscriptStore(open_transcriber(transcriber), output / "transcripts"),
        open_text_model(text_model),
        open_embedder(embedder),
        SpeakerEmbedder(),
        DNSMOSPredictor(),
    )
    asked = open_judge(judge, judge_model)
    folders = parse_systems(systems)
    names = [*folders, GROUND_TRUTH]
    measured = _measure_all(compared, names, with_prompt, prompt_seconds, instruments, output)
    report = {
        "benchmark": str(Path(benchmark_folder).name),
        "prompt_seconds": prompt_seconds,
        "until_seconds": until_seconds,
        "num_items": len(compared),
        "instruments": {**instruments.names(), "judge": asked.name},
        "systems": {name: summarise(items) for name, items in measured.items()},
        "side_by_side": _side_by_side(measured, next(iter(folders)), asked),
    }
    for name, folder in folders.items():
        report["systems"][name]["real_time_factor"] = read_real_time_factor(folder)
    waveforms = {
        entry.item.name: {
            name: read_continuation(entry, name, name in with_prompt, prompt_seconds)
            for name in [*entry.continuations, GROUND_TRUTH]
        }
        for entry in compared[:players]
    }
    write_report(report, waveforms, output)
    return report


def _measure_all(
    compared: Sequence[ComparedItem],
    systems: Sequence[str],
    with_prompt: Sequence[str],
    prompt_seconds: float,
    instruments: Instruments,
    output: Path,
) -> dict[str, dict[str, dict]]:
    """Measures by system and item; those that are on the disk for the same audio are kept."""
    measured: dict[str, dict[str, dict]] = {name: {} for name in systems}
    for number, entry in enumerate(compared, start=1):
        print(f"{number} of {len(compared)}: {entry.item.name}", file=sys.stderr)
        for system in [*entry.continuations, GROUND_TRUTH]:
            path = output / "items" / system.replace(" ", "_") / f"{entry.item.name}.json"
            key = {
                **instruments.names(),
                "audio": checksum(entry.continuations.get(system, entry.item.audio)),
                "recording": checksum(entry.item.audio),
                "prompt_seconds": prompt_seconds,
                "until_seconds": entry.until_seconds,
                "with_prompt": system in with_prompt,
            }
            kept = _read_kept(path, key)
            if kept is None:
                kept = _measure(entry, system, system in with_prompt, prompt_seconds, instruments)
                write_json(path, {"key": key, "measures": kept})
            measured[system][entry.item.name] = kept
    return measured


def _read_kept(path: Path, key: dict) -> dict | None:
    """What was measured before with the same instruments on the same audio, or `None`."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["measures"] if content["key"] == key else None
    except (ValueError, TypeError, KeyError):
        return None


def _measure(
    entry: ComparedItem,
    system: str,
    with_prompt: bool,
    prompt_seconds: float,
    instruments: Instruments,
) -> dict:
    reference = read_continuation(entry, GROUND_TRUTH, False, prompt_seconds)
    continuation = reference
    end = min(entry.until_seconds, entry.item.seconds)
    if system != GROUND_TRUTH:
        continuation = read_continuation(entry, system, with_prompt, prompt_seconds)
        end = entry.until_seconds
    return measure_item(
        entry.item.name,
        read_audio(entry.item.audio)[: round(prompt_seconds * SAMPLE_RATE)],
        continuation,
        reference,
        instruments,
        end,
    )


def _side_by_side(measured: dict[str, dict[str, dict]], first: str, judge: Judge) -> dict:
    """Win rates of each system against the ground truth and against the first system."""
    report: dict = {}
    for other in (GROUND_TRUTH, first):
        report[f"against {other}"] = {
            system: win_rates(_play(judge, measured[system], measured[other]))
            for system in measured
            if system != other
        }
    return report


def _play(judge: Judge, ours: dict[str, dict], theirs: dict[str, dict]) -> list:
    """Games on the items that both have, prompt and continuation together."""
    shared = [name for name in ours if name in theirs]
    # Cut before the prompt is put in front, which is the same on both sides.
    pairs = [truncate_to_shorter(ours[name]["text"], theirs[name]["text"]) for name in shared]
    prompts = [ours[name]["prompt_text"] for name in shared]
    texts = [
        [f"{prompt} {pair[side]}".strip() for prompt, pair in zip(prompts, pairs, strict=True)]
        for side in (0, 1)
    ]
    return play_games(judge, *texts, truncate=False)
