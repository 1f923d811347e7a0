import numpy as np
import pytest
from keras import ops

from keras_speechssm.models.semantic_tokenizer.phoneme_head import PhonemeHead, collapse


def test_padding_is_certainly_blank():
    x = np.random.default_rng(0).normal(size=(1, 4, 3)).astype("float32")
    mask = np.array([[True, True, False, False]])
    head = PhonemeHead(num_phonemes=5)
    logits = ops.convert_to_numpy(head(x, padding_mask=ops.convert_to_tensor(mask)))
    assert logits.shape == (1, 4, 6)
    chances = ops.convert_to_numpy(ops.softmax(logits))
    np.testing.assert_array_equal(chances[0, 2:], np.eye(6)[[0, 0]])
    np.testing.assert_allclose(logits[0, :2], ops.convert_to_numpy(head(x))[0, :2])


def test_collapse_merges_repeats_then_drops_blanks():
    assert collapse([0, 3, 3, 0, 3, 2, 2, 0, 0]) == [3, 3, 2]
    assert collapse([]) == [] and collapse([0, 0]) == []


def test_no_phonemes_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        PhonemeHead(0)
