"""Small sets in the manner of sWUGGY and sBLIMP, spoken by synthesisers, for where none can be had.

Both are written as ZeroSpeech 2021 has them (`gold.csv` and recordings), so that
`speechssm evaluate zero-speech` scores them:

    lexical/gold.csv     a word of the books against a word that could be one
    syntactic/gold.csv   a sentence against the same with one word in a wrong form

They are easier than the real ones, whose pairs are matched by several measures, and their
figures compare with one another only.
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_speechssm.audio import write_audio
from keras_speechssm.data.books import read_books
from keras_speechssm.data.voices import Utterance, Voice, make_voices, missing_programs, speak
from keras_speechssm.whole_files import whole_file

VOWELS, CONSONANTS = "aeiou", "bcdfghjklmnpqrstvwxz"

NOUNS = "dog boy girl bird horse teacher doctor sailor tree house river garden".split()
VERBS = "run walk sing sleep smile laugh wait work play swim cook read".split()
ADVERBS = "slowly quietly every morning|in the evening|all day|at home|near the road".split("|")
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
        books: from `read_books`.
        count: pairs.
        seed: of the draws.

    Raises:
        ValueError: the books have too few words that occur 20 times or more.
    """
    text = " ".join(piece for pieces in books.values() for piece in pieces)
    words = Counter(re.findall(r"[a-z]+", text.lower()))
    frequent = sorted(w for w, n in words.items() if n >= 20 and 4 <= len(w) <= 9)
    if len(frequent) < count:
        raise ValueError(f"The books have {len(frequent)} words to choose from; {count} are asked.")
    rng = np.random.default_rng(seed)
    trigrams: Counter = Counter()
    for word in words:
        trigrams.update(_trigrams(word))
    contrasts: list[Contrast] = []
    taken: set[str] = set()
    for word in rng.permutation(frequent):
        made = _made_up(str(word), words, trigrams, rng)
        if made is None or made in taken:
            continue
        taken.add(made)
        details = {"frequency": words[word], "word": word, "length": len(word)}
        contrasts.append(Contrast(str(word), made, details))
        if len(contrasts) == count:
            break
    return contrasts


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

    Args:
        count: pairs.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)

    def pick(choices: Sequence[str]) -> str:
        return str(rng.choice(list(choices)))

    contrasts: dict[tuple, Contrast] = {}
    while len(contrasts) < count:
        noun, verb, adverb, place = pick(NOUNS[:8]), pick(VERBS), pick(ADVERBS), pick(PLACES)
        kind = len(contrasts) % 4
        if kind == 0:
            name, many = "subject-verb", f"The {noun}s {verb} {adverb}."
            pair = many, f"The {noun}s {verb}s {adverb}."
            if rng.random() < 0.5:
                pair = f"The {noun} {verb}s {adverb}.", f"The {noun} {verb} {adverb}."
        elif kind == 1:
            noun, name = pick(NOUNS), "determiner-noun"
            right, wrong = (f"{noun}s", noun) if rng.random() < 0.5 else (noun, f"{noun}s")
            word = "these" if right.endswith("s") else "this"
            pair = tuple(f"I have seen {word} {form} {place}." for form in (right, wrong))
        elif kind == 2:
            name = "auxiliary"
            pair = f"The {noun} did not {verb} {adverb}.", f"The {noun} did not {verb}s {adverb}."
        else:
            name = "word-order"
            pair = f"The old {noun} was {place}.", f"The {noun} old was {place}."
        contrasts.setdefault(pair, Contrast(*pair, {"type": name, "subtype": name}))
    return list(contrasts.values())


def prepare_contrasts(
    text_folder: str | Path,
    output_folder: str | Path,
    *,
    pairs: int = 200,
    seed: int = 0,
) -> dict[str, int]:
    """Writes both sets, each pair spoken by two voices; run again, it goes on.

    Args:
        text_folder: folder of `<book>.txt`, whose words are used.
        output_folder: gets `lexical/` and `syntactic/`.
        pairs: of each set.
        seed: of the draws.

    Returns:
        recordings of each set.

    Raises:
        ValueError: there are no texts, too few words, or flite or espeak-ng is not installed.
    """
    if pairs < 1 or seed < 0:
        raise ValueError(f"pairs {pairs}, seed {seed}: expected at least 1 pair, a seed from 0 on.")
    if missing := missing_programs():
        raise ValueError(f"Not installed: {', '.join(missing)}; apt-get install flite espeak-ng.")
    voices = (make_voices(0, "flite")[0], make_voices(0, "espeak-ng")[0])
    sets = {
        "lexical": word_contrasts(read_books(text_folder), pairs, seed),
        "syntactic": sentence_contrasts(pairs, seed),
    }
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
    with whole_file(folder / "gold.csv") as temporary:
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
