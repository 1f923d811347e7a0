import json

import numpy as np
import pytest

from keras_speechssm import cli
from keras_speechssm.audio.io import write_audio
from keras_speechssm.data.recipes.stories.story_grammar import generate_story
from keras_speechssm.data.recipes.stories.story_parser import named_character, normalize_words
from keras_speechssm.evaluation.models.transcript import Word
from keras_speechssm.evaluation.studies import recognizer_agreement, story_coherence
from keras_speechssm.evaluation.studies.story_coherence import (
    evaluate_story_coherence,
    summarize_stories,
)

pytestmark = pytest.mark.any_backend


def spoken(text, start=0.0):
    """One word per second."""
    return [Word(word, start + n, start + n + 1) for n, word in enumerate(text.lower().split())]


def test_true_stories_are_sentences_and_consistent_and_shuffled_ones_are_not():
    rng = np.random.default_rng(0)
    texts = [generate_story(rng, num_scenes=3).text for _ in range(4)]
    report = summarize_stories({str(n): [spoken(text)] for n, text in enumerate(texts)})
    assert report["sentence_fraction"] > 0.95 and report["word_fraction"] > 0.95
    assert report["consistent_fraction"] == 1.0
    shuffled = {str(n): [spoken(" ".join(rng.permutation(t.split())))] for n, t in enumerate(texts)}
    babble = summarize_stories(shuffled)
    assert babble["sentence_fraction"] < 0.1 and babble["word_fraction"] < 0.1


def test_the_characters_of_another_story_are_not_consistent():
    rng = np.random.default_rng(1)
    sentences = generate_story(rng, num_scenes=3).sentences
    # Without its first sentences nobody is introduced.
    report = summarize_stories({"a": [spoken(" ".join(sentences[8:]))]})
    assert report["sentence_fraction"] > 0.9 and report["consistent_fraction"] < 0.9


def test_names_return_after_a_delay_and_by_chance():
    filler = ["xyz"] * 100
    first, second = filler.copy(), filler.copy()
    first[0] = first[20] = "sally's"
    second[16] = "sally"
    words = {
        "a": [spoken(" ".join(first[:50])), spoken(" ".join(first[50:]), 50.0)],
        "b": [spoken(" ".join(second))],
    }
    report = summarize_stories(words, delays=(15, 30, 80))
    # In `a`, of the mentions at 0 and 20 s, the first returns 20 s later; in `b` none does.
    assert report["name_returns"] == {"15": 1 / 3, "30": 0.0, "80": None}
    # The mention of `a` at 0 s finds that of `b` at 16 s; those at 16 and 20 s find nothing.
    assert report["name_returns_by_chance"] == {"15": 1 / 3, "30": 0.0, "80": None}
    assert len(report["by_minute"]) == 2
    alone = summarize_stories({"a": words["a"]})
    assert set(alone["name_returns_by_chance"].values()) == {None}


def test_words_name_characters():
    assert named_character("Sally") == named_character("sally's") == named_character("sally,")
    assert named_character("Sally") == "Sally" and named_character("river") is None


def test_normalized_words_stay_as_they_are():
    rng = np.random.default_rng(2)
    text = " ".join(generate_story(rng).text for _ in range(5)) + " goodbye alright I've too 20"
    words = normalize_words(text)
    assert normalize_words(" ".join(words)) == words


def test_recordings_are_transcribed_minute_by_minute(tmp_path, monkeypatch, capsys):
    heard = []

    def transcriber(waveform):
        heard.append(len(waveform))
        return spoken("the moon was shining through the window")

    monkeypatch.setattr(story_coherence, "load_transcriber", lambda name: transcriber)
    monkeypatch.setattr(recognizer_agreement, "speech_turns", lambda piece: [(0.0, 1.0)])
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000 * 70).astype("float32")
    write_audio(tmp_path / "long.flac", noise)
    report = evaluate_story_coherence([tmp_path])
    assert len(heard) == len(report["by_minute"]) == 2
    assert report["sentence_fraction"] == report["word_fraction"] == 1.0
    assert report["recordings"]["long"]["transcript"].count("moon") == 2
    assert cli.main(["evaluate", "story-coherence", "--audio", str(tmp_path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["by_minute"]) == 2 and printed["name_returns"]["15"] is None


def test_silence_has_no_sentences(tmp_path, monkeypatch):
    monkeypatch.setattr(story_coherence, "load_transcriber", lambda name: lambda waveform: [])
    write_audio(tmp_path / "silence.flac", np.zeros(16000, "float32"))
    report = evaluate_story_coherence([tmp_path])
    assert report["sentence_fraction"] == 0.0 and report["consistent_fraction"] is None


@pytest.mark.parametrize(
    "options", [{"max_word_errors": -1}, {"delays": (0, 15)}, {"max_seconds": 0}]
)
def test_options_out_of_range_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        evaluate_story_coherence([tmp_path], **options)
