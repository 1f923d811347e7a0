import numpy as np
import pytest

from keras_speechssm.evaluation.metrics.similarity import semantic_coherence, semantic_similarity

pytestmark = pytest.mark.any_backend

WORDS = ["dog", "cat", "sea"]


def embed(texts):
    """Counts of three words, as unit vectors."""
    counts = np.array([[text.split().count(word) for word in WORDS] for text in texts], "float64")
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


def test_pairs_are_compared_with_their_own():
    found = semantic_similarity(["dog dog", "cat", ""], ["dog cat", "sea", "sea"], embed)
    np.testing.assert_allclose(found, [2**-0.5, 0.0, 0.0], atol=1e-9)


def test_pairs_must_be_pairs():
    with pytest.raises(ValueError, match="got 1 generated and 2 true"):
        semantic_similarity(["a"], ["a", "b"], embed)


def test_coherence_goes_span_by_span_and_leaves_the_rest():
    continuation = " ".join(["dog"] * 100 + ["cat"] * 100 + ["dog"] * 99)
    assert semantic_coherence("dog", continuation, embed) == pytest.approx([1.0, 0.0])
    assert semantic_coherence("dog", "dog " * 99, embed) == []
    assert semantic_coherence("", continuation, embed) == []
    assert semantic_coherence("cat", "dog cat cat", embed, words=1) == pytest.approx([0, 1, 1])
