"""How near in meaning what was generated is to what was really said (paper, sections 6.2, 7.1)."""

from collections.abc import Sequence

import numpy as np

from keras_speechssm.evaluation.models.sentence_embedders import SentenceEmbedder


def speaker_similarity(
    prompt: np.ndarray, continuation: np.ndarray, others: Sequence[np.ndarray], embed
) -> dict[str, float]:
    """Whether a continuation keeps the prompt's voice.

    Args:
        prompt, continuation: float (samples,) at 16 kHz.
        others: waveforms of other speakers.
        embed: function from a waveform to a unit vector, such as `open_speaker_embedder()`.

    Returns:
        dict of cosines: `to_prompt`; `to_others_mean` and `to_others_max`, of the
        continuation to the other speakers; and `rank`, 1 if no other is nearer.
    """
    if not others:
        raise ValueError("speaker_similarity needs at least one waveform of another speaker.")
    embedding = embed(continuation)
    to_prompt = float(embed(prompt) @ embedding)
    to_others = np.array([embed(other) @ embedding for other in others], "float64")
    return {
        "to_prompt": to_prompt,
        "to_others_mean": float(to_others.mean()),
        "to_others_max": float(to_others.max()),
        "rank": 1 + int(np.sum(to_others > to_prompt)),
    }


WORDS_PER_SPAN = 100


def semantic_similarity(
    generated: Sequence[str], references: Sequence[str], embed: SentenceEmbedder
) -> np.ndarray:
    """Cosine of each generated continuation's transcript with the true one's.

    With all-MiniLM-L6-v2 and 7 s of speech this is the paper's SBERT; with an embedder of long
    texts and 4 min it stands in for its Gecko score.

    Args:
        generated, references: transcripts, pair by pair; true ones are best transcribed by
            the same recognizer.
        embed: from `open_embedder`.

    Returns:
        float64 (pairs,); 0 where one of the two is empty.
    """
    if len(generated) != len(references):
        raise ValueError(
            f"semantic_similarity takes pairs; got {len(generated)} and {len(references)} texts."
        )
    if not generated:
        return np.zeros(0)
    vectors = np.asarray(embed([*generated, *references]), "float64")
    cosines = (vectors[: len(generated)] * vectors[len(generated) :]).sum(axis=1)
    spoken = [
        bool(one.split()) and bool(other.split())
        for one, other in zip(generated, references, strict=True)
    ]
    return np.where(spoken, cosines, 0.0)


def semantic_coherence(
    prompt: str, continuation: str, embed: SentenceEmbedder, words: int = WORDS_PER_SPAN
) -> list[float]:
    """SC-L: cosine of the prompt's transcript with each span of 100 words (section 7.2).

    Args:
        prompt: transcript of the prompt.
        continuation: transcript of what follows it.
        embed: from `open_embedder`.
        words: words of a span, between white space. Defaults to `100`.

    Returns:
        One value a whole span, in order: the first is of words 0 to 99. A rest of fewer words
        is left out; empty for an empty prompt.
    """
    found = continuation.split()
    spans = [
        " ".join(found[start : start + words]) for start in range(0, len(found) - words + 1, words)
    ]
    if not spans or not prompt.split():
        return []
    vectors = np.asarray(embed([prompt, *spans]), "float64")
    return [float(value) for value in vectors[1:] @ vectors[0]]
