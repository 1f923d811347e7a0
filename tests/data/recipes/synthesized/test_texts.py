"""Books: every word is kept, in pieces that a voice can say in some seconds."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_speechssm.data.recipes.synthesized.texts import read_texts, split_text

pytestmark = pytest.mark.any_backend

TOKENS = (
    *("the", "Emma's", "well-known", "Mr.", "St.", "\u201cOh,\u201d", "_very_", "caf\u00e9"),
    *("over;", "why?", "go!", "--", "\u2014", "\n"),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=120).map(" ".join))
def test_splitting_keeps_every_word_and_the_limits(text):
    pieces = split_text(text, min_characters=20, max_characters=50)
    assert all(len(piece) <= 50 and piece.isascii() for piece in pieces)
    letters = [c for c in "".join(pieces) if c.isalpha()]
    assert letters == [c for c in text.replace("\u00e9", "e") if c.isalpha()]


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_split_into_what_a_voice_can_say(text):
    for piece in split_text(text, min_characters=20, max_characters=50):
        assert len(piece) <= 50 and piece == piece.strip()
        assert re.fullmatch("[A-Za-z0-9.,;:!?' -]+", piece) and re.search("[A-Za-z]", piece)


def test_splitting_of_prose():
    text = (
        "\u201cMr. Weston\u2019s _ball_!\u201d cried Emma; \u2014it is too much. "
        "She sat down.\nThe evening was cold, and the long walk over the wet fields had made "
        "them all so very tired that nobody spoke."
    )
    assert split_text(text, 30, 80) == [
        "Mr. Weston's ball ! cried Emma;, it is too much.",
        "She sat down.",
        "The evening was cold, and the long walk over the wet fields had made them all",
        "so very tired that nobody spoke.",
    ]


def test_books_are_read_by_name(tmp_path):
    (tmp_path / "emma.txt").write_text("One two three.\nFour five six.", encoding="utf-8")
    (tmp_path / "notes.md").write_text("Not a book.")
    assert read_texts(tmp_path) == {"emma": ["One two three. Four five six."]}
    with pytest.raises(ValueError, match="No .txt files"):
        read_texts(tmp_path / "nowhere")
