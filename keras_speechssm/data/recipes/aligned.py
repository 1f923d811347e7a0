"""Times of known phonemes by forced alignment."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from keras import ops

from keras_speechssm.audio.io import read_audio
from keras_speechssm.data.corpora import PHONEMES, Segment, find_audio, read_segments
from keras_speechssm.files import write_json
from keras_speechssm.models.semantic_tokenizer.phoneme_head import BLANK
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.presets import DEFAULT_PRESET
from keras_speechssm.shapes import SAMPLE_RATE, SAMPLES_PER_TOKEN

MAX_SECONDS = 30.0
"""Longest segment that is aligned: one window of the tokenizer."""


def prepare_aligned(
    audio_folders: Sequence[str | Path], *, tokenizer_preset: str = DEFAULT_PRESET
) -> dict[str, int]:
    """Write the times of the phonemes next to recordings, by forced alignment.

    `speechssm train tokenizer` learns sooner from phonemes whose times are known, and only flite
    reports them. A tokenizer that was trained on flite's finds them for all others. Times that are
    there are kept; if interrupted, run it again to resume.

    Args:
        audio_folders: Folders of recordings with their phonemes in sidecar files, from
            `speechssm prepare transcribed` or `speechssm prepare spoken-stories`.
        tokenizer_preset: Preset of a `SemanticTokenizer` that reads phonemes.

    Returns:
        `{"aligned", "known", "not_aligned"}`: the number of segments whose times were
        found, were there before, or are missing because there are no phonemes, more of them than
        steps of 40 ms, or more than 30 s.

    Raises:
        ValueError: If there are no recordings, a sidecar is damaged, or the tokenizer was not
            trained with phonemes.
    """
    tokenizer = SemanticTokenizer.from_preset(tokenizer_preset)
    if tokenizer.labels is not None:
        raise ValueError(
            f"The tokenizer {tokenizer_preset!r} was trained with text, not with phonemes."
        )
    counts = {"aligned": 0, "known": 0, "not_aligned": 0}
    for path in find_audio(audio_folders):
        segments = read_segments(path) or []
        aligned = [_with_spans(path, segment, tokenizer, counts) for segment in segments]
        if aligned != segments:
            _replace_spans(path.with_suffix(".json"), aligned)
    return counts


def align_labels(log_probabilities: np.ndarray, labels: Sequence[int]) -> np.ndarray | None:
    """Find the most likely path of CTC through known labels.

    Args:
        log_probabilities: float (time, classes), logarithms; class 0 is the blank.
        labels: Classes in order, without blanks.

    Returns:
        int (labels, 2): the first step of each label, and the step after its last one. `None` if
        there are too few steps: one for each label and one between equal neighbors.

    Reference:
        - [Graves et al., 2006](https://www.cs.toronto.edu/~graves/icml_2006.pdf), section 4.1,
          with the maximum instead of the sum.
    """
    labels = np.asarray(labels, dtype="int64")
    num_steps = len(log_probabilities)
    if num_steps < len(labels) + np.count_nonzero(labels[1:] == labels[:-1]):
        return None
    # Labels with a blank before, between and after them.
    states = np.full(2 * len(labels) + 1, BLANK)
    states[1::2] = labels
    may_skip = np.zeros(len(states), dtype=bool)  # the blank between different labels
    may_skip[3::2] = labels[1:] != labels[:-1]
    emitted = np.asarray(log_probabilities, dtype="float64")[:, states]
    scores = np.full(len(states), -np.inf)
    scores[:2] = emitted[0, :2]
    steps_back = np.zeros((num_steps, len(states)), dtype="int8")
    for step in range(1, num_steps):
        before = np.concatenate([[-np.inf, -np.inf], scores])
        candidates = np.stack([scores, before[1:-1], np.where(may_skip, before[:-2], -np.inf)])
        steps_back[step] = candidates.argmax(axis=0)
        scores = candidates.max(axis=0) + emitted[step]
    path = np.empty(num_steps, dtype="int64")
    path[-1] = len(states) - np.argmax(scores[:-3:-1]) - 1  # the last label, or a blank after it
    for step in range(num_steps - 1, 0, -1):
        path[step - 1] = path[step] - steps_back[step, path[step]]
    places = 2 * np.arange(len(labels)) + 1
    first, past_last = np.searchsorted(path, places), np.searchsorted(path, places, side="right")
    return np.stack([first, past_last], axis=1)


def _with_spans(path: Path, segment: Segment, tokenizer, counts: dict[str, int]) -> Segment:
    """Return the segment with the times of its phonemes, and count it."""
    duration = segment.end - segment.start
    spans = None
    if segment.phoneme_spans:
        counts["known"] += 1
        return segment
    if segment.phonemes and duration <= MAX_SECONDS:
        waveform = read_audio(path, start=segment.start, duration=duration)
        labels = [PHONEMES.index(name) + 1 for name in segment.phonemes]
        spans = align_labels(_log_probabilities(tokenizer, waveform), labels)
    if spans is None:
        counts["not_aligned"] += 1
        return segment
    counts["aligned"] += 1
    times = np.minimum(segment.start + spans * (SAMPLES_PER_TOKEN / SAMPLE_RATE), segment.end)
    return dataclasses.replace(segment, phoneme_spans=tuple(map(tuple, times.round(3).tolist())))


def _log_probabilities(tokenizer: SemanticTokenizer, waveform: np.ndarray) -> np.ndarray:
    num_steps = -(-len(waveform) // SAMPLES_PER_TOKEN)
    padded = np.pad(waveform, (0, num_steps * SAMPLES_PER_TOKEN - len(waveform)))
    outputs = tokenizer(
        {"waveform": padded[None], "padding_mask": np.ones((1, num_steps), dtype=bool)}
    )
    return ops.convert_to_numpy(ops.log_softmax(outputs["phoneme_logits"][0], axis=-1))


def _replace_spans(sidecar: Path, segments: Sequence[Segment]) -> None:
    content = json.loads(sidecar.read_text(encoding="utf-8"))
    for entry, segment in zip(content["segments"], segments, strict=True):
        entry["phoneme_spans"] = segment.phoneme_spans
    write_json(sidecar, content)
