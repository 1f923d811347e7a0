import numpy as np
import pytest
from keras import ops

from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer_pretraining import PairAgreement


def loss_of(layer, x, mask, training=True):
    y = layer(ops.convert_to_tensor(x), padding_mask=ops.convert_to_tensor(mask), training=training)
    np.testing.assert_array_equal(ops.convert_to_numpy(y), x)
    return sum(float(ops.convert_to_numpy(loss)) for loss in layer.losses)


def test_pairs_are_compared_where_both_are_real_and_nothing_else_is():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3, 2)).astype("float32")
    mask = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]], dtype=bool)
    x[~mask] = np.nan
    compared = [(0, 1, 0), (0, 1, 1), (2, 3, 0)]
    expected = np.mean([np.mean((x[a, t] - x[b, t]) ** 2) for a, b, t in compared])
    assert loss_of(PairAgreement(0.5), x, mask) == pytest.approx(0.5 * expected, rel=1e-5)


def test_nothing_outside_of_training_and_nothing_without_weight():
    x, mask = np.ones((3, 2, 2), "float32"), np.ones((3, 2), dtype=bool)
    assert loss_of(PairAgreement(1.0), x, mask, training=False) == 0
    assert loss_of(PairAgreement(), x, mask) == 0


def test_a_weight_below_zero_is_refused():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        PairAgreement(-1)
