import numpy as np
import pytest

from keras_speechssm.models.soundstorm.masking import mask_for_training, remask_counts

CODES = 20


def draw(batch=4000, frames=12, levels=4, padding_mask=None, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, CODES, size=(batch, frames, levels))
    if padding_mask is None:
        padding_mask = np.ones((batch, frames), dtype=bool)
    return tokens, padding_mask, *mask_for_training(tokens, padding_mask, CODES, rng)


def test_coarser_levels_stay_and_finer_ones_hide_from_one_boundary_on():
    tokens, _, masked, level, target, loss_mask = draw(batch=300)
    for row in range(len(tokens)):
        hidden = masked[row] == CODES
        assert not hidden[:, : level[row]].any()
        np.testing.assert_array_equal(hidden[:, level[row]], loss_mask[row])
        assert loss_mask[row].any()
        finer = hidden[:, level[row] + 1 :]
        if finer.size:
            assert (finer == finer[:, :1]).all()
            boundary = np.argmax(finer[:, 0])
            assert finer[boundary:].all() and not finer[:boundary].any()
            assert not loss_mask[row, :boundary].any()
        np.testing.assert_array_equal(masked[row][~hidden], tokens[row][~hidden])
        np.testing.assert_array_equal(target[row], tokens[row, :, level[row]])


def test_level_and_boundary_are_uniform():
    _, _, masked, level, _, _ = draw()
    np.testing.assert_allclose(np.bincount(level, minlength=4) / 4000, 0.25, atol=0.03)
    rows = level < 3  # where a finer level shows the boundary
    boundary = np.argmax(masked[rows, :, 3] == CODES, axis=1)
    np.testing.assert_allclose(np.bincount(boundary, minlength=12) / rows.sum(), 1 / 12, atol=0.02)


def test_level_weights_say_how_often_a_level_is_drawn():
    rng = np.random.default_rng(0)
    tokens, real = np.zeros((4000, 3, 4), int), np.ones((4000, 3), bool)
    level = mask_for_training(tokens, real, CODES, rng, level_weights=[2, 0, 1, 1])[1]
    np.testing.assert_allclose(
        np.bincount(level, minlength=4) / 4000, [0.5, 0, 0.25, 0.25], atol=0.03
    )


def test_masks_are_those_that_the_passes_of_decoding_meet():
    rng = np.random.default_rng(0)
    tokens, real = np.zeros((3000, 200, 2), int), np.ones((3000, 200), bool)
    boundary = np.full(3000, 40)
    masked, level, _, loss_mask = mask_for_training(
        tokens, real, CODES, rng, iterations=(2, 1), boundary=boundary
    )
    assert not loss_mask[:, :40].any() and (masked[:, :40] == 0).all()
    share = loss_mask[:, 40:].mean(axis=1)
    np.testing.assert_array_equal(share[level == 1], 1.0)  # one pass fills in everything
    first = share[level == 0] == 1.0
    assert abs(first.mean() - 0.5) < 0.04
    # What `remask_counts` leaves for the second pass: cos(pi / 4).
    np.testing.assert_allclose(share[level == 0][~first].mean(), np.cos(np.pi / 4), atol=0.01)


def test_a_boundary_beyond_the_end_leaves_one_frame():
    rng = np.random.default_rng(0)
    tokens, real = np.zeros((50, 8, 2), int), np.arange(8)[None] < np.full((50, 1), 5)
    loss_mask = mask_for_training(tokens, real, CODES, rng, boundary=np.full(50, 40))[3]
    np.testing.assert_array_equal(loss_mask, np.arange(8)[None].repeat(50, 0) == 4)


def test_hidden_share_follows_the_cosine():
    # Long sequences, where "at least one" hardly matters: with p = cos(u), u uniform,
    # the mean of p is 2 / pi and P(p > 1/2) is 2 / 3.
    _, _, masked, level, _, loss_mask = draw(batch=3000, frames=400, levels=2)
    rows = level == 0
    after = (masked[rows, :, 1] == CODES).sum(axis=1)
    share = loss_mask[rows].sum(axis=1)[after > 100] / after[after > 100]
    assert abs(share.mean() - 2 / np.pi) < 0.03
    assert abs((share > 0.5).mean() - 2 / 3) < 0.04


def test_padding_is_never_hidden_nor_a_boundary():
    rng = np.random.default_rng(1)
    padding_mask = rng.random((500, 12)) < 0.5
    padding_mask[:, 5] = True
    tokens, _, masked, _, target, loss_mask = draw(batch=500, padding_mask=padding_mask)
    assert not loss_mask[~padding_mask].any()
    assert loss_mask.any(axis=1).all()
    np.testing.assert_array_equal(masked[~padding_mask], tokens[~padding_mask])
    assert not target[~padding_mask].any()


def test_an_example_of_padding_alone_is_refused():
    with pytest.raises(ValueError, match="without a real frame"):
        draw(batch=2, padding_mask=np.zeros((2, 12), dtype=bool))


def test_remask_counts_by_hand():
    # floor(10 cos(pi (i + 1) / 32)), i = 0 .. 15.
    expected = [9, 9, 9, 9, 8, 8, 7, 7, 6, 5, 4, 3, 2, 1, 0, 0]
    np.testing.assert_array_equal(remask_counts(16, np.array([10]))[:, 0], expected)
    np.testing.assert_array_equal(remask_counts(1, np.array([10, 3])), [[0, 0]])
    np.testing.assert_array_equal(remask_counts(2, np.array([10, 3])), [[7, 2], [0, 0]])
