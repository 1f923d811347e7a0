import re
from collections import Counter

import numpy as np
import pytest

from keras_speechssm.audio.io import read_audio
from keras_speechssm.data.recipes import contrasts
from keras_speechssm.data.recipes.contrasts import (
    prepare_contrasts,
    sentence_contrasts,
    word_contrasts,
)
from keras_speechssm.data.recipes.synthesized import voices
from keras_speechssm.data.recipes.synthesized.voices import missing_programs
from keras_speechssm.evaluation.studies.zero_speech import contrast_accuracy, read_gold

pytestmark = pytest.mark.any_backend

needs_programs = pytest.mark.skipif(
    bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"
)

WORDS = "house garden window mother father river letter summer winter evening".split()
BOOKS = {"a": [" ".join(WORDS)] * 25, "b": ["Henry couldn't say. " * 30]}


@needs_programs
def test_made_up_words_occur_nowhere_and_keep_the_pattern_of_vowels():
    pairs = word_contrasts(BOOKS, 8)
    assert len(pairs) == 8 and pairs == word_contrasts(BOOKS, 8) != word_contrasts(BOOKS, 8, 1)

    def pattern(word):
        return re.sub("[^V]", "C", re.sub("[aeiou]", "V", word))

    for pair in pairs:
        assert pair.right in WORDS and pair.wrong not in " ".join(BOOKS["a"] + BOOKS["b"])
        assert pattern(pair.right) == pattern(pair.wrong)
        differing = sum(a != b for a, b in zip(pair.right, pair.wrong, strict=True))
        assert 1 <= differing <= 2
        assert pair.details["frequency"] == 25
    assert len({pair.wrong for pair in pairs}) == 8
    with pytest.raises(ValueError, match="words for 10 pairs; expected 11"):
        word_contrasts(BOOKS, 11)  # a name and a contraction do not count


def test_what_is_said_alike_is_no_contrast(monkeypatch):
    monkeypatch.setattr(contrasts, "pronounce", lambda word: "collar")
    with pytest.raises(ValueError, match="words for 0 pairs"):
        word_contrasts(BOOKS, 1)


def test_of_the_tries_the_one_nearest_in_likelihood_is_taken():
    words = Counter(WORDS)
    trigrams = Counter(t for word in WORDS for t in contrasts._trigrams(word))

    def likelihood(letters):
        return np.mean([np.log(trigrams[t] + 0.1) for t in contrasts._trigrams(letters)])

    near, far = [], []
    for word in WORDS:
        made = contrasts._made_up(word, words, trigrams, np.random.default_rng(0))
        near.append(abs(likelihood(made) - likelihood(word)))
        changed = [word[:i] + letter + word[i + 1 :] for i in range(5) for letter in "bdkoi"]
        far.append(np.mean([abs(likelihood(c) - likelihood(word)) for c in changed]))
    assert np.mean(near) < 0.8 * np.mean(far)


def test_sentences_differ_in_one_form_and_are_all_different():
    pairs = sentence_contrasts(200)
    assert len({(pair.right, pair.wrong) for pair in pairs}) == 200
    assert pairs != sentence_contrasts(200, 1) and pairs[:10] == sentence_contrasts(10)
    kinds = Counter(pair.details["type"] for pair in pairs)
    assert set(kinds.values()) == {50} and len(kinds) == 4
    longer: Counter = Counter()
    for pair in pairs:
        right, wrong = pair.right.split(), pair.wrong.split()
        differing = [(a, b) for a, b in zip(right, wrong, strict=True) if a != b]
        longer[pair.details["type"]] += len(pair.right) > len(pair.wrong)
        if pair.details["type"] == "word-order":
            assert sorted(right) == sorted(wrong) and len(differing) == 2
        else:
            ((a, b),) = differing
            assert a == f"{b}s" or b == f"{a}s"
    # Nothing is to be gained by liking short sentences.
    assert all(15 <= longer[kind] <= 35 for kind in kinds if kind != "word-order")
    with pytest.raises(ValueError, match="pairs of sentences; expected"):
        sentence_contrasts(10**5)


@needs_programs
def test_both_sets_are_read_as_zero_speech_has_them(tmp_path, monkeypatch):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(("\n" + " ".join(WORDS) + ".") * 25)
    found = prepare_contrasts(tmp_path / "text", tmp_path / "out", pairs=2)
    assert found == {"lexical": 8, "syntactic": 8}
    for task in found:
        folder = tmp_path / "out" / task
        pairs = read_gold(folder / "gold.csv", task)
        assert len(pairs) == 4
        for right, wrong in pairs:
            assert (right["id"], right["voice"]) == (wrong["id"], wrong["voice"])
        stems = {path.stem for path in folder.glob("*.wav")}
        scores = {stem: float("-1-" in stem) for stem in stems}
        assert contrast_accuracy(pairs, scores)["accuracy"] == 1.0
        assert all(len(read_audio(path)) > 4800 for path in folder.glob("*.wav"))
    monkeypatch.setattr(contrasts, "text_to_speech", None)  # existing files are kept
    assert prepare_contrasts(tmp_path / "text", tmp_path / "out", pairs=2) == found
    with pytest.raises(ValueError, match="started with"):
        prepare_contrasts(tmp_path / "text", tmp_path / "out", pairs=2, seed=1)


def test_what_cannot_be_made_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(voices.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="Not installed: flite"):
        prepare_contrasts(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="pairs"):
        prepare_contrasts(tmp_path, tmp_path / "out", pairs=0)
    assert not (tmp_path / "out").exists()
