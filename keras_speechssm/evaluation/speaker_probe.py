"""Who speaks, read off the tokens: how much of the voice is left in them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio import read_audio
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.evaluation.codec_quality import log_mel
from keras_speechssm.preset_registry import DEFAULT_PRESET
from keras_speechssm.semantic.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.shapes import SAMPLE_RATE
from keras_speechssm.training.option_checks import check_at_least


def probe_accuracy(features: Sequence[np.ndarray], speakers: Sequence[str]) -> float:
    """Share of the held-out excerpts whose speaker a linear classifier tells.

    Logistic regression on standardised features. Of each speaker the first half of the
    excerpts trains, the second is judged.

    Args:
        features: a vector for each excerpt, in the order of time.
        speakers: who speaks in each.

    Raises:
        ValueError: fewer than two speakers have two excerpts or more.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    places: dict[str, list[int]] = defaultdict(list)
    for place, speaker in enumerate(speakers):
        places[speaker].append(place)
    kept = [group for group in places.values() if len(group) >= 2]
    if len(kept) < 2:
        raise ValueError("A probe needs two speakers of two excerpts or more; give more audio.")
    training = [place for group in kept for place in group[: len(group) // 2]]
    judged = [place for group in kept for place in group[len(group) // 2 :]]
    x, y = np.stack(features), np.asarray(speakers)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    probe.fit(x[training], y[training])
    return float(probe.score(x[judged], y[judged]))


def token_shares(tokens: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """Square roots of how often each token occurs, float (vocabulary_size,): of length 1."""
    counts = np.bincount(tokens, minlength=vocabulary_size).astype("float64")
    return np.sqrt(counts / max(counts.sum(), 1.0))


def evaluate_speaker_probe(
    speaker_folders: Sequence[str | Path] = (),
    audio_folders: Sequence[str | Path] = (),
    *,
    preset: str = DEFAULT_PRESET,
    excerpt_seconds: float = 10.0,
    max_excerpts: int = 24,
) -> dict[str, float]:
    """How often a linear probe tells the speaker from the tokens of an excerpt.

    Args:
        speaker_folders: a folder of recordings for each speaker.
        audio_folders: in place of them, folders of synthesised speech (`speechssm prepare
            synthesized`), whose files are named after their voices.
        preset: the tokenizer, or a pipeline that has one.
        excerpt_seconds: length of an excerpt.
        max_excerpts: of each speaker, the first ones.

    Returns:
        `tokens`, the accuracy of the probe on how often each token occurs; next to it `chance`,
        the share of the most frequent speaker, and `log_mel`, the accuracy on the mean and
        deviation of 80 mel bands: what there is to know. And `num_speakers`, `num_excerpts`.
    """
    check_at_least(1.0, excerpt_seconds=excerpt_seconds)
    check_at_least(2, max_excerpts=max_excerpts)
    if bool(speaker_folders) == bool(audio_folders):
        raise ValueError("Give speaker_folders, or audio_folders of synthesised speech.")
    recordings = [
        (Path(folder).name, path) for folder in speaker_folders for path in find_audio([folder])
    ]
    if audio_folders:
        recordings = [(path.stem.partition("_")[2], path) for path in find_audio(audio_folders)]
    tokenizer = SemanticTokenizer.from_preset(preset)
    return probe_recordings(
        recordings, tokenizer.tokenize, tokenizer.vocabulary_size, excerpt_seconds, max_excerpts
    )


def probe_recordings(
    recordings: Sequence[tuple[str, Path]],
    tokenize: Callable[[np.ndarray], np.ndarray],
    vocabulary_size: int,
    excerpt_seconds: float,
    max_excerpts: int,
) -> dict[str, float]:
    """What `evaluate_speaker_probe` returns, of (speaker, recording) pairs."""
    speakers: list[str] = []
    shares, spectra = [], []
    counts: Counter = Counter()
    size = round(excerpt_seconds * SAMPLE_RATE)
    for speaker, path in recordings:
        if counts[speaker] >= max_excerpts:
            continue
        waveform = read_audio(path)
        for start in range(0, len(waveform) - size + 1, size):
            if counts[speaker] == max_excerpts:
                break
            excerpt = waveform[start : start + size]
            counts[speaker] += 1
            speakers.append(speaker)
            shares.append(token_shares(np.asarray(tokenize(excerpt)), vocabulary_size))
            bands = log_mel(excerpt)
            spectra.append(np.concatenate([bands.mean(axis=0), bands.std(axis=0)]))
    if not speakers:
        raise ValueError(f"No recording lasts {excerpt_seconds:g} s; give longer ones.")
    return {
        "tokens": probe_accuracy(shares, speakers),
        "chance": max(counts.values()) / len(speakers),
        "log_mel": probe_accuracy(spectra, speakers),
        "num_speakers": len(counts),
        "num_excerpts": len(speakers),
    }
