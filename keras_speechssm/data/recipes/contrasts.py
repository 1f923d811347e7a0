"""Small spoken test sets in the manner of sWUGGY and sBLIMP, made by synthesizers.

Both are written in the layout of ZeroSpeech 2021 (`gold.csv` and recordings), so that
`speechssm evaluate zero-speech` scores them:

    lexical/gold.csv     a word of the books against a pseudo-word
    syntactic/gold.csv   a sentence against the same sentence with one word in a wrong form

They are easier than the originals, whose pairs are matched by several measures. Compare their
scores with each other only.
"""

import csv
import hashlib
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import write_audio
from keras_speechssm.data.recipes.synthesized.texts import read_texts
from keras_speechssm.data.recipes.synthesized.voices import (
    Voice,
    check_programs,
    make_voices,
    pronounce,
    set_level,
    text_to_speech,
)
from keras_speechssm.files import atomic_write, save_run_config

VOWELS, CONSONANTS = "aeiou", "bcdfghjklmnpqrstvwxz"

NOUNS = "dog boy girl bird horse teacher doctor sailor".split()
ADJECTIVES = "old young little happy quiet clever".split()
VERBS = "run walk sing sleep smile laugh wait work play swim cook read".split()
WHEN = "every morning|in the evening|all day|at home|near the road".split("|")
PLACES = "in the house|by the river|on the hill|behind the wall|near the door".split("|")


@dataclass(frozen=True)
class Contrast:
    """A correct and an incorrect text, and their further columns of `gold.csv`."""

    right: str
    wrong: str
    details: dict


def word_contrasts(books: dict[str, list[str]], count: int, seed: int = 0) -> list[Contrast]:
    """Pair frequent words of the books with pseudo-words of similar likelihood.

    A pseudo-word differs in one or two letters (vowels for vowels, consonants for consonants),
    is not in any book, and has a similar likelihood by the letter trigrams of the books' words.

    Args:
        books: Texts of each book, from `read_texts`.
        count: Number of pairs.
        seed: Seed of the draws.

    Raises:
        ValueError: If the books have too few words that occur 20 times or more.
        RuntimeError: If flite, which provides the pronunciations, fails.
    """
    text = " ".join(piece for pieces in books.values() for piece in pieces)
    # Words that are mostly in lower case, which excludes names, and no contractions.
    written = Counter(re.findall(r"[A-Za-z']+", text))
    words: Counter = Counter()
    for word, number in written.items():
        words[word.lower()] += number
    frequent = sorted(
        word
        for word, number in words.items()
        if number >= 20 and 4 <= len(word) <= 9 and "'" not in word and 2 * written[word] > number
    )
    rng = np.random.default_rng(seed)
    trigrams: Counter = Counter()
    for word in words:
        trigrams.update(_trigrams(word))
    contrasts: list[Contrast] = []
    taken: set[str] = set()
    for word in rng.permutation(frequent):
        made = _made_up(str(word), words, trigrams, rng)
        # Skip words that sound the same ("collor").
        if made is None or made in taken or pronounce(made) == pronounce(str(word)):
            continue
        taken.add(made)
        details = {"frequency": words[word], "word": word, "length": len(word)}
        contrasts.append(Contrast(str(word), made, details))
        if len(contrasts) == count:
            return contrasts
    raise ValueError(f"The books have words for {len(contrasts)} pairs; expected {count}.")


def _trigrams(word: str) -> list[str]:
    padded = f"^{word}$"
    return [padded[i : i + 3] for i in range(len(padded) - 2)]


def _made_up(word: str, words: Counter, trigrams: Counter, rng) -> str | None:
    """Return the pseudo-word of forty tries whose trigram likelihood is nearest to the word's."""

    def likelihood(letters: str) -> float:
        return float(np.mean([np.log(trigrams[t] + 0.1) for t in _trigrams(letters)]))

    wanted, best = likelihood(word), None
    for _ in range(40):
        letters = list(word)
        for place in rng.choice(len(word), size=1 + rng.integers(2), replace=False):
            kind = VOWELS if letters[place] in VOWELS else CONSONANTS
            letters[place] = str(rng.choice(list(kind)))
        made = "".join(letters)
        if made in words:
            continue
        distance = abs(likelihood(made) - wanted)
        if best is None or distance < best[0]:
            best = distance, made
    return None if best is None else best[1]


