import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_speechssm.audio.io import write_audio
from keras_speechssm.data.corpora import PHONEMES, read_segments
from keras_speechssm.data.recipes import aligned
from keras_speechssm.data.recipes.aligned import align_labels, prepare_aligned
from keras_speechssm.models.semantic_tokenizer.phoneme_head import collapse

pytestmark = pytest.mark.any_backend


def spans_of(path, labels):
    """First step and step after the last one of each label in a path of classes."""
    spans, before = [], 0
    for step, now in enumerate(path):
        if now and now != before:
            spans.append([step, step])
        if now:
            spans[-1][1] = step + 1
        before = now
    assert collapse(path) == list(labels)
    return spans


@given(st.integers(1, 6), st.lists(st.integers(1, 2), max_size=4), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_the_path_is_the_most_likely_one_of_all(num_steps, labels, seed):
    scores = np.random.default_rng(seed).normal(size=(num_steps, 3))
    paths = [p for p in itertools.product(range(3), repeat=num_steps) if collapse(p) == labels]
    found = align_labels(scores, labels)
    if not paths:
        assert found is None
        return
    best = max(paths, key=lambda p: scores[np.arange(num_steps), p].sum())
    assert found.tolist() == spans_of(best, labels)


class CertainTokenizer:
    """Says that the phonemes of `steps` (0 for the blank) are spoken."""

    labels = None

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, inputs):
        num_steps = inputs["padding_mask"].shape[1]
        assert inputs["waveform"].shape == (1, 640 * num_steps)
        logits = np.eye(len(PHONEMES) + 1)[np.resize(self.steps, num_steps)]
        return {"phoneme_logits": 20.0 * logits[None].astype("float32")}


def set_tokenizer(monkeypatch, tokenizer):
    monkeypatch.setattr(aligned.SemanticTokenizer, "from_preset", lambda _: tokenizer)


@pytest.fixture
def recording(tmp_path, monkeypatch):
    """A folder with a recording of 2 s, and a function that sets its segments."""
    set_tokenizer(monkeypatch, CertainTokenizer([1, 1, 0, 2, 2, 2, 0, 0, 0, 0]))
    write_audio(tmp_path / "a.wav", np.full(32_000, 0.1, "float32"))

    def set_segments(*segments, **others):
        (tmp_path / "a.json").write_text(json.dumps({**others, "segments": segments}))
        return tmp_path

    return set_segments


def segment(phonemes=("aa", "ae"), start=1.0, end=1.39, **others):
    return {"start": start, "end": end, "text": "a", "phonemes": phonemes, **others}


def test_times_are_written_beside_the_recording_once(recording):
    folder = recording(segment(), voice="x")
    assert prepare_aligned([folder]) == {"aligned": 1, "known": 0, "not_aligned": 0}
    (found,) = read_segments(folder / "a.wav")
    assert found.phoneme_spans == ((1.0, 1.08), (1.12, 1.24))
    assert json.loads((folder / "a.json").read_text())["voice"] == "x"
    assert prepare_aligned([folder]) == {"aligned": 0, "known": 1, "not_aligned": 0}


def test_what_cannot_be_aligned_is_counted_and_kept(recording):
    folder = recording(segment(()), segment(("aa",) * 6), segment(end=31.1))
    before = (folder / "a.json").read_bytes()
    assert prepare_aligned([folder]) == {"aligned": 0, "known": 0, "not_aligned": 3}
    assert (folder / "a.json").read_bytes() == before


def test_recordings_without_sidecars_are_left_alone(recording):
    folder = recording(segment())
    (folder / "a.json").unlink()
    assert not any(prepare_aligned([folder]).values())
    assert [path.name for path in folder.iterdir()] == ["a.wav"]


def test_a_tokenizer_of_characters_is_refused(recording, monkeypatch):
    tokenizer = CertainTokenizer([1])
    tokenizer.labels = ("a", "b")
    set_tokenizer(monkeypatch, tokenizer)
    with pytest.raises(ValueError, match="trained with text, not with phonemes"):
        prepare_aligned([recording(segment())])
