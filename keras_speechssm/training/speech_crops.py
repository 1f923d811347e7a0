"""Crops of speech with their transcripts, for training the semantic tokenizer."""

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.data.corpora import (
    Segment,
    find_audio,
    read_durations,
    read_segments,
)
from keras_speechssm.data.transcripts import CTCLabels, PhonemeLabels, read_transcripts
from keras_speechssm.shapes import SAMPLE_RATE, SAMPLES_PER_TOKEN

logger = logging.getLogger(__name__)

T = TypeVar("T")


def augment(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change gain, spectral tilt and noise, to make a model robust to microphones and rooms.

    Args:
        waveform: float32 (samples,).
        rng: Draws the gain (-12 to +6 dB), the tilt (a one-tap filter, -0.5 to 0.5) and, half of
            the time, white noise 15 to 40 dB below the speech.
    """
    tilt = rng.uniform(-0.5, 0.5)
    waveform = waveform + tilt * np.concatenate([waveform[:1], waveform[:-1]])
    if rng.random() < 0.5:
        level = np.sqrt(np.mean(waveform**2)) * 10 ** (-rng.uniform(15, 40) / 20)
        waveform = waveform + level * rng.standard_normal(len(waveform), dtype=np.float32)
    return np.clip(waveform * 10 ** (rng.uniform(-12, 6) / 20), -1, 1).astype("float32")


def change_speed(waveform: np.ndarray, speed: float) -> np.ndarray:
    """Play a waveform faster or slower, which moves pitch and formants.

    Args:
        waveform: float32 (samples,).
        speed: Factor of the speed.
    """
    length = int(len(waveform) / speed)
    places = np.arange(length) * speed
    return np.interp(places, np.arange(len(waveform)), waveform).astype("float32")


def draw_readable(draw: Callable[[], T], attempts: int = 100) -> T:
    """Call a function that reads a random crop until it meets audio that can be read.

    A damaged recording, or one that is shorter than its header says, then costs a warning and
    not the training.

    Args:
        draw: Function that raises `ValueError` if its crop cannot be read.
        attempts: Calls before the error is raised. Defaults to `100`.
    """
    for _ in range(attempts - 1):
        try:
            return draw()
        except ValueError as error:
            logger.warning("A crop was skipped: %s", error)
    return draw()


@dataclass(frozen=True)
class Recording:
    """An audio file.

    Attributes:
        path: Path of the file.
        duration: Duration in seconds.
        segments: Its transcribed segments; empty if there is no transcript.
    """

    path: Path
    duration: float
    segments: tuple[Segment, ...]


class CropBatches:
    """Batches for training a tokenizer, as a function of the batch's number.

    A transcribed crop contains complete consecutive segments, as many as fit, and its edges are
    in pauses. A crop without transcript starts anywhere.

    Args:
        folders: Folders of audio, with or without sidecars.
        crop_seconds: Seconds per crop; shorter crops are padded.
        batch_size: Crops per batch.
        seed: Seed of the crops. Defaults to `0`.
        untranscribed_fraction: Fraction of crops from recordings without transcripts, if there
            are both kinds. Defaults to `0.2`.
        augmented: Whether to change the speed (0.88 to 1.14) and to apply `augment`.
            Defaults to `True`.
        paired: Whether rows `2 * i` and `2 * i + 1` are the same crop at the same speed,
            augmented separately, as `PairAgreement` expects. Defaults to `False`.
        outputs: Names of the model's outputs that learn the labels.
        known_durations: See `read_durations`. Defaults to `None`.
        labels: What the transcripts become. Text comes from sidecars, or from the transcripts of a
            corpus (see `read_transcripts`). Defaults to `None`: `PhonemeLabels`, from sidecars.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        crop_seconds: float,
        batch_size: int,
        seed: int = 0,
        untranscribed_fraction: float = 0.2,
        augmented: bool = True,
        paired: bool = False,
        outputs: Sequence[str] = ("phoneme_logits",),
        known_durations: str | Path | None = None,
        labels: CTCLabels | None = None,
    ):
        if paired and batch_size % 2:
            raise ValueError(f"batch_size is {batch_size}; expected an even number, for pairs.")
        self.crop_steps = int(crop_seconds * SAMPLE_RATE) // SAMPLES_PER_TOKEN
        self.crop_seconds = self.crop_steps * SAMPLES_PER_TOKEN / SAMPLE_RATE
        self.batch_size = batch_size
        self.seed = seed
        self.augmented = augmented
        self.views = 2 if paired else 1
        self.outputs = tuple(outputs)
        self.labels = labels or PhonemeLabels()
        paths = find_audio(folders)
        durations = read_durations(paths, known_durations)
        texts = {} if isinstance(self.labels, PhonemeLabels) else read_transcripts(folders)
        recordings = [
            _describe(*about, texts, self.labels) for about in zip(paths, durations, strict=True)
        ]
        self.plain = [r for r in recordings if not r.segments]
        self.transcribed = [r for r in recordings if r.segments]
        self.untranscribed_fraction = untranscribed_fraction
        if not self.plain or not self.transcribed:
            self.untranscribed_fraction = 1.0 if self.plain else 0.0
        self._plain_weights = _duration_weights(self.plain)
        self._transcribed_weights = _duration_weights(self.transcribed)

    def __call__(self, step: int) -> tuple[dict, dict]:
        """Return the batch of a number.

        Returns:
            `({"waveform": float32 (batch, samples), "padding_mask": bool (batch, time)},
            {output: int32 (batch, 2, time)})`, with the labels of `PhonemeLoss`, the same for
            each output.
        """
        rng = np.random.default_rng((self.seed, step))
        size = (self.batch_size, self.crop_steps)
        waveform = np.zeros((size[0], size[1] * SAMPLES_PER_TOKEN), dtype="float32")
        padding_mask, labels = np.zeros(size, dtype=bool), np.zeros((size[0], 2, size[1]), "int32")
        for first in range(0, self.batch_size, self.views):
            samples, ids, spans = draw_readable(lambda: self._draw(rng))
            rows = slice(first, first + self.views)
            for row in range(first, first + self.views):
                waveform[row, : len(samples)] = augment(samples, rng) if self.augmented else samples
            padding_mask[rows, : -(-len(samples) // SAMPLES_PER_TOKEN)] = True
            labels[rows, 0, : len(ids)] = ids
            for phoneme, start, end in spans:
                labels[rows, 1, start:end] = phoneme
        inputs = {"waveform": waveform, "padding_mask": padding_mask}
        return inputs, dict.fromkeys(self.outputs, labels)

    def _draw(self, rng) -> tuple[np.ndarray, list[int], list[tuple[int, int, int]]]:
        speed = rng.uniform(0.88, 1.14) if self.augmented else 1.0
        span = self.crop_seconds * speed
        chosen: Sequence[Segment] = ()
        if rng.random() < self.untranscribed_fraction:
            recording = self.plain[rng.choice(len(self.plain), p=self._plain_weights)]
            start = rng.uniform(0.0, max(recording.duration - span, 0.0))
            end = start + span
        else:
            which = rng.choice(len(self.transcribed), p=self._transcribed_weights)
            recording = self.transcribed[which]
            start, end, chosen = self._choose_segments(recording, span, rng)
        samples = read_audio(recording.path, start=start, duration=end - start)
        if self.augmented:
            samples = change_speed(samples, speed)
        samples = samples[: self.crop_steps * SAMPLES_PER_TOKEN]
        ids = self.labels.encode(chosen)
        # CTC needs a step for each label and one between equal neighbors.
        repeats = sum(a == b for a, b in itertools.pairwise(ids))
        if len(ids) + repeats > len(samples) // SAMPLES_PER_TOKEN:
            return samples, [], []
        if not isinstance(self.labels, PhonemeLabels):
            return samples, ids, []
        rate = SAMPLE_RATE / SAMPLES_PER_TOKEN / speed
        spans = [
            (number, round((first - start) * rate), round((last - start) * rate))
            for segment in chosen
            for number, (first, last) in zip(
                self.labels.encode([segment]), segment.phoneme_spans, strict=False
            )
        ]
        return samples, ids, spans

    def _choose_segments(self, recording: Recording, span: float, rng):
        """Return start and end of consecutive segments that fit `span` seconds, and these."""
        segments = recording.segments
        # A segment longer than the crop loses its transcript.
        fitting = [i for i, segment in enumerate(segments) if segment.end - segment.start <= span]
        first = int(rng.choice(fitting)) if fitting else int(rng.integers(len(segments)))
        before = segments[first - 1].end if first else 0.0
        last = first
        while last + 1 < len(segments) and segments[last + 1].end - segments[first].start <= span:
            last += 1
        spare = span - (segments[last].end - segments[first].start)
        if spare < 0.0:
            start = rng.uniform(segments[first].start, segments[first].end - span)
            return start, start + span, ()
        after = segments[last + 1].start if last + 1 < len(segments) else recording.duration
        lead = rng.uniform(0.0, min(spare, max(segments[first].start - before, 0.0)))
        start = segments[first].start - lead
        end = min(start + span, max(after, segments[last].end))
        chosen = segments[first : last + 1]
        if not all(map(self.labels.has, chosen)):
            return start, end, ()  # Without a complete transcript, CTC would mislead.
        return start, end, chosen

    def example_waveforms(self, count: int = 128) -> np.ndarray:
        """Return crops without padding, float32 (n, samples), to adapt the log-mel layer.

        Args:
            count: Number of crops. Defaults to `128`.
        """
        rows, step = [], 0
        while len(rows) < count and step < 64:
            inputs, _ = self(step)
            rows.extend(inputs["waveform"][inputs["padding_mask"].all(axis=1)])
            step += 1
        if not rows:  # All recordings are shorter than a crop; padding counts as silence.
            rows = list(self(0)[0]["waveform"])
        return np.stack(rows[:count])


def _describe(path: Path, duration: float, texts: dict[str, str], labels: CTCLabels) -> Recording:
    segments = tuple(read_segments(path) or ())
    if not segments and path.stem in texts:
        segments = (Segment(0.0, duration, texts[path.stem]),)
    if not any(map(labels.has, segments)):
        segments = ()
    return Recording(path, duration, segments)


def _duration_weights(recordings: list[Recording]) -> np.ndarray:
    durations = np.array([recording.duration for recording in recordings])
    return durations / durations.sum() if len(durations) else durations
