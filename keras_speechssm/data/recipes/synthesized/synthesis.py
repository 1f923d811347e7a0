"""A corpus of synthesized speech: novels read by flite and espeak-ng.

Synthesized speech is free to distribute, its words and phonemes are known, and there is as much
of it as there is text. A recording is consecutive text of one book in one voice, a few minutes
long; the next recording of the book starts where it ended. Files:

    train/<book>/0000_<voice>.wav    16 kHz mono, PCM16, with 0000_<voice>.json next to it
    heldout_books/<book>/...         books that are not in training, voices of training
    heldout_voices/<book>/...        later parts of the same books, voices that are not in training
    parallel/<sentence>_<voice>.wav  held-out sentences, each by the same voices
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import write_audio
from keras_speechssm.data.recipes.synthesized.texts import read_texts
from keras_speechssm.data.recipes.synthesized.voices import (
    Utterance,
    Voice,
    add_reverberation,
    check_programs,
    make_voices,
    set_level,
    text_to_speech,
)
from keras_speechssm.files import atomic_write, save_run_config
from keras_speechssm.shapes import SAMPLE_RATE

HELDOUT_BOOKS = ("alices-adventures-in-wonderland", "the-railway-children")
FLITE_FRACTION = 0.45
MAX_SECONDS = 12.0


@dataclass(frozen=True)
class Recording:
    """One file of the plan: its path, its voice, and the texts of its segments."""

    path: Path
    voice: Voice
    texts: tuple[str, ...]
    seed: int


def prepare_synthesized(
    text_folder: str | Path,
    output_folder: str | Path,
    hours: float,
    seed: int = 0,
    workers: int = 1,
    heldout_hours: float = 0.5,
    parallel_sentences: int = 80,
    parallel_voices: int = 1,
    heldout_books: tuple[str, ...] = HELDOUT_BOOKS,
    recording_seconds: float = 240.0,
    progress: Callable[[str], None] | None = print,
) -> list[Path]:
    """Synthesize the books of a folder as a corpus for training and evaluation.

    The held-out parts are made first, then recordings of all books in turn. If interrupted,
    run it again to resume: finished files are kept, and files are written atomically. The same
    seed gives the same files, whatever the number of workers.

    Args:
        text_folder: Folder of `<book>.txt`, one paragraph per line.
        output_folder: Folder of the corpus. Created if missing.
        hours: Approximate hours of speech for training.
        seed: Seed of voices, pauses, and the assignment of voices to texts.
        workers: Number of synthesizers that run at once.
        heldout_hours: Approximate hours of each of the two held-out parts.
        parallel_sentences: Number of held-out sentences that several voices say.
        parallel_voices: Number of each program's voices that say them, of the training voices
            and of the held-out voices: four times as many voices in all. At most 12.
        heldout_books: Names of the books that are not in training.
        recording_seconds: Approximate length of a recording.
        progress: Called with a line of text now and then; None for silence.

    Returns:
        The paths of all recordings in the order of the plan.

    Raises:
        ValueError: If there are no texts, a held-out book is missing, a number is out of
            range, the folder was started with another seed, other books or another length of
            recordings, or flite or espeak-ng is not installed.
    """
    if min(hours, heldout_hours, parallel_sentences) < 0 or recording_seconds <= 0:
        raise ValueError(
            f"hours {hours}, heldout_hours {heldout_hours}, recording_seconds "
            f"{recording_seconds}: expected 0 or more hours and more than 0 seconds."
        )
    if workers < 1 or not 1 <= parallel_voices <= 12:
        raise ValueError(
            f"workers {workers}, parallel_voices {parallel_voices}: expected 1 or more workers and "
            "1 to 12 voices."
        )
    check_programs()
    books = read_texts(text_folder)
    if absent := set(heldout_books) - set(books):
        raise ValueError(f"Held-out books {sorted(absent)} are not in {text_folder}.")
    heldout = {name: books.pop(name) for name in dict.fromkeys(heldout_books)}
    if not books or not heldout:
        raise ValueError(f"{text_folder} must hold at least one training and one held-out book.")
    # An empty book would be read again and again without end. Each of the two held-out parts
    # reads half of a held-out book.
    short = [name for name, pieces in heldout.items() if len(pieces) < 2]
    short += [name for name, pieces in books.items() if not pieces]
    if short:
        raise ValueError(f"{short[0]}.txt in {text_folder} is too short; expected sentences.")
    root = Path(output_folder)
    # More hours only add recordings. Any of these options would change existing ones.
    save_run_config(
        root,
        seed=seed,
        recording_seconds=float(recording_seconds),
        heldout_books=sorted(heldout_books),
        training_books=sorted(books),
    )
    length = recording_seconds
    plan = _plan_parallel(root, heldout, parallel_sentences, parallel_voices, seed)
    plan += _plan_heldout(root, heldout, heldout_hours, seed, length)
    voices = _voices(seed, heldout=False)
    plan += _plan_readings(root / "train", books, voices, hours, seed, length)
    _record_all(plan, workers, progress)
    return [recording.path for recording in plan]


def _voices(seed: int, heldout: bool) -> tuple[list[Voice], list[Voice]]:
    return make_voices(seed, "flite", heldout), make_voices(seed, "espeak-ng", heldout)


def _plan_readings(
    folder: Path,
    books: dict[str, list[str]],
    voices: tuple[list[Voice], list[Voice]],
    hours: float,
    seed: int,
    seconds: float,
    starts: dict[str, int] | None = None,
) -> list[Recording]:
    """Plan recordings of the books in turn until there are enough hours by estimate.

    A book that was read to its end starts again, in other voices.
    """
    plan, planned = [], 0.0
    position = dict.fromkeys(books, 0) | (starts or {})
    number = 0
    while planned < hours * 3600:
        for book, pieces in books.items():
            if planned >= hours * 3600:
                break
            # Derived from the name, so that a book's recordings do not depend on other books.
            digest = int.from_bytes(hashlib.sha256(f"{folder.name}/{book}".encode()).digest()[:4])
            rng = np.random.default_rng((seed, digest, number))
            program = voices[0 if rng.random() < FLITE_FRACTION else 1]
            voice = program[rng.integers(len(program))]
            texts, length = [], 0.0
            while length < seconds and position[book] < len(pieces):
                texts.append(pieces[position[book]])
                # 0.4 s: the pause that follows each piece.
                length += len(texts[-1]) / voice.characters_per_second + 0.4
                position[book] += 1
            if position[book] == len(pieces):
                position[book] = 0
            path = folder / book / f"{number:04d}_{_file_name(voice)}.wav"
            plan.append(Recording(path, voice, tuple(texts), int(rng.integers(2**31))))
            planned += length
        number += 1
    return plan


def _plan_parallel(
    root: Path,
    books: dict[str, list[str]],
    num_sentences: int,
    num_voices: int,
    seed: int,
) -> list[Recording]:
    kinds = (*_voices(seed, heldout=False), *_voices(seed, heldout=True))
    # The last tenth of the longest held-out book, which no other part uses.
    longest = max(books.values(), key=len)
    cut = len(longest) * 9 // 10
    sentences = [piece for piece in longest[cut:] if piece[-1] in ".!?"][:num_sentences]
    return [
        Recording(root / "parallel" / f"{i:03d}_{_file_name(voice)}.wav", voice, (text,), seed)
        for i, text in enumerate(sentences)
        for kind in kinds
        for voice in kind[:num_voices]
    ]


def _plan_heldout(
    root: Path, books: dict[str, list[str]], hours: float, seed: int, seconds: float
) -> list[Recording]:
    # Two parts of the held-out text before its last tenth, so that parts share no text.
    first = {name: pieces[: len(pieces) // 2] for name, pieces in books.items()}
    second = {name: pieces[len(pieces) // 2 :] for name, pieces in books.items()}
    second = {name: p[: max(len(p) * 4 // 5, 1)] for name, p in second.items()}
    known, unknown = _voices(seed, heldout=False), _voices(seed, heldout=True)
    plan = _plan_readings(root / "heldout_books", first, known, hours, seed, seconds)
    return plan + _plan_readings(root / "heldout_voices", second, unknown, hours, seed, seconds)


def _file_name(voice: Voice) -> str:
    return voice.name.replace(" ", "-").replace("_", "-")


def _record_all(plan: list[Recording], workers: int, progress) -> None:
    # Other processes do the work, so threads keep all cores busy.
    seconds = 0.0
    pool = ThreadPoolExecutor(workers)
    try:
        for number, length in enumerate(pool.map(_record, plan), 1):
            seconds += length
            if progress and (number % 20 == 0 or number == len(plan)):
                progress(f"{number}/{len(plan)} recordings, {seconds / 3600:.2f} h of speech")
    finally:
        # After an error or an interrupt, do not start what is waiting.
        pool.shutdown(wait=True, cancel_futures=True)


def _record(recording: Recording) -> float:
    """Make one recording unless it exists, and return its seconds."""
    sidecar = recording.path.with_suffix(".json")
    if recording.path.is_file() and sidecar.is_file():
        return float(json.loads(sidecar.read_text(encoding="utf-8"))["seconds"])
    waveform, segments = _read_aloud(recording)
    seconds = len(waveform) / SAMPLE_RATE
    content = {"voice": recording.voice.name, "seconds": round(seconds, 4), "segments": segments}
    with atomic_write(sidecar) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    # The audio comes last: if it exists, its segments exist too.
    write_audio(recording.path, waveform)
    return seconds


def _read_aloud(recording: Recording) -> tuple[np.ndarray, list[dict]]:
    rng = np.random.default_rng(recording.seed)
    blocks, segments, position = [], [], 0
    queue = list(recording.texts)
    while queue:
        text = queue.pop(0)
        spoken = text_to_speech(text, recording.voice)
        speech, words = spoken.waveform, text.split()
        if len(speech) > MAX_SECONDS * SAMPLE_RATE and len(words) > 1:
            middle = len(words) // 2
            queue[:0] = [" ".join(words[:middle]), " ".join(words[middle:])]
            continue
        pause = np.zeros(int(rng.uniform(0.05, 0.35) * SAMPLE_RATE), "float32")
        blocks += [speech, pause]
        segments.append(describe_segment(text, spoken, position))
        position += len(speech) + len(pause)
    waveform = add_reverberation(np.concatenate(blocks), recording.voice.reverberation)
    return set_level(waveform, recording.voice.level), segments


def describe_segment(text: str, spoken: Utterance, position: int) -> dict:
    """Return the sidecar's entry for a text whose speech starts at a sample.

    Args:
        text: The text.
        spoken: What a voice made of it.
        position: Sample of the recording at which it starts.
    """
    start = position / SAMPLE_RATE
    return {
        "start": round(start, 4),
        "end": round(start + len(spoken.waveform) / SAMPLE_RATE, 4),
        "text": text,
        "phonemes": spoken.phonemes,
        "phoneme_spans": [
            (round(start + a, 3), round(start + b, 3)) for a, b in spoken.phoneme_spans
        ],
    }
