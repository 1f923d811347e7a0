"""Agreement of token sequences: what is said against who says it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np


def without_repeats(tokens: Sequence[int] | np.ndarray) -> list[int]:
    """Shorten each run of equal tokens to one token, so that tempo counts less."""
    tokens = np.asarray(tokens)
    return tokens[np.append(True, tokens[1:] != tokens[:-1])].tolist() if len(tokens) else []


def normalized_distance(first: Sequence[int], second: Sequence[int]) -> float:
    """Edit distance divided by the longer length: 0 for equal sequences, at most 1."""
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.normalized_distance(list(first), list(second)))


def token_agreement(
    streams: Mapping[tuple[str, str], Sequence[int]], max_pairs: int = 2000
) -> dict:
    """Compare one sentence in two voices with two sentences in one voice.

    Args:
        streams: Token sequences by (sentence, voice).
        max_pairs: Maximal number of pairs of each kind, spread evenly. Defaults to `2000`.

    Returns:
        Mean normalized edit distances `same_sentence` (two voices) and `same_voice` (two
        sentences); `margin`, their difference (0: the tokens identify only the voice; larger
        is better); and `num_pairs` of each kind.

    Raises:
        ValueError: No sentence has two voices, or no voice has two sentences.
    """
    same_sentence = _spread(_pairs(streams, shared=0), max_pairs)
    same_voice = _spread(_pairs(streams, shared=1), max_pairs)
    if not same_sentence or not same_voice:
        raise ValueError(
            "Expected a sentence in two voices and a voice with two sentences; got "
            f"{sorted(streams)[:4]} ... ({len(streams)} recordings)."
        )
    means = [
        float(np.mean([normalized_distance(streams[a], streams[b]) for a, b in pairs]))
        for pairs in (same_sentence, same_voice)
    ]
    return {
        "same_sentence": means[0],
        "same_voice": means[1],
        "margin": means[1] - means[0],
        "num_pairs": (len(same_sentence), len(same_voice)),
    }


def _pairs(streams: Mapping[tuple[str, str], Sequence[int]], shared: int) -> Iterator[tuple]:
    """Pairs of keys that are equal in part `shared` (0 sentence, 1 voice)."""
    groups = defaultdict(list)
    for key in sorted(streams):
        groups[key[shared]].append(key)
    for group in groups.values():
        yield from combinations(group, 2)


def _spread(pairs: Iterator[tuple], limit: int) -> list[tuple]:
    found = list(pairs)
    return found[:: max(1, -(-len(found) // limit))]
