import numpy as np
import pytest
from keras import ops

from keras_speechssm.layers.softmax import attend

RNG = np.random.default_rng(0)
QUERIES, KEYS, VALUES = RNG.normal(size=(3, 2, 6, 2, 4)).astype("float32")
POSITIONS = RNG.normal(size=(2, 2, 6, 6)).astype("float32")


@pytest.mark.parametrize("masked", [False, True])
def test_attend_is_attention(masked):
    mask = np.arange(6) < np.array([[6], [4]])
    scores = np.einsum("bqhd,bkhd->bhqk", QUERIES, KEYS) / 2 + POSITIONS
    if masked:
        scores = np.where(mask[:, None, None], scores, -np.inf)
    weights = np.exp(scores)
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = np.einsum("bhqk,bkhd->bqhd", weights, VALUES).reshape(2, 6, 8)
    arrays = map(ops.convert_to_tensor, (QUERIES, KEYS, VALUES))
    found = attend(*arrays, mask if masked else None, ops.convert_to_tensor(POSITIONS))
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-5)


def test_a_row_of_padding_is_finite():
    mask = np.zeros((2, 6), bool)
    found = attend(*map(ops.convert_to_tensor, (QUERIES, KEYS, VALUES)), mask)
    assert np.isfinite(ops.convert_to_numpy(found)).all()
