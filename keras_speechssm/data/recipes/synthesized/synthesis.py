"""A corpus of synthesized speech: novels read aloud by flite and espeak-ng.

Speech made this way may be given to anyone, its words and phonemes are known, and there
is as much of it as there is text. A recording is consecutive text of one book in one
voice, some minutes long, and the next recording of the book goes on where it ended.
What is written:

    train/<book>/0000_<voice>.wav    16 kHz mono, PCM16, with 0000_<voice>.json beside it
    heldout_books/<book>/...         books never heard in training, voices of training
    heldout_voices/<book>/...        the same books further on, voices never heard in training
    parallel/<sentence>_<voice>.wav  held-out sentences, each in the same voices
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
    make_voices,
    missing_programs,
    speak,
)
from keras_speechssm.files import atomic_write, save_run_config
from keras_speechssm.shapes import SAMPLE_RATE

HELDOUT_BOOKS = ("alices-adventures-in-wonderland", "the-railway-children")
FLITE_SHARE = 0.45
MAX_SECONDS = 12.0


@dataclass(frozen=True)
class Recording:
    """One file to make: where it goes, who speaks, and the texts of its segments."""

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
    """Has the books of a folder read aloud, as a corpus to train and to evaluate on.

    The held-out parts are made first, then training data of all books in turn. A run
    that was interrupted goes on where it was: finished files stay, and no file is ever
    half written. The same seed gives the same files, whatever the number of workers.

    Args:
        text_folder: Folder of `<book>.txt`, one paragraph a line.
        output_folder: Where the corpus goes; made if missing.
        hours: About how much to make for training, in hours of speech.
        seed: Decides voices, pauses and which voice reads what.
        workers: How many synthesizers run at once.
        heldout_hours: About how much for each of the two held-out parts.
        parallel_sentences: How many held-out sentences each of some voices says.
        parallel_voices: How many of each program's voices say them, of those that training
            hears and as many of those that it never does: four times as many voices in all. At
            most 12, as flite has no more that are held out, all of them one speaker's.
        heldout_books: Names of the books that training never hears.
        recording_seconds: About how long a recording is.
        progress: Called with a line now and then; None for silence.

    Returns:
        The paths of all recordings, in the order in which they were planned.

    Raises:
        ValueError: If there are no texts, a held-out book is missing, a number is out of
            range, the folder was begun with another seed, other books or another length of
            recordings, or flite or espeak-ng is not installed.
    """
    if min(hours, heldout_hours, parallel_sentences) < 0 or recording_seconds <= 0:
        raise ValueError(
            f"hours {hours}, heldout_hours {heldout_hours}, recording_seconds "
            f"{recording_seconds}: expected 0 or more hours, some seconds."
        )
    if workers < 1 or not 1 <= parallel_voices <= 12:
        raise ValueError(
            f"workers {workers}, parallel_voices {parallel_voices}: expected 1 or more, voices "
            "up to 12."
        )
    if missing := missing_programs():
        raise ValueError(f"Not installed: {', '.join(missing)}; apt-get install flite espeak-ng.")
    books = read_texts(text_folder)
    if absent := set(heldout_books) - set(books):
        raise ValueError(f"Held-out books {sorted(absent)} are not in {text_folder}.")
    heldout = {name: books.pop(name) for name in dict.fromkeys(heldout_books)}
    if not books or not heldout:
        raise ValueError(f"{text_folder} must hold at least one book to train on, one held out.")
    # A book that says nothing would be read again and again without end; of those that are held
    # out each part reads a half.
    short = [name for name, pieces in heldout.items() if len(pieces) < 2]
    short += [name for name, pieces in books.items() if not pieces]
    if short:
        raise ValueError(f"{short[0]}.txt in {text_folder} is too short: expected sentences.")
    root = Path(output_folder)
    # More hours only add recordings; anything else here would give others the old ones' places.
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
    """Recordings of the books in turn until there are enough hours by estimate.

    A book that is read to its end begins again, in other voices.
    """
    plan, planned = [], 0.0
    position = dict.fromkeys(books, 0) | (starts or {})
    number = 0
    while planned < hours * 3600:
        for book, pieces in books.items():
            if planned >= hours * 3600:
                break
            # Named by content, so that a book's recordings depend on no other book.
            digest = int.from_bytes(hashlib.sha256(f"{folder.name}/{book}".encode()).digest()[:4])
            rng = np.random.default_rng((seed, digest, number))
            program = voices[0 if rng.random() < FLITE_SHARE else 1]
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
    # The last tenth of the longest held-out book: no other part has its words.
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
    # Two parts of the held-out text before its last tenth, so that none repeats another's words.
    first = {name: pieces[: len(pieces) // 2] for name, pieces in books.items()}
    second = {name: pieces[len(pieces) // 2 :] for name, pieces in books.items()}
    second = {name: p[: max(len(p) * 4 // 5, 1)] for name, p in second.items()}
    known, unknown = _voices(seed, heldout=False), _voices(seed, heldout=True)
    plan = _plan_readings(root / "heldout_books", first, known, hours, seed, seconds)
    return plan + _plan_readings(root / "heldout_voices", second, unknown, hours, seed, seconds)


def _file_name(voice: Voice) -> str:
    return voice.name.replace(" ", "-").replace("_", "-")


def _record_all(plan: list[Recording], workers: int, progress) -> None:
    # The work is done by other processes, so threads are enough to keep all cores busy.
    seconds = 0.0
    pool = ThreadPoolExecutor(workers)
    try:
        for number, length in enumerate(pool.map(_record, plan), 1):
            seconds += length
            if progress and (number % 20 == 0 or number == len(plan)):
                progress(f"{number}/{len(plan)} recordings, {seconds / 3600:.2f} h of speech")
    finally:
        # After an error or an interrupt what has not begun is not begun.
        pool.shutdown(wait=True, cancel_futures=True)


def _record(recording: Recording) -> float:
    """Makes one recording unless it is there, and returns its seconds."""
    sidecar = recording.path.with_suffix(".json")
    if recording.path.is_file() and sidecar.is_file():
        return float(json.loads(sidecar.read_text(encoding="utf-8"))["seconds"])
    waveform, segments = _read_aloud(recording)
    seconds = len(waveform) / SAMPLE_RATE
    content = {"voice": recording.voice.name, "seconds": round(seconds, 4), "segments": segments}
    with atomic_write(sidecar) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    # The audio comes last: where it lies, its segments lie too.
    write_audio(recording.path, waveform)
    return seconds


def _read_aloud(recording: Recording) -> tuple[np.ndarray, list[dict]]:
    rng = np.random.default_rng(recording.seed)
    blocks, segments, position = [], [], 0
    queue = list(recording.texts)
    while queue:
        text = queue.pop(0)
        spoken = speak(text, recording.voice)
        speech, words = spoken.waveform, text.split()
        if len(speech) > MAX_SECONDS * SAMPLE_RATE and len(words) > 1:
            middle = len(words) // 2
            queue[:0] = [" ".join(words[:middle]), " ".join(words[middle:])]
            continue
        pause = np.zeros(int(rng.uniform(0.05, 0.35) * SAMPLE_RATE), "float32")
        blocks += [speech, pause]
        segments.append(_describe(text, spoken, position))
        position += len(speech) + len(pause)
    waveform = add_reverberation(np.concatenate(blocks), recording.voice.reverberation)
    level = np.sqrt(np.mean(np.square(waveform))) + 1e-9
    gain = 10 ** (recording.voice.level / 20) / level
    gain = min(gain, 0.95 / (np.abs(waveform).max() + 1e-9))
    return (waveform * gain).astype("float32"), segments


def _describe(text: str, spoken: Utterance, position: int) -> dict:
    """The sidecar's entry for a text that was spoken from sample `position` on."""
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
