import numpy as np
from keras import ops

from keras_speechssm.layers.padding import gather_time, left_align_order, mask_padding


def test_compaction_moves_real_positions_to_the_front_and_back():
    rng = np.random.default_rng(0)
    real = rng.random((5, 17)) < 0.5
    real[0], real[1] = True, False
    x = rng.normal(size=(5, 17, 2)).astype("float32")
    order, rank = left_align_order(ops.convert_to_tensor(real))
    packed = gather_time(ops.convert_to_tensor(x), order)
    for row in range(5):
        front = ops.convert_to_numpy(packed)[row, : real[row].sum()]
        np.testing.assert_array_equal(front, x[row, real[row]])
    np.testing.assert_array_equal(ops.convert_to_numpy(gather_time(packed, rank)), x)


def test_zero_padding_drops_nan():
    x = np.full((1, 3, 2), np.nan, "float32")
    x[0, 1] = 4.0
    zeroed = mask_padding(ops.convert_to_tensor(x), np.array([[False, True, False]]))
    np.testing.assert_array_equal(ops.convert_to_numpy(zeroed), [[[0, 0], [4, 4], [0, 0]]])
