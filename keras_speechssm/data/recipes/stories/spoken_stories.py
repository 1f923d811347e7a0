"""Stories as text and as speech: `prepare stories` and `prepare spoken-stories`.

`prepare_spoken_stories` writes numbered recordings:

    <folder>/000/000017_hibari-01.flac     16 kHz mono, with 000017_hibari-01.json beside it
    <folder>/recordings.jsonl              one line per finished recording

Everything about recording n follows from the seed and n, so any prefix of the corpus has the
same mix, and several processes can share the work.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio, write_audio
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.data.recipes.stories.story_grammar import (
    SPLITS,
    generate_stories,
    generate_story,
)
from keras_speechssm.data.recipes.synthesized.synthesis import (
    HELDOUT_BOOKS,
    describe_segment,
)
from keras_speechssm.data.recipes.synthesized.texts import read_texts
from keras_speechssm.data.recipes.synthesized.voices import (
    PROGRAMS,
    Voice,
    check_programs,
    make_voices,
    set_level,
    text_to_speech,
)
from keras_speechssm.files import atomic_write, save_run_config
from keras_speechssm.shapes import SAMPLE_RATE

RECORDINGS = "recordings.jsonl"
# Fractions of the hours: stories, simple sentences of the novels in order, novels as they are.
TEXT_MIX = {"stories": 0.7, "simple": 0.2, "novels": 0.1}
# Relative hours of the programs. Kokoro takes a second of one core per second of speech.
PROGRAM_WEIGHTS = {"hibari": 0.61, "flite": 0.385, "kokoro": 0.005, "espeak-ng": 0.1}
NUM_COMMON_WORDS = 1500
MAX_SIMPLE_WORDS = 12
MAX_GROUP_CHARACTERS = 130
PROMPT_SECONDS = (3.0, 10.0)
PROMPTED_SECONDS = 30.0
# About 250 words take 100 seconds, so this is a story of at least four minutes.
LONG_STORY_WORDS = 620


def prepare_stories(
    output_folder: str | Path,
    num_words: int = 1_000_000,
    *,
    seed: int = 0,
    split: str = "train",
    max_scenes: int = 4,
) -> dict[str, int]:
    """Write generated stories as text.

    Writes `<split>.jsonl` (one story per line: sentences, characters, scenes) and `<split>.txt`
    (one story per line, plain text).

    Args:
        output_folder: Folder for both files. Created if missing.
        num_words: Approximate number of words.
        seed: The same seed gives the same stories.
        split: "train" or "validation". The splits share no names and no scenes.
        max_scenes: Largest number of scenes per story.

    Returns:
        Number of stories, sentences, and words.

    Raises:
        ValueError: If an argument is out of range.
    """
    if num_words < 1 or max_scenes < 1:
        raise ValueError(
            "`num_words` and `max_scenes` must be at least 1. "
            f"Received: {num_words} and {max_scenes}."
        )
    stories = list(generate_stories(seed, num_words, split, max_scenes))
    folder = Path(output_folder)
    lines = [
        json.dumps(
            {
                "sentences": story.sentences,
                "characters": {role: asdict(who) for role, who in story.characters.items()},
                "scenes": story.scenes,
            }
        )
        for story in stories
    ]
    for name, content in (
        (f"{split}.jsonl", lines),
        (f"{split}.txt", [story.text for story in stories]),
    ):
        with atomic_write(folder / name) as temporary:
            temporary.write_text("\n".join(content) + "\n", encoding="utf-8")
    return {
        "stories": len(stories),
        "sentences": sum(len(story.sentences) for story in stories),
        "words": sum(story.num_words for story in stories),
    }


@dataclass(frozen=True)
class _Sources:
    """What recordings are made from."""

    voices: dict[str, list[Voice]]
    prompt_files: list[Path]
    novels: list[list[str]]
    simple: list[str]


def prepare_spoken_stories(
    output_folder: str | Path,
    hours: float,
    *,
    text_folder: str | Path | None = None,
    prompt_folders: Sequence[str | Path] = (),
    programs: Sequence[str] = ("flite",),
    split: str = "train",
    seed: int = 0,
    recording_seconds: float = 240.0,
    prompted_fraction: float = 0.15,
    first: int = 0,
    step: int = 1,
    progress: Callable[[str], None] | None = print,
) -> dict[str, float]:
    """Synthesize stories (70 %) and sentences of novels (30 %) as a corpus for language models.

    A fraction of the hours consists of recordings of 30 s that begin with 3 to 10 s of another
    voice, so that a language model learns to continue anybody's prompt with a story. If
    interrupted, run it again to resume.

    Args:
        output_folder: Folder for the recordings. Created if missing.
        hours: Approximate hours of speech in the folder when done.
        text_folder: Folder of novels, `<book>.txt`, one paragraph per line. Without it all
            recordings are stories.
        prompt_folders: Recordings of people to begin recordings with, besides synthetic voices.
        programs: Synthesizers to use: "flite", "hibari", "kokoro", "espeak-ng".
        split: "train", or "validation" for stories with held-out names and scenes, read by
            the first voice of each kind and by flite's held-out voice.
        seed: Seed of texts, voices, and pauses.
        recording_seconds: Length of a recording without a prompt.
        prompted_fraction: Fraction of the hours that begins with another voice.
        first: Number of the first recording, for several processes that share a folder.
        step: Distance between numbers, for several processes that share a folder.
        progress: Called with a line of text now and then; None for silence.

    Returns:
        Number of recordings and hours in the folder.

    Raises:
        ValueError: If an argument is out of range, a program is not installed, or the folder
            was started with other options.
    """
    if not hours > 0 or not recording_seconds >= 1 or not 0 <= prompted_fraction < 1:
        raise ValueError(
            "Expected positive `hours`, `recording_seconds` of at least 1 and "
            "`prompted_fraction` from 0 to below 1. Received: "
            f"{hours}, {recording_seconds} and {prompted_fraction}."
        )
    if split not in SPLITS:
        raise ValueError(f'`split` must be "train" or "validation". Received: {split!r}.')
    if not programs or set(programs) - set(PROGRAMS):
        raise ValueError(f"`programs` must be some of {PROGRAMS}. Received: {tuple(programs)}.")
    if step < 1 or not 0 <= first < step:
        raise ValueError(f"Expected 0 <= `first` < `step`. Received: {first} and {step}.")
    # flite also provides the phonemes of the other programs.
    check_programs(("flite", *programs))
    sources = _open_sources(text_folder, prompt_folders, programs, split, seed)
    folder = Path(output_folder)
    save_run_config(
        folder,
        seed=seed,
        split=split,
        programs=sorted(programs),
        recording_seconds=float(recording_seconds),
        prompted_fraction=float(prompted_fraction),
        novels=len(sources.novels),
        prompts=len(sources.prompt_files),
    )
    done = _read_finished(folder)
    seconds = sum(done.values())
    number = first
    while seconds < hours * 3600:
        if number not in done:
            done[number] = _record(
                folder, number, seed, split, sources, recording_seconds, prompted_fraction
            )
            seconds += done[number]
            if progress and len(done) % 20 == 0:
                progress(f"{len(done)} recordings, {seconds / 3600:.2f} of {hours:g} h")
        number += step
    return {"recordings": len(done), "hours": round(seconds / 3600, 3)}


def _open_sources(text_folder, prompt_folders, programs, split: str, seed: int) -> _Sources:
    voices = {program: make_voices(seed, program) for program in programs}
    if split == "validation":
        voices = {program: crowd[:3] for program, crowd in voices.items()}
        if "flite" in voices:
            voices["flite"] += make_voices(seed, "flite", heldout=True)[:1]
    prompts = find_audio(prompt_folders) if prompt_folders else []
    if text_folder is None:
        return _Sources(voices, prompts, [], [])
    books = read_texts(text_folder, as_sentences=True)
    novels = [text for name, text in books.items() if text and name not in HELDOUT_BOOKS]
    return _Sources(voices, prompts, novels, simple_sentences(novels))


def simple_sentences(
    books: Iterable[Sequence[str]],
    num_common_words: int = NUM_COMMON_WORDS,
    max_words: int = MAX_SIMPLE_WORDS,
) -> list[str]:
    """Return the sentences of 2 to `max_words` words that use only the commonest words.

    Args:
        books: Sentences of each book.
        num_common_words: Number of different words that count as common in these books.
        max_words: Largest number of words of a sentence.
    """
    words = [(s, re.findall(r"[a-z']+", s.lower())) for sentences in books for s in sentences]
    counts = Counter(word for _, found in words for word in found)
    common = {word for word, _ in counts.most_common(num_common_words)}
    return [
        sentence
        for sentence, found in words
        if 2 <= len(found) <= max_words
        and common.issuperset(found)
        and not re.search(r"\d", sentence)
    ]


def _read_finished(folder: Path) -> dict[int, float]:
    """Return the seconds of the finished recordings by number."""
    path = folder / RECORDINGS
    if not path.is_file():
        return {}
    finished = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            finished[int(entry["number"])] = float(entry["seconds"])
        except (ValueError, KeyError, TypeError):
            # An interrupted process may leave part of a line; its recording is made again.
            continue
    return finished


def _record(folder, number, seed, split, sources, recording_seconds, prompted_fraction) -> float:
    rng = np.random.default_rng((seed, SPLITS.index(split), number))
    # Prompted recordings are shorter, so that their fraction of the files is larger.
    odds = prompted_fraction / PROMPTED_SECONDS
    odds /= odds + (1 - prompted_fraction) / recording_seconds
    is_prompted = split == "train" and rng.random() < odds
    programs = list(sources.voices)
    weights = np.array([PROGRAM_WEIGHTS[program] for program in programs])
    program = programs[rng.choice(len(programs), p=weights / weights.sum())]
    voice = sources.voices[program][rng.integers(len(sources.voices[program]))]
    kinds = list(TEXT_MIX) if sources.simple and split == "train" else ["stories"]
    mix = np.array([TEXT_MIX[kind] for kind in kinds])
    kind = kinds[rng.choice(len(kinds), p=mix / mix.sum())]
    waveform, segments, prompt = _read_aloud(
        _draw_sentences(kind, split, sources, rng),
        voice,
        PROMPTED_SECONDS if is_prompted else recording_seconds,
        _draw_prompt(sources, voice, rng) if is_prompted else None,
        rng,
    )
    name = f"{number // 1000:03d}/{number:06d}_{voice.name}"
    seconds = round(len(waveform) / SAMPLE_RATE, 3)
    about = {"voice": voice.name, "kind": kind, "split": split, "prompt": prompt}
    path = folder / f"{name}.flac"
    with atomic_write(path.with_suffix(".json")) as temporary:
        content = {**about, "seconds": seconds, "segments": segments}
        temporary.write_text(json.dumps(content), encoding="utf-8")
    write_audio(path, waveform)
    line = {"number": number, "path": f"{name}.flac", "seconds": seconds, **about}
    with open(folder / RECORDINGS, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return seconds


def _draw_sentences(kind: str, split: str, sources: _Sources, rng) -> Iterator[str]:
    if kind != "stories":
        source = sources.simple
        if kind == "novels":
            source = sources.novels[rng.integers(len(sources.novels))]
        start = int(rng.integers(max(1, len(source) - 120)))
        while True:
            yield from source[start:]
            start = 0
    # Half of the recordings hold one long story, the others several short ones.
    if rng.random() < 0.5:
        yield from generate_story(rng, 1, split, min_words=LONG_STORY_WORDS).sentences
    while True:
        yield from generate_story(rng, int(rng.integers(1, 4)), split).sentences


def _draw_prompt(sources: _Sources, voice: Voice, rng) -> tuple[str, np.ndarray]:
    """Return the name and the waveform of another voice."""
    samples = int(rng.uniform(*PROMPT_SECONDS) * SAMPLE_RATE)
    if sources.prompt_files and rng.random() < 0.55:
        path = sources.prompt_files[rng.integers(len(sources.prompt_files))]
        waveform = read_audio(path)
        start = int(rng.integers(max(1, len(waveform) - samples)))
        return path.stem, set_level(waveform[start : start + samples], -20.0)
    others = [v for crowd in sources.voices.values() for v in crowd if v != voice]
    # Kokoro is too slow for speech that is only a prompt.
    others = [v for v in others if v.program != "kokoro"] or [voice]
    other = others[rng.integers(len(others))]
    text = " ".join(generate_story(rng).sentences[:4])
    return other.name, set_level(text_to_speech(text, other).waveform[:samples], -20.0)


def _read_aloud(
    sentences: Iterator[str],
    voice: Voice,
    seconds: float,
    prompt: tuple[str, np.ndarray] | None,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[dict], dict | None]:
    """Return a recording of `seconds`, its segments, and the voice of its beginning."""
    limit = int(seconds * SAMPLE_RATE)
    blocks, segments, beginning, position = [], [], None, 0
    if prompt is not None:
        blocks.append(prompt[1])
        position = len(prompt[1])
        beginning = {"voice": prompt[0], "end": round(position / SAMPLE_RATE, 3)}
    for text in _group_sentences(sentences):
        spoken = text_to_speech(text, voice)
        speech = set_level(spoken.waveform, voice.level)
        pause = np.zeros(int(rng.uniform(0.05, 0.35) * SAMPLE_RATE), "float32")
        blocks += [speech, pause]
        # A segment that the end of the recording cuts is not listed.
        if position + len(speech) <= limit:
            segments.append(describe_segment(text, spoken, position))
        position += len(speech) + len(pause)
        if position >= limit:
            break
    return np.concatenate(blocks)[:limit], segments, beginning


def _group_sentences(sentences: Iterator[str]) -> Iterator[str]:
    """Yield groups of sentences that take up to about 10 s to say."""
    group = ""
    for sentence in sentences:
        if group and len(group) + len(sentence) > MAX_GROUP_CHARACTERS:
            yield group
            group = ""
        group = f"{group} {sentence}".strip()
    if group:
        yield group
