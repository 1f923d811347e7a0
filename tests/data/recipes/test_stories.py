"""Tests of the story grammar: generation, parser and consistency check."""

import random
import re

import numpy as np
import pytest

from keras_speechssm.data.recipes.stories import story_grammar
from keras_speechssm.data.recipes.stories.story_grammar import (
    MAX_SENTENCE_WORDS,
    SPLITS,
    all_frames,
    generate_stories,
    generate_story,
    known_characters,
    names_by_split,
    scene_names,
)
from keras_speechssm.data.recipes.stories.story_parser import (
    check_story,
    parse_alternatives,
    parse_sentence,
    parse_transcript,
)

pytestmark = pytest.mark.any_backend


@pytest.fixture(scope="module")
def stories():
    """About 40 stories of each split."""
    return {split: list(generate_stories(3, 8_000, split)) for split in SPLITS}


def sentences_of(stories):
    return [sentence for story in stories for sentence in story.sentences]


def words_of(stories):
    return {word for story in stories for word in re.findall(r"[a-z']+", story.text.lower())}


def test_same_seed_gives_same_text_and_another_seed_another_text():
    first, again, other = (
        [story.text for story in generate_stories(seed, 2_000)] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("split", SPLITS)
def test_every_generated_sentence_parses_exactly(stories, split):
    sentences = sentences_of(stories[split])
    assert len(sentences) > 1_000
    assert [s for s in sentences if parse_sentence(s, max_word_errors=0) is None] == []


def test_every_frame_fits_the_sentence_limit():
    for frame in all_frames():
        text = "".join(
            "x" if isinstance(part, story_grammar.Slot) else part for part in frame.parts
        )
        assert len(text.split()) <= MAX_SENTENCE_WORDS, frame.template
        assert text[-1] in ".!?", frame.template


def test_every_training_scene_occurs():
    found = {scene for story in generate_stories(4, 30_000) for scene in story.scenes}
    assert found == set(scene_names("train"))


def test_validation_split_has_its_own_names_and_scenes(stories):
    names = {
        split: {name for names in kinds.values() for name in names}
        for split, kinds in names_by_split().items()
    }
    assert not names["train"] & names["validation"]
    assert not set(scene_names("train")) & set(scene_names("validation"))
    for split, generated in stories.items():
        assert {c.name for story in generated for c in story.characters.values()} <= names[split]
        assert {scene for story in generated for scene in story.scenes} <= set(scene_names(split))


def test_vocabulary_is_that_of_simple_stories(stories):
    train = words_of(stories["train"]) | words_of(generate_stories(4, 100_000))
    assert 1_000 <= len(train) <= 1_500
    # Besides its names, the validation split has hardly any new word.
    new = words_of(stories["validation"]) - train
    new -= {w for w in new if w.removesuffix("'s") in known_characters()}
    assert len(new) <= 10


def test_articles_agree_with_the_next_word(stories):
    text = " ".join(story.text for story in stories["train"]).lower()
    assert not re.search(r"\ba [aeio]", text)
    assert not re.search(r"\ban (?!hour)[^aeiou]", text)


def test_generated_stories_are_consistent(stories):
    for generated in stories.values():
        for story in generated:
            check = check_story(story.sentences)
            assert check.is_consistent, check.problems
            assert check.num_parsed == check.num_sentences
            assert check.characters == {c.name for c in story.characters.values()}


def test_long_story_keeps_its_characters():
    story = generate_story(np.random.default_rng(0), min_words=2_400)
    assert story.num_words >= 2_400
    assert check_story(story.sentences).is_consistent
    hero = story.characters["A"].name
    last_tenth = " ".join(story.sentences[-len(story.sentences) // 10 :])
    assert hero in last_tenth
    # No scene returns before all others occurred.
    assert len(set(story.scenes)) == len(story.scenes)


def test_shuffled_words_do_not_parse(stories):
    shuffler = random.Random(0)
    parsed, total = 0, 0
    for sentence in sentences_of(stories["train"])[:300]:
        words = sentence.split()
        if len(words) > 4:
            shuffler.shuffle(words)
            parsed += parse_sentence(" ".join(words)) is not None
            total += 1
    assert parsed <= 0.01 * total


@pytest.mark.parametrize(
    "change",
    [
        lambda words: [*words[:2], "elephantine", *words[3:]],
        lambda words: [*words[:2], "elephantine", *words[2:]],
        lambda words: [*words[:2], *words[3:]],
    ],
    ids=["substitution", "insertion", "deletion"],
)
def test_one_wrong_word_parses_with_tolerance_only(change):
    words = "Then they all went home for supper.".split()
    text = " ".join(change(words))
    assert parse_sentence(text, max_word_errors=0) is None
    parse = parse_sentence(text, max_word_errors=1)
    assert parse.num_errors == 1
    assert parse.frame.template == "Then they all went home for supper."


def test_two_wrong_words_do_not_parse():
    assert parse_sentence("Then elephantine all went bananas for supper.") is None


def test_parse_reports_frame_and_entities():
    parse = parse_sentence("i have found it said sally")
    assert parse.frame.template == "I have found it, said [X]."
    assert parse.scene == "@find"
    assert parse.names == ("Sally",)
    parse = parse_sentence("Buy some carrots, his mother had said.")
    assert "carrots" in [word for _, word in parse.slots]


def test_words_that_sound_the_same_are_the_same():
    assert parse_sentence("Eye found it, said nobody.", max_word_errors=0) is None
    assert parse_sentence("Good bye, little bird, said Tom.", max_word_errors=0)
    assert parse_sentence("goodbye little bird said tom", max_word_errors=0)
    assert parse_sentence("2 yellow eyes looked at them", max_word_errors=0)


STORY = (
    "Once there was a girl called Anna.",
    "Anna had a good friend called Tom.",
    "Anna had lost her red hat.",
    "She sat down and cried.",
    "Do not worry, Anna, said Tom.",
    "I have found it, said Tom.",
)


def test_consistent_story_has_no_problem():
    assert check_story(STORY).is_consistent


@pytest.mark.parametrize(
    ("sentence", "replacement"),
    [
        (0, "Once there was a boy called Anna."),
        (2, "Anna had lost his red hat."),
        (2, "Mary had lost her red hat."),
        (3, "He sat down and laughed."),
        (5, "I have found it, said Peter."),
    ],
    ids=["word for the hero", "possessive", "name", "not a sentence", "last name"],
)
def test_swapped_name_or_pronoun_is_found(sentence, replacement):
    story = [*STORY]
    story[sentence] = replacement
    check = check_story(story)
    if parse_alternatives(replacement, 0):
        assert not check.is_consistent
        assert check.problems[0].startswith(replacement)
    else:
        assert check.num_parsed == len(STORY) - 1


def test_pronoun_needs_somebody_it_may_refer_to():
    story = [STORY[0], "She lived in a little house near the forest.", "He sat down and cried."]
    check = check_story(story)
    assert check.problems == ["He sat down and cried. ('he' refers to nobody)"]


def test_names_known_before_are_accepted():
    assert not check_story(STORY[2:]).is_consistent
    assert check_story(STORY[2:], introduced=("Anna", "Tom")).is_consistent


def test_transcript_without_punctuation_is_segmented(stories):
    chosen = stories["validation"][:5]
    text = " ".join(story.text for story in chosen)
    parsed = parse_transcript(re.sub(r"[^a-z0-9' ]", "", text.lower()))
    assert parsed.word_fraction == 1
    assert parsed.sentence_fraction == 1
    sentences = sentences_of(chosen)
    assert len(parsed.sentences) == len(sentences)


def test_transcript_with_errors_is_covered_in_part(stories):
    text = stories["train"][0].text
    parsed = parse_transcript(f"um well {text} and so on and so forth")
    assert 0.8 < parsed.word_fraction < 1
    assert all(p.num_errors <= 1 for _, _, p in parsed.sentences)


def test_other_english_is_hardly_covered(stories):
    words = " ".join(story.text for story in stories["train"][:10]).split()
    random.Random(0).shuffle(words)
    assert parse_transcript(" ".join(words)).word_fraction < 0.02
    assert parse_transcript("").word_fraction == 0


def test_unknown_split_and_no_scenes_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="`split` must be"):
        generate_story(rng, split="test")
    with pytest.raises(ValueError, match="`num_scenes` must be"):
        generate_story(rng, num_scenes=0)
