"""Pronunciations of English words, for word cover."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from keras_speechssm.data.corpora import PHONEMES
from keras_speechssm.evaluation.models.transcript import APOSTROPHES

COMMON_WORDS = "common"
STORY_WORDS = "stories"

Lexicon = frozenset[tuple[str, ...]]
"""Pronunciations; each is a tuple of names in `keras_speechssm.data.corpora.PHONEMES`."""

_WORDS_PER_CALL = 100
_STORY_WORDS_DRAWN = 50_000


def load_lexicon(name: str | Path = COMMON_WORDS) -> Lexicon:
    """Load a lexicon by its name, or from a text file.

    Args:
        name: `"common"`, the 3,493 words that are used at least 40 times in 22 English novels
            and stories in the public domain; `"stories"`, the vocabulary of `speechssm prepare
            stories`; or a text file with one word per line. A word may be followed by its
            phonemes; otherwise flite pronounces it.

    Returns:
        The pronunciations.

    Raises:
        ValueError: The file does not exist or has an unknown phoneme, or flite is needed and
            not installed.
    """
    if name == COMMON_WORDS:
        text = resources.files(__package__).joinpath("common_words.txt").read_text("utf-8")
        return parse_lexicon(text, COMMON_WORDS)
    if name == STORY_WORDS:
        return pronounce_words(_story_vocabulary())
    if not Path(name).is_file():
        raise ValueError(
            f"The lexicon {str(name)!r} is neither a file nor one of {COMMON_WORDS}, {STORY_WORDS}."
        )
    return parse_lexicon(Path(name).read_text(encoding="utf-8"), str(name))


def parse_lexicon(text: str, source: str) -> Lexicon:
    """Parse lines of `word` or `word phoneme phoneme ...`.

    Args:
        text: The lines. Typographic apostrophes are read as typewriter ones.
        source: Where they come from, for error messages.

    Raises:
        ValueError: An unknown phoneme, or no word at all.
    """
    known, found, silent = frozenset(PHONEMES), set(), []
    for number, line in enumerate(text.splitlines(), start=1):
        word, *phonemes = line.translate(APOSTROPHES).split() or [""]
        unknown = [phoneme for phoneme in phonemes if phoneme not in known]
        if unknown:
            raise ValueError(
                f"{source}, line {number}: unknown phoneme {unknown[0]!r}; expected names such as "
                f"{', '.join(PHONEMES[:4])}, or the word alone."
            )
        if phonemes:
            found.add(tuple(phonemes))
        elif word:
            silent.append(word)
    if not found and not silent:
        raise ValueError(f"{source} has no words; expected one word per line.")
    return frozenset(found) | pronounce_words(silent)


def pronounce_words(words: Sequence[str]) -> Lexicon:
    """Pronounce words by flite's dictionary and rules.

    Args:
        words: Words of ASCII letters and apostrophes.

    Raises:
        ValueError: flite is not installed.
    """
    if not words:
        return frozenset()
    if shutil.which("flite") is None:
        raise ValueError(
            "flite is needed to pronounce the words; install it, or write the phonemes behind "
            "each word."
        )
    found = set()
    for start in range(0, len(words), _WORDS_PER_CALL):
        # Commas make flite pause ("pau") between the words.
        text = ", ".join(words[start : start + _WORDS_PER_CALL])
        command = ["flite", "-voice", "kal16", "-ps", "-t", text, "-o", "none"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found |= {tuple(part.split()) for part in printed.split("pau")}
    return frozenset(word for word in found if word)


def _story_vocabulary() -> list[str]:
    """Collect the words of the story grammar: of its word classes, and of many stories."""
    from keras_speechssm.data.recipes.stories import story_grammar

    texts = [" ".join(words) for words in story_grammar.word_classes().values()]
    for split in story_grammar.SPLITS:
        stories = story_grammar.generate_stories(0, _STORY_WORDS_DRAWN, split)
        texts += [" ".join(story.sentences) for story in stories]
    return sorted(set(re.findall(r"[a-z]+(?:'[a-z]+)?", " ".join(texts).lower())))
