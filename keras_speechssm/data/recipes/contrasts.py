"""Small sets in the manner of sWUGGY and sBLIMP, spoken by synthesizers, for where none can be had.

Both are written as ZeroSpeech 2021 has them (`gold.csv` and recordings), so that
`speechssm evaluate zero-speech` scores them:

    lexical/gold.csv     a word of the books against a word that could be one
    syntactic/gold.csv   a sentence against the same with one word in a wrong form

They are easier than the real ones, whose pairs are matched by several measures, and their
figures compare with one another only.
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
    Utterance,
    Voice,
    make_voices,
    missing_programs,
    pronounce,
    speak,
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
    """Two texts of which the first is right, and what `gold.csv` says of both."""

    right: str
    wrong: str
    details: dict


def word_contrasts(books: dict[str, list[str]], count: int, seed: int = 0) -> list[Contrast]:
    """Frequent words of the books, each against a made-up word nearest to it in likelihood.

    The made-up word differs in one or two letters, vowels for vowels and consonants for
    consonants, occurs in no book, and its letters are about as likely to follow one another
    (letter trigrams of the books' words).

    Args:
        books: from `read_texts`.
        count: pairs.
        seed: of the draws.

    Raises:
        ValueError: the books have too few words that occur 20 times or more.
        RuntimeError: flite, which tells how both are said, fails.
    """
    text = " ".join(piece for pieces in books.values() for piece in pieces)
    # Mostly in lower case: no names. Contractions are whole words here, and no candidates.
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
        # What is said alike is no contrast: "collor".
        if made is None or made in taken or pronounce(made) == pronounce(str(word)):
            continue
        taken.add(made)
        details = {"frequency": words[word], "word": word, "length": len(word)}
        contrasts.append(Contrast(str(word), made, details))
        if len(contrasts) == count:
            return contrasts
    raise ValueError(f"The books have words for {len(contrasts)} pairs; {count} are asked.")


def _trigrams(word: str) -> list[str]:
    padded = f"^{word}$"
    return [padded[i : i + 3] for i in range(len(padded) - 2)]


def _made_up(word: str, words: Counter, trigrams: Counter, rng) -> str | None:
    """Of forty tries the one whose trigrams are most nearly as frequent as the word's."""

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
    """Short sentences against the same with one word in a wrong form, four kinds in turn.

    In each kind the right sentence is the longer one as often as the shorter one; in the one of
    word order both are equally long.

    Args:
        count: pairs, up to four times as many as the smallest kind has.
        seed: of the draws.

    Raises:
        ValueError: more pairs are asked than there are.
    """
    rng = np.random.default_rng(seed)
    kinds = {name: rng.permutation(pairs) for name, pairs in _sentence_pairs().items()}
    smallest = min(map(len, kinds.values()))
    if count > len(kinds) * smallest:
        raise ValueError(
            f"There are {len(kinds) * smallest} pairs of sentences; {count} are asked."
        )
    names = list(kinds)
    return [
        Contrast(*map(str, kinds[name][number // len(names)]), {"type": name, "subtype": name})
        for number in range(count)
        for name in [names[number % len(names)]]
    ]


def _sentence_pairs() -> dict[str, list[tuple[str, str]]]:
    """All pairs (right, wrong) by kind."""
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
    """Writes both sets, each pair spoken by two voices; run again with the same, it goes on.

    Args:
        text_folder: folder of `<book>.txt`, whose words are used.
        output_folder: gets `lexical/` and `syntactic/`.
        pairs: of each set.
        seed: of the draws.

    Returns:
        recordings of each set.

    Raises:
        ValueError: there are no texts, too few words, the folder was begun with other options or
            texts, or flite or espeak-ng is not installed.
    """
    if pairs < 1 or seed < 0:
        raise ValueError(f"pairs {pairs}, seed {seed}: expected at least 1 pair, a seed from 0 on.")
    if missing := missing_programs():
        raise ValueError(f"Not installed: {', '.join(missing)}; apt-get install flite espeak-ng.")
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
            # Right first, pair after pair: ZeroSpeech pairs sentences by their order.
            for correct, text in ((1, contrast.right), (0, contrast.wrong)):
                stem = f"{number:04d}-{correct}-{voice.name}"
                path = folder / f"{stem}.wav"
                if not path.is_file():
                    _write_spoken(path, speak(text, voice))
                named = {"id": number, "filename": stem, "voice": voice.name, "correct": correct}
                rows.append({**named, **contrast.details, "transcription": text})
    with atomic_write(folder / "gold.csv") as temporary:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return len(rows)


def _write_spoken(path: Path, spoken: Utterance) -> None:
    level = np.sqrt(np.mean(spoken.waveform**2)) + 1e-9
    gain = min(0.1 / level, 0.95 / (np.abs(spoken.waveform).max() + 1e-9))
    # Silence around it: a word cut out to its edges would begin in the middle of a token.
    write_audio(path, np.pad(gain * spoken.waveform, 1600))
