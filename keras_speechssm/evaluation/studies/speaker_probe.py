"""Who speaks, read off the tokens: how much of the voice is left in them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import recordings_of_speakers
from keras_speechssm.evaluation.studies.resynthesis import log_mel
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.presets import DEFAULT_PRESET
from keras_speechssm.shapes import SAMPLE_RATE


@dataclass(frozen=True)
class Excerpts:
    """Excerpts of recordings: who speaks in each, and which recording it is of.

    Those of a speaker with several recordings are split by recordings, so that neither a room
    nor a story is known; those of one recording by time.
    """

    speakers: tuple[str, ...]
    recordings: tuple[int, ...]

    def split(self) -> tuple[list[int], list[int]]:
        """Places to train on, the first half of each speaker's, and to judge, the second.

        Raises:
            ValueError: fewer than two speakers have two excerpts or more.
        """
        places: dict[str, list[int]] = defaultdict(list)
        for place, speaker in enumerate(self.speakers):
            places[speaker].append(place)
        kept = [group for group in places.values() if len(group) >= 2]
        if len(kept) < 2:
            raise ValueError("A probe needs two speakers of two excerpts or more; give more audio.")
        halves = [self._halve(group) for group in kept]
        return [p for first, _ in halves for p in first], [p for _, last in halves for p in last]

    def _halve(self, group: list[int]) -> tuple[list[int], list[int]]:
        kinds = list(dict.fromkeys(self.recordings[place] for place in group))
        if len(kinds) == 1:
            return group[: len(group) // 2], group[len(group) // 2 :]
        known = set(kinds[: len(kinds) // 2])
        halves: tuple[list[int], list[int]] = ([], [])
        for place in group:
            halves[self.recordings[place] not in known].append(place)
        return halves


def probe_accuracy(features: Sequence[np.ndarray], excerpts: Excerpts) -> float:
    """Share of the judged excerpts whose speaker a linear classifier tells.

    Logistic regression on standardized features.

    Args:
        features: a vector for each excerpt.
        excerpts: whose they are.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    training, judged = excerpts.split()
    x, y = np.stack(features), np.asarray(excerpts.speakers)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    probe.fit(x[training], y[training])
    return float(probe.score(x[judged], y[judged]))


def token_fractions(tokens: np.ndarray, vocabulary_size: int) -> np.ndarray:
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
        audio_folders: in place of them, folders of synthesized speech (`speechssm prepare
            synthesized`), whose files are named after their voices.
        preset: the tokenizer, or a pipeline that has one.
        excerpt_seconds: length of an excerpt.
        max_excerpts: of each speaker, the first ones.

    Returns:
        `tokens`, the accuracy of the probe on how often each token occurs; next to it `chance`,
        the share of the most frequent speaker, and `log_mel`, the accuracy on the mean and
        deviation of 80 mel bands: what there is to know. And `num_speakers`, `num_excerpts`: of
        those judged.
    """
    check_at_least(1.0, excerpt_seconds=excerpt_seconds)
    check_at_least(2, max_excerpts=max_excerpts)
    recordings = recordings_of_speakers(speaker_folders, audio_folders)
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
    names: list[str] = []
    sources: list[int] = []
    shares, spectra = [], []
    counts: Counter = Counter()
    size = round(excerpt_seconds * SAMPLE_RATE)
    for number, (speaker, path) in enumerate(recordings):
        waveform = read_audio(path)
        for start in range(0, len(waveform) - size + 1, size):
            if counts[speaker] == max_excerpts:
                break
            excerpt = waveform[start : start + size]
            counts[speaker] += 1
            names.append(speaker)
            sources.append(number)
            shares.append(token_fractions(np.asarray(tokenize(excerpt)), vocabulary_size))
            bands = log_mel(excerpt)
            spectra.append(np.concatenate([bands.mean(axis=0), bands.std(axis=0)]))
    if not names:
        raise ValueError(f"No recording lasts {excerpt_seconds:g} s; give longer ones.")
    excerpts = Excerpts(tuple(names), tuple(sources))
    judged = Counter(names[place] for place in excerpts.split()[1])
    return {
        "tokens": probe_accuracy(shares, excerpts),
        "chance": max(judged.values()) / judged.total(),
        "log_mel": probe_accuracy(spectra, excerpts),
        "num_speakers": len(judged),
        "num_excerpts": judged.total(),
    }
