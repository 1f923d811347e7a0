"""Measure how well `speechssm prepare sequences --speech spontaneous` finds monologues.

python benchmarks/monologue_detection.py LIBRISPEECH [LJSPEECH ...] --output result.json

Recordings of known speakers are joined, with pauses, into monologues, dialogs, interviews (three
turns of four are one speaker's) and talks of three. The whole detection then runs on them: voice
activity, speaker embeddings, thresholds. A monologue of which nothing is kept is missed; anything
else of which something is kept is a false alarm. Needs the extras `prepare` and `eval`.
"""

import argparse
import functools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.data.segmentation import (
    Span,
    cut_at_pauses,
    monologue_spans,
    speech_turns,
)
from keras_speechssm.shapes import SAMPLE_RATE

TARGET_SECONDS = 960.0

SAME_VOICE = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85)
MONOLOGUE_FRACTION = (0.8, 0.9, 0.95)

KINDS = {
    "monologue": (0,),
    "dialog": (0, 1),
    "interview": (0, 0, 1, 0),
    "three speakers": (0, 1, 2),
}
"""Who speaks when, again and again."""


def read_speakers(folders: Sequence[str], pattern: str, turn_seconds: float) -> dict:
    """Read the turns of each speaker, cut at pauses.

    Args:
        folders: Folders of recordings of one speaker each.
        pattern: Regular expression that finds the speaker in a file name.
        turn_seconds: Longest turn.
    """
    speakers = defaultdict(list)
    for path in find_audio(folders):
        waveform = read_audio(path)
        for start, stop in cut_at_pauses(waveform, turn_seconds):
            if stop - start >= 2.0:
                turn = waveform[round(start * SAMPLE_RATE) : round(stop * SAMPLE_RATE)]
                speakers[re.match(pattern, path.name)[0]].append(turn)
    return speakers


def join_turns(
    kind: str, speakers: dict[str, list[np.ndarray]], num_turns: int, rng: np.random.Generator
) -> np.ndarray:
    """Join turns of random speakers into a recording.

    Args:
        kind: One of `KINDS`.
        speakers: Turns by speaker.
        num_turns: Most turns of a recording; there are fewer if a speaker has no more.
        rng: Draws speakers, turns, and pauses of 0.1 to 1.5 s.
    """
    order = KINDS[kind]
    needed = {who: order.count(who) for who in order}
    # Enough turns of each for two rounds of the pattern.
    able = sorted(
        name for name, turns in speakers.items() if len(turns) >= 2 * max(needed.values())
    )
    chosen = rng.choice(able, len(needed), replace=False)
    turns = {who: list(rng.permutation(len(speakers[name]))) for who, name in enumerate(chosen)}
    pieces = []
    for number in range(num_turns):
        who = order[number % len(order)]
        if not turns[who]:
            break
        turn = speakers[chosen[who]][turns[who].pop()]
        pieces += [turn, np.zeros(round(rng.uniform(0.1, 1.5) * SAMPLE_RATE), "float32")]
    return np.concatenate(pieces[:-1])


def detect(
    waveform: np.ndarray,
    turns: Sequence[Span],
    embed_audio: Callable[[np.ndarray], np.ndarray],
) -> dict[tuple[float, float], float]:
    """Return the fraction of the speech that is kept with each pair of thresholds."""

    @functools.cache
    def embed(span: Span) -> np.ndarray:
        start, stop = (round(second * SAMPLE_RATE) for second in span)
        return embed_audio(waveform[start:stop])

    kept = {}
    for same_voice in SAME_VOICE:
        for fraction in MONOLOGUE_FRACTION:
            spans = monologue_spans(
                turns, embed, TARGET_SECONDS, same_voice=same_voice, monologue_fraction=fraction
            )
            speech = sum(stop - start for start, stop in spans)
            kept[same_voice, fraction] = speech / max(turns[-1][1] - turns[0][0], 1e-9)
    return kept


def summarize(found: dict[str, list[dict]]) -> list[dict]:
    """Return the errors of each pair of thresholds.

    Args:
        found: Results of `detect` by kind.
    """
    rows = []
    for same_voice in SAME_VOICE:
        for fraction in MONOLOGUE_FRACTION:
            kept = {
                kind: np.array([result[same_voice, fraction] for result in results])
                for kind, results in found.items()
            }
            row = {"same_voice": same_voice, "monologue_fraction": fraction}
            for kind, values in kept.items():
                wrong = values == 0 if kind == "monologue" else values > 0
                row[kind] = 100.0 * float(wrong.mean())
            others = np.concatenate([v > 0 for kind, v in kept.items() if kind != "monologue"])
            row["balanced_error"] = (row["monologue"] + 100.0 * float(others.mean())) / 2
            row["kept_of_monologues"] = 100.0 * float(kept["monologue"].mean())
            rows.append(row)
    return rows


def format_rows(rows: Sequence[dict]) -> str:
    """Return a Markdown table of the result of `summarize`."""
    names = list(rows[0])
    lines = [" | ".join(names), " | ".join(["---"] * len(names))]
    for row in rows:
        values = [f"{row[name]:.2f}" for name in names[:2]] + [f"{row[n]:.1f}" for n in names[2:]]
        lines.append(" | ".join(values))
    return "".join(f"| {line} |\n" for line in lines)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="folders of recordings of one speaker each")
    parser.add_argument("--speaker-pattern", default=r"LJ|\d+", help="speaker in a file name")
    parser.add_argument("--recordings", type=int, default=20, help="recordings of each kind")
    parser.add_argument("--turns", type=int, default=8, help="most turns of a recording")
    parser.add_argument("--turn-seconds", type=float, default=6.0, help="longest turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="file for the results, as JSON")
    arguments = parser.parse_args()
    from keras_speechssm.data.speaker_embedding import open_speaker_embedder

    speakers = read_speakers(arguments.folders, arguments.speaker_pattern, arguments.turn_seconds)
    embed_audio, rng = open_speaker_embedder(), np.random.default_rng(arguments.seed)
    found, seconds = {kind: [] for kind in KINDS}, 0.0
    for kind in KINDS:
        for _ in range(arguments.recordings):
            waveform = join_turns(kind, speakers, arguments.turns, rng)
            seconds += len(waveform) / SAMPLE_RATE
            found[kind].append(detect(waveform, speech_turns(waveform), embed_audio))
    rows = summarize(found)
    print(
        f"{len(speakers)} speakers, {arguments.recordings} recordings of each kind, {seconds:.0f} s"
    )
    print(format_rows(rows))
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
