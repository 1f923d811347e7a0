"""How much of the speaker is left in the tokens: a linear probe."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import recordings_of_speakers
from keras_speechssm.evaluation.metrics.codec_quality import log_mel_bands
from keras_speechssm.models import SemanticTokenizer
from keras_speechssm.presets import DEFAULT_PRESET
from keras_speechssm.shapes import SAMPLE_RATE


def evaluate_speaker_probe(
    speaker_folders: Sequence[str | Path] = (),
    audio_folders: Sequence[str | Path] = (),
    *,
    preset: str = DEFAULT_PRESET,
    excerpt_seconds: float = 10.0,
    max_excerpts: int = 24,
) -> dict[str, float]:
    """Measure how often a linear probe recognizes the speaker from the tokens of an excerpt.

    Args:
        speaker_folders: One folder of recordings per speaker.
        audio_folders: Instead of them, folders of synthesized speech (`speechssm prepare
            synthesized`) with files named after their voices.
        preset: Preset of the tokenizer, or of a pipeline.
        excerpt_seconds: Length of an excerpt.
        max_excerpts: Maximal number of excerpts per speaker, the first ones.

    Returns:
        `tokens`, the accuracy of a probe on the frequency of each token; for comparison `chance`,
        the fraction of the most frequent speaker, and `log_mel`, the accuracy of a probe on the
        mean and deviation of 80 mel bands; and `num_speakers` and `num_excerpts` of the test set.
    """
    check_at_least(1.0, excerpt_seconds=excerpt_seconds)
    check_at_least(2, max_excerpts=max_excerpts)
    recordings = recordings_of_speakers(speaker_folders, audio_folders)
    tokenizer = SemanticTokenizer.from_preset(preset)
    return probe_recordings(
        recordings, tokenizer.tokenize, tokenizer.vocabulary_size, excerpt_seconds, max_excerpts
    )


@dataclass(frozen=True)
class Excerpts:
    """Excerpts of recordings.

    If a speaker has several recordings, training and test excerpts are from different ones, so
    that neither the room nor the text helps. A single recording is split by time.

    Attributes:
        speakers: Speaker of each excerpt.
        recordings: Number of the recording of each excerpt.
    """

    speakers: tuple[str, ...]
    recordings: tuple[int, ...]

    def split(self) -> tuple[list[int], list[int]]:
        """Split the excerpts of each speaker into training and test places.

        Raises:
            ValueError: Fewer than two speakers have two excerpts.
        """
        places: dict[str, list[int]] = defaultdict(list)
        for place, speaker in enumerate(self.speakers):
            places[speaker].append(place)
        kept = [group for group in places.values() if len(group) >= 2]
        if len(kept) < 2:
            raise ValueError("Expected two speakers with two excerpts each; use more audio.")
        halves = [self._halve(group) for group in kept]
        return [p for first, _ in halves for p in first], [p for _, last in halves for p in last]

    def _halve(self, group: list[int]) -> tuple[list[int], list[int]]:
        recordings = list(dict.fromkeys(self.recordings[place] for place in group))
        if len(recordings) == 1:
            return group[: len(group) // 2], group[len(group) // 2 :]
        for_training = set(recordings[: len(recordings) // 2])
        halves: tuple[list[int], list[int]] = ([], [])
        for place in group:
            halves[self.recordings[place] not in for_training].append(place)
        return halves


def probe_accuracy(features: Sequence[np.ndarray], excerpts: Excerpts) -> float:
    """Accuracy of logistic regression on standardized features on the test excerpts.

    Args:
        features: One vector per excerpt.
        excerpts: Their speakers and recordings.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    training, test = excerpts.split()
    x, y = np.stack(features), np.asarray(excerpts.speakers)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    probe.fit(x[training], y[training])
    return float(probe.score(x[test], y[test]))


def token_frequencies(tokens: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """Square roots of the frequencies of the tokens, float (vocabulary_size,), a unit vector."""
    counts = np.bincount(tokens, minlength=vocabulary_size).astype("float64")
    return np.sqrt(counts / max(counts.sum(), 1.0))


def probe_recordings(
    recordings: Sequence[tuple[str, Path]],
    tokenize: Callable[[np.ndarray], np.ndarray],
    vocabulary_size: int,
    excerpt_seconds: float,
    max_excerpts: int,
) -> dict[str, float]:
    """Probe recordings; see `evaluate_speaker_probe`.

    Args:
        recordings: (speaker, file) each.
        tokenize: Function from a waveform to its tokens.
        vocabulary_size: Number of tokens.
        excerpt_seconds: Length of an excerpt.
        max_excerpts: Maximal number of excerpts per speaker.
    """
    names: list[str] = []
    sources: list[int] = []
    frequencies, spectra = [], []
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
            frequencies.append(token_frequencies(np.asarray(tokenize(excerpt)), vocabulary_size))
            bands = log_mel_bands(excerpt)
            spectra.append(np.concatenate([bands.mean(axis=0), bands.std(axis=0)]))
    if not names:
        raise ValueError(f"No recording is as long as {excerpt_seconds:g} s; use longer ones.")
    excerpts = Excerpts(tuple(names), tuple(sources))
    test = Counter(names[place] for place in excerpts.split()[1])
    return {
        "tokens": probe_accuracy(frequencies, excerpts),
        "chance": max(test.values()) / test.total(),
        "log_mel": probe_accuracy(spectra, excerpts),
        "num_speakers": len(test),
        "num_excerpts": test.total(),
    }
