"""Do tokens carry what is said, or who says it? Agreement across voices against chance."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import find_audio, number_and_voice
from keras_speechssm.evaluation.metrics.edit_distance import edit_distance
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.presets import DEFAULT_PRESET


def without_repeats(tokens) -> list[int]:
    """`tokens` with runs of one token shortened to one, so that tempo counts less."""
    tokens = np.asarray(tokens)
    return tokens[np.append(True, tokens[1:] != tokens[:-1])].tolist() if len(tokens) else []


def normalized_distance(first, second) -> float:
    """Edit distance by the longer length: 0 for equal sequences, 1 for nothing in common."""
    longer = max(len(first), len(second))
    return edit_distance(first, second) / longer if longer else 0.0


def token_agreement(streams: dict[tuple[str, str], list[int]], max_pairs: int = 2000) -> dict:
    """Compares token streams of the same sentence in two voices with the reverse.

    Args:
        streams: token sequences by (sentence, voice).
        max_pairs: pairs of each kind at most, spread evenly.

    Returns:
        Mean normalized edit distances and what they were taken over:
        `same_sentence` (two voices), `same_voice` (two sentences), their difference
        `margin` (0 = the tokens know only the voice; larger is better), and `num_pairs`
        of each kind.
    """
    same_sentence = _spread(_pairs(streams, shared=0), max_pairs)
    same_voice = _spread(_pairs(streams, shared=1), max_pairs)
    if not same_sentence or not same_voice:
        raise ValueError(
            "Need a sentence in two voices and a voice with two sentences, got "
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


def evaluate_token_agreement(
    parallel_folder: str | Path, *, preset: str = DEFAULT_PRESET, max_pairs: int = 2000
) -> dict:
    """Token agreement of a tokenizer over recordings of the same sentences.

    Args:
        parallel_folder: folder of recordings named `<number>_<voice>.<suffix>`, the number that
            of the sentence.
        preset: the tokenizer, or a pipeline that has one.
        max_pairs: pairs of each kind at most.

    Returns:
        See `token_agreement`; runs of one token count once.
    """
    check_at_least(1, max_pairs=max_pairs)
    streams = {}
    tokenizer = SemanticTokenizer.from_preset(preset)
    for path in find_audio([parallel_folder]):
        streams[number_and_voice(path)] = without_repeats(tokenizer.tokenize(read_audio(path)))
    return token_agreement(streams, max_pairs)


def _pairs(streams, shared: int) -> Iterator[tuple]:
    """Pairs of keys that agree in part `shared` (0 sentence, 1 voice) and differ in the other."""
    groups = defaultdict(list)
    for key in sorted(streams):
        groups[key[shared]].append(key)
    for group in groups.values():
        yield from combinations(group, 2)


def _spread(pairs, limit: int) -> list:
    pairs = list(pairs)
    stride = max(1, -(-len(pairs) // limit))
    return pairs[::stride]
