"""Similarity in meaning and in voice."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

WORDS_PER_SPAN = 100


def semantic_similarity(
    generated: Sequence[str],
    references: Sequence[str],
    embed: Callable[[Sequence[str]], np.ndarray],
) -> np.ndarray:
    """Cosine of each generated continuation's transcript with the true one's.

    With all-MiniLM-L6-v2 and 7 s of speech this is the paper's SBERT score. With an embedder of
    long texts and 4 min of speech it replaces the paper's Gecko score.

    Args:
        generated: Transcripts of the generated speech.
        references: Transcripts of the true speech, in the same order, preferably by the same
            recognizer.
        embed: A `SentenceEmbedder`.

    Returns:
        float64 (pairs,); 0 where one of the two texts is empty.

    Raises:
        ValueError: The numbers of texts differ.
    """
    if len(generated) != len(references):
        raise ValueError(
            f"Expected pairs of texts; got {len(generated)} generated and {len(references)} true."
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
    prompt: str,
    continuation: str,
    embed: Callable[[Sequence[str]], np.ndarray],
    words: int = WORDS_PER_SPAN,
) -> list[float]:
    """SC-L: cosine of the prompt's transcript with each span of 100 words (section 7.2).

    Args:
        prompt: Transcript of the prompt.
        continuation: Transcript of what follows the prompt.
        embed: A `SentenceEmbedder`.
        words: Words per span. Defaults to `100`.

    Returns:
        One value per complete span, in order; none for an empty prompt. The words after the
        last complete span are not used.
    """
    found = continuation.split()
    spans = [
        " ".join(found[start : start + words]) for start in range(0, len(found) - words + 1, words)
    ]
    if not spans or not prompt.split():
        return []
    vectors = np.asarray(embed([prompt, *spans]), "float64")
    return [float(value) for value in vectors[1:] @ vectors[0]]


def speaker_similarity(
    prompt: np.ndarray,
    continuation: np.ndarray,
    others: Sequence[np.ndarray],
    embed: Callable[[np.ndarray], np.ndarray],
) -> dict[str, float]:
    """Compare the voice of a continuation with the prompt's and with other voices.

    Args:
        prompt: float (samples,) at 16 kHz.
        continuation: float (samples,) at 16 kHz.
        others: Waveforms of other speakers, at least one.
        embed: Function from a waveform to the unit vector of its voice.

    Returns:
        Cosines: `to_prompt`, and `to_others_mean` and `to_others_max` over the other speakers;
        and `rank`, which is 1 if no other speaker is nearer than the prompt.
    """
    if not others:
        raise ValueError("speaker_similarity needs at least one waveform of another speaker.")
    voice = embed(continuation)
    to_prompt = float(embed(prompt) @ voice)
    to_others = np.array([embed(other) @ voice for other in others], "float64")
    return {
        "to_prompt": to_prompt,
        "to_others_mean": float(to_others.mean()),
        "to_others_max": float(to_others.max()),
        "rank": 1 + int(np.sum(to_others > to_prompt)),
    }


def speaker_identity(
    recordings: Mapping[str, Sequence[np.ndarray]],
    restore: Callable[[np.ndarray], np.ndarray],
    embed: Callable[[np.ndarray], np.ndarray],
    distractors: Mapping[str, np.ndarray] | None = None,
) -> dict:
    """Measure how often restored recordings sound most like their own speaker.

    Args:
        recordings: At least two waveforms (samples,) at 16 kHz per speaker.
        restore: Function from waveform to waveform that is judged, such as a codec.
        embed: Function from a waveform to the unit vector of its voice.
        distractors: One waveform per further speaker, who count among the others. Defaults to
            `None`.

    Returns:
        `to_own` and `to_others`, mean cosines of the restored recordings to the other originals
        of the same speaker, and to those of the other speakers; `nearest_fraction`, how often
        the own speaker is the nearest; `nearest_fraction_originals`, the same for the originals
        themselves, which is the limit of the embedder; `taken_for`, per speaker, how many
        restored recordings were nearest to which other speaker; `num_speakers`, distractors
        included, and `num_recordings`.

    Raises:
        ValueError: There are fewer than two speakers, or one has a single recording.
    """
    if len(recordings) < 2 or min(map(len, recordings.values())) < 2:
        raise ValueError("Expected at least two speakers with at least two recordings each.")
    distractors = distractors or {}
    names = [*recordings, *distractors]
    originals = [*recordings.values(), *([waveform] for waveform in distractors.values())]
    voices = [np.stack([embed(waveform) for waveform in own]) for own in originals]
    own, others, nearest, nearest_originals = [], [], [], []
    taken_for: dict[str, Counter] = defaultdict(Counter)

    def mean_cosines(voice: np.ndarray, known: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([float((of_speaker @ voice).mean()) for of_speaker in known])

    for number, name in enumerate(recordings):
        for place, waveform in enumerate(recordings[name]):
            # The recording itself is not among those that it is compared with.
            known = [
                np.delete(voice, place, axis=0) if other == number else voice
                for other, voice in enumerate(voices)
            ]
            cosines = mean_cosines(embed(restore(waveform)), known)
            own.append(cosines[number])
            others.append(np.delete(cosines, number).mean())
            nearest.append(cosines.argmax() == number)
            if not nearest[-1]:
                taken_for[name][names[cosines.argmax()]] += 1
            nearest_originals.append(mean_cosines(voices[number][place], known).argmax() == number)
    return {
        "to_own": float(np.mean(own)),
        "to_others": float(np.mean(others)),
        "nearest_fraction": float(np.mean(nearest)),
        "nearest_fraction_originals": float(np.mean(nearest_originals)),
        "taken_for": {name: dict(found) for name, found in taken_for.items()},
        "num_speakers": len(names),
        "num_recordings": len(own),
    }
