import shutil

import pytest

from keras_speechssm.data.corpora import PHONEMES
from keras_speechssm.evaluation.models import lexicon
from keras_speechssm.evaluation.models.lexicon import load_lexicon, parse_lexicon, pronounce_words

pytestmark = pytest.mark.any_backend


def test_common_words_are_pronounced_in_known_phonemes():
    words = load_lexicon()
    assert ("ax", "b", "aw", "t") in words  # about
    assert len(words) > 3000
    assert {phoneme for word in words for phoneme in word} <= set(PHONEMES)


def test_a_file_gives_phonemes(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("river r ih v er\n\nsheep sh iy p\n")
    assert load_lexicon(path) == {("r", "ih", "v", "er"), ("sh", "iy", "p")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("river r ih v er\nsheep sh ii p", "words, line 2: unknown phoneme 'ii'"),
        ("\n \n", "words has no words"),
    ],
)
def test_a_bad_file_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_lexicon(text, "words")


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="'nowhere' is neither a file nor one of common, stories"):
        load_lexicon("nowhere")


def test_typographic_apostrophes_are_those_that_flite_reads(monkeypatch):
    asked = []
    monkeypatch.setattr(lexicon, "pronounce_words", lambda words: asked.extend(words) or set())
    parse_lexicon("don\u2019t\nit's", "words")
    assert asked == ["don't", "it's"]


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_flite_pronounces_each_word_alone():
    assert pronounce_words(["cat", "dogs", "elephant"]) == {
        ("k", "ae", "t"),
        ("d", "aa", "g", "z"),
        ("eh", "l", "ax", "f", "ax", "n", "t"),
    }


def test_without_flite_words_need_phonemes(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="flite is needed"):
        parse_lexicon("river", "words")
    assert parse_lexicon("sheep sh iy p", "words") == {("sh", "iy", "p")}


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_the_story_grammar_has_a_lexicon():
    words = load_lexicon("stories")
    assert ("s", "ih", "s", "t", "er") in words
    assert len(words) > 500
