"""Tests of the corpora of stories: texts and speech."""

import json

import numpy as np
import pytest

from keras_speechssm.audio.io import read_audio, write_audio
from keras_speechssm.data.corpora import find_audio, read_segments
from keras_speechssm.data.recipes.stories import spoken_stories
from keras_speechssm.data.recipes.stories.spoken_stories import (
    prepare_spoken_stories,
    prepare_stories,
    simple_sentences,
)
from keras_speechssm.data.recipes.stories.story_parser import check_story, parse_transcript
from keras_speechssm.data.recipes.synthesized.voices import missing_programs

pytestmark = pytest.mark.any_backend

needs_flite = pytest.mark.skipif(bool(missing_programs(("flite",))), reason="flite is missing")


def test_stories_are_written_as_text_and_with_their_characters(tmp_path):
    counts = prepare_stories(tmp_path, 1_000, split="validation", seed=3)
    lines = (tmp_path / "validation.jsonl").read_text().splitlines()
    texts = (tmp_path / "validation.txt").read_text().splitlines()
    assert counts["stories"] == len(lines) == len(texts)
    assert counts["words"] == sum(len(text.split()) for text in texts) >= 1_000
    for line, text in zip(lines, texts, strict=True):
        story = json.loads(line)
        assert " ".join(story["sentences"]) == text
        check = check_story(story["sentences"])
        assert check.characters == {who["name"] for who in story["characters"].values()}
    again = tmp_path / "again"
    prepare_stories(again, 1_000, split="validation", seed=3)
    assert (again / "validation.txt").read_text().splitlines() == texts


def test_simple_sentences_are_short_and_common():
    books = [["The dog ran home.", "The ox ran.", "Go.", "The dog ran home " * 4 + "."]] * 3
    assert set(simple_sentences(books, num_common_words=4)) == {"The dog ran home."}


@pytest.fixture
def corpus(tmp_path):
    """A function that makes a small corpus and returns its folder and the result."""
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "novel.txt").write_text("\n".join(["The dog ran home. It was late."] * 80))
    people = tmp_path / "people"
    people.mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal(12 * 16_000)
    write_audio(people / "speaker.wav", noise.astype("float32"))

    def make(folder="corpus", **options):
        options = {
            "hours": 0.03,
            "recording_seconds": 12.0,
            "prompted_fraction": 0.5,
            "text_folder": texts,
            "prompt_folders": [people],
            "progress": None,
            **options,
        }
        return tmp_path / folder, prepare_spoken_stories(tmp_path / folder, **options)

    return make


@needs_flite
def test_recordings_have_the_planned_lengths_and_segments(corpus):
    folder, result = corpus()
    paths = find_audio(folder)
    lines = (folder / "recordings.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert result["recordings"] == len(paths) == len(entries)
    assert result["hours"] == pytest.approx(sum(e["seconds"] for e in entries) / 3600, abs=1e-3)
    kinds = {entry["kind"] for entry in entries}
    assert kinds == {"stories", "simple", "novels"} or len(entries) < 12
    assert {bool(entry["prompt"]) for entry in entries} == {True, False}
    for entry in entries:
        waveform = read_audio(folder / entry["path"])
        assert len(waveform) == (30 if entry["prompt"] else 12) * 16_000
        segments = read_segments(folder / entry["path"])
        assert all(segment.end <= entry["seconds"] for segment in segments)
        assert all(segment.phonemes for segment in segments)
        if entry["prompt"]:
            assert 3 <= entry["prompt"]["end"] <= 10
            assert segments[0].start == pytest.approx(entry["prompt"]["end"], abs=1e-3)
        if entry["kind"] == "stories":
            text = " ".join(segment.text for segment in segments)
            assert parse_transcript(text).word_fraction == 1


@needs_flite
def test_a_recording_depends_on_its_number_only(corpus, monkeypatch):
    whole, result = corpus("whole")
    corpus("shared", hours=1e-9, first=0, step=2)
    monkeypatch.setattr(spoken_stories, "generate_story", None)
    with pytest.raises(TypeError):
        corpus("shared")
    monkeypatch.undo()
    shared, _ = corpus("shared")
    assert {p.name: p.read_bytes() for p in find_audio(shared)} == {
        p.name: p.read_bytes() for p in find_audio(whole)
    }
    assert corpus("whole")[1] == result


@needs_flite
def test_a_folder_has_one_set_of_options(corpus):
    corpus(hours=1e-9)
    with pytest.raises(ValueError, match="was started with seed 0"):
        corpus(hours=1e-9, seed=1)


@needs_flite
def test_validation_split_is_told_by_few_voices_without_prompts(corpus):
    folder, _ = corpus(hours=0.02, split="validation")
    entries = [json.loads(x) for x in (folder / "recordings.jsonl").read_text().splitlines()]
    assert all(e["prompt"] is None and e["kind"] == "stories" for e in entries)
    voices = {e["voice"] for e in entries}
    assert voices <= {"flite-slt-00", "flite-rms-00", "flite-kal16-00", "flite-awb-00"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hours": 0}, "positive `hours`"),
        ({"prompted_fraction": 1.0}, "`prompted_fraction`"),
        ({"split": "test"}, "`split` must be"),
        ({"programs": ("festival",)}, "`programs` must be"),
        ({"first": 2, "step": 2}, "`first` < `step`"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_spoken_stories(tmp_path, **{"hours": 1.0, **options})
    assert list(tmp_path.iterdir()) == []