def sentence_contrasts(count: int, seed: int = 0) -> list[Contrast]:
    """Pair short sentences with copies that have one word in a wrong form, in four kinds.

    In each kind the correct sentence is the longer one as often as the shorter one; pairs of
    the kind "word-order" have equal length.

    Args:
        count: Number of pairs, at most four times the size of the smallest kind.
        seed: Seed of the draws.

    Raises:
        ValueError: If there are fewer pairs than `count`.
    """
    rng = np.random.default_rng(seed)
    kinds = {name: rng.permutation(pairs) for name, pairs in _sentence_pairs().items()}
    smallest = min(map(len, kinds.values()))
    if count > len(kinds) * smallest:
        raise ValueError(f"There are {len(kinds) * smallest} pairs of sentences; expected {count}.")
    names = list(kinds)
    return [
        Contrast(*map(str, kinds[name][number // len(names)]), {"type": name, "subtype": name})
        for number in range(count)
        for name in [names[number % len(names)]]
    ]


def _sentence_pairs() -> dict[str, list[tuple[str, str]]]:
    """Return all pairs (correct, incorrect) by kind."""
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for noun, verb, when in itertools.product(NOUNS, VERBS, WHEN):
        one, many = f"The {noun} {verb}s {when}.", f"The {noun}s {verb} {when}."
        pairs["subject-verb"] += [
            (one, f"The {noun} {verb} {when}."),
            (many, f"The {noun}s {verb}s {when}."),
        ]
        pairs["auxiliary"] += [
            (f"The {noun} did not {verb} {when}.", f"The {noun} did not {verb}s {when}."),
            (f"The {noun} never {verb}s {when}.", f"The {noun} never {verb} {when}."),
        ]
    for noun, place in itertools.product(NOUNS, PLACES):
        one, many = (f"{noun} {place}." for noun in (noun, f"{noun}s"))
        pairs["determiner-noun"] += [
            (f"I have seen {right} {form}", f"I have seen {right} {other}")
            for right, form, other in (
                ("this", one, many),
                ("that", one, many),
                ("these", many, one),
                ("those", many, one),
            )
        ]
        pairs["word-order"] += [
            (f"The {adjective} {noun} was {place}.", f"The {noun} {adjective} was {place}.")
            for adjective in ADJECTIVES
        ]
    return pairs


def prepare_contrasts(
    text_folder: str | Path,
    output_folder: str | Path,
    *,
    pairs: int = 200,
    seed: int = 0,
) -> dict[str, int]:
    """Write both sets, each pair spoken by two voices.

    If interrupted, run it again to resume.

    Args:
        text_folder: Folder of `<book>.txt`, whose words are used.
        output_folder: Folder that gets `lexical/` and `syntactic/`.
        pairs: Number of pairs of each set.
        seed: Seed of the draws.

    Returns:
        Number of recordings of each set.

    Raises:
        ValueError: If there are no texts or too few words, the folder was started with other
            options or texts, or flite or espeak-ng is not installed.
    """
    if pairs < 1 or seed < 0:
        raise ValueError(f"Expected `pairs` >= 1 and `seed` >= 0. Received: {pairs} and {seed}.")
    check_programs()
    books = read_texts(text_folder)
    said = hashlib.sha256(repr(sorted(books.items())).encode()).hexdigest()[:16]
    sets = {
        "lexical": word_contrasts(books, pairs, seed),
        "syntactic": sentence_contrasts(pairs, seed),
    }
    save_run_config(output_folder, pairs=pairs, seed=seed, texts=said)
    voices = (make_voices(0, "flite")[0], make_voices(0, "espeak-ng")[0])
    output = Path(output_folder)
    return {name: _write_set(output / name, contrasts, voices) for name, contrasts in sets.items()}


def _write_set(folder: Path, contrasts: list[Contrast], voices: Sequence[Voice]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, contrast in enumerate(contrasts):
        for voice in voices:
            # Correct first, pair by pair: ZeroSpeech pairs sentences by their order.
            for correct, text in ((1, contrast.right), (0, contrast.wrong)):
                stem = f"{number:04d}-{correct}-{voice.name}"
                path = folder / f"{stem}.wav"
                if not path.is_file():
                    speech = set_level(text_to_speech(text, voice).waveform, -20.0)
                    # Silence around it: without it a word would start inside a token.
                    write_audio(path, np.pad(speech, 1600))
                named = {"id": number, "filename": stem, "voice": voice.name, "correct": correct}
                rows.append({**named, **contrast.details, "transcription": text})
    with atomic_write(folder / "gold.csv") as temporary:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return len(rows)
