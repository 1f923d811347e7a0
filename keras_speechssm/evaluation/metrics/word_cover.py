"""Word cover: the fraction of phonemes that are inside words of a lexicon."""

from collections.abc import Iterable, Sequence

import numpy as np

MIN_PHONEMES = 4


def word_cover(
    phonemes: Sequence[str],
    lexicon: Iterable[tuple[str, ...]],
    min_phonemes: int = MIN_PHONEMES,
) -> float:
    """Measure which fraction of a phoneme sequence can be covered by words.

    The words do not overlap, and are chosen so that they cover as many phonemes as possible.
    Short words are left out because chance alone produces them: among shuffled sounds, words of
    four phonemes and more cover less than one percent.

    Args:
        phonemes: Phonemes in order, without pauses.
        lexicon: Pronunciations, each a tuple of phonemes. Pass a `frozenset` when measuring
            many sequences.
        min_phonemes: Shortest word that counts. Defaults to `4`.

    Returns:
        From 0 to 1; NaN for an empty sequence.

    Example:

    ```python
    from keras_speechssm.evaluation.metrics.word_cover import word_cover

    word_cover(["dh", "ax", "k", "ae", "t", "s"], {("k", "ae", "t", "s")})  # 4 / 6
    ```
    """
    phonemes = tuple(phonemes)
    if not phonemes:
        return float("nan")
    words = frozenset(word for word in lexicon if len(word) >= min_phonemes)
    lengths = sorted({len(word) for word in words})
    # best[n]: most phonemes covered among the first n.
    best = [0] * (len(phonemes) + 1)
    for end in range(1, len(phonemes) + 1):
        best[end] = best[end - 1]
        for length in lengths:
            if length > end:
                break
            if phonemes[end - length : end] in words:
                best[end] = max(best[end], best[end - length] + length)
    return best[-1] / len(phonemes)


def mean_word_cover(
    sequences: Sequence[Sequence[str]],
    lexicon: Iterable[tuple[str, ...]],
    min_phonemes: int = MIN_PHONEMES,
) -> float:
    """Word cover over all phonemes of several sequences together; NaN without any."""
    words = frozenset(lexicon)
    lengths = np.array([len(sequence) for sequence in sequences])
    if not lengths.sum():
        return float("nan")
    covers = [word_cover(s, words, min_phonemes) if len(s) else 0.0 for s in sequences]
    return float(np.average(covers, weights=lengths))


def shuffle_runs(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle the runs of equal tokens: the same sounds and durations, but no words.

    Args:
        tokens: int (time,).
        rng: Source of the order.

    Returns:
        int (time,), the runs of `tokens` in another order.
    """
    runs = np.split(tokens, np.flatnonzero(np.diff(tokens)) + 1)
    return np.concatenate([runs[place] for place in rng.permutation(len(runs))])
