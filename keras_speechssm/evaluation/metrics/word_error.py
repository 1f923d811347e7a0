"""Word and phoneme error rates."""

import functools
from collections.abc import Hashable, Sequence


@functools.cache
def _normalizer():
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def normalize_words(text: str) -> list[str]:
    """Split a text into words that compare across recognizers.

    Whisper's normalizer for English removes case, punctuation and fillers, and unifies numbers,
    contractions and British spelling.

    Args:
        text: Any English text.

    Returns:
        The words.

    Example:

    ```python
    from keras_speechssm.evaluation.metrics.word_error import normalize_words

    normalize_words("Mr. Brown didn't see twenty-one birds.")
    # ["mister", "brown", "did", "not", "see", "21", "birds"]
    ```
    """
    return _normalizer()(text).split()


def error_rate(
    references: Sequence[Sequence[Hashable]], hypotheses: Sequence[Sequence[Hashable]]
) -> float:
    """Edits (substitutions, insertions, deletions) per item of the references.

    Args:
        references: True sequences of words or phonemes, one per utterance.
        hypotheses: Recognized sequences, in the same order.

    Returns:
        0 if all is right; above 1 if much is inserted.

    Raises:
        ValueError: The numbers of sequences differ, or the references are empty.
    """
    from rapidfuzz.distance import Levenshtein

    total = sum(map(len, references))
    if not total or len(references) != len(hypotheses):
        raise ValueError(
            "Expected as many hypotheses as references, and at least one reference item; got "
            f"{len(references)} references ({total} items) and {len(hypotheses)} hypotheses."
        )
    pairs = zip(references, hypotheses, strict=True)
    return sum(Levenshtein.distance(list(one), list(other)) for one, other in pairs) / total


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word error rate over all utterances together, after `normalize_words`.

    Args:
        references: True texts.
        hypotheses: Recognized texts, in the same order.
    """
    return error_rate([*map(normalize_words, references)], [*map(normalize_words, hypotheses)])


def mutual_word_error_rate(first: Sequence[str], second: Sequence[str]) -> float:
    """How much two recognizers disagree: edits per word, neither of them being the truth.

    The edits are divided by the mean number of words of both, so the order does not matter.

    Args:
        first: Texts of the one recognizer.
        second: Texts of the other, of the same audio in the same order.

    Returns:
        0 if they agree on every word, 1 if they share none and are of equal length, and at most
        2; NaN if neither has a word.
    """
    from rapidfuzz.distance import Levenshtein

    ours, theirs = [*map(normalize_words, first)], [*map(normalize_words, second)]
    edits = sum(Levenshtein.distance(one, other) for one, other in zip(ours, theirs, strict=True))
    words = (sum(map(len, ours)) + sum(map(len, theirs))) / 2
    return edits / words if words else float("nan")
