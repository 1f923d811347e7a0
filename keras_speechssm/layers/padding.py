"""Moves the real positions of a padded batch together, and back.

Layers whose reach is counted in real positions (the convolution, the local attention) work on
rows without holes: the real positions first, in order, then the padding. Both directions are
row gathers, linear in time, with static shapes.
"""

from keras import ops


def mask_padding(x, padding_mask):
    """Returns x (batch, time, ...) with zeros where padding_mask (batch, time) is False.

    A select, not a product, so that NaN in padding is dropped too.
    """
    if padding_mask is None:
        return x
    mask = ops.cast(padding_mask, "bool")
    mask = ops.reshape(mask, (*ops.shape(mask), *(1 for _ in x.shape[2:])))
    return ops.where(mask, x, ops.zeros_like(x))


def left_align_order(padding_mask):
    """Plans how to bring real positions to the front of each row.

    Args:
        padding_mask: bool (batch, time), True = real.

    Returns:
        `(order, rank)`, both int32 (batch, time): `gather_time(x, order)` moves the real
        positions to the front, `gather_time(y, rank)` puts them back where they were.
    """
    real = ops.cast(padding_mask, "int32")
    num_real = ops.sum(real, axis=1, keepdims=True)
    rank_if_real = ops.cumsum(real, axis=1) - 1
    rank_if_padding = num_real + ops.cumsum(1 - real, axis=1) - 1
    rank = ops.cast(ops.where(real > 0, rank_if_real, rank_if_padding), "int32")
    return ops.cast(ops.argsort(rank, axis=1), "int32"), rank


def gather_time(x, indices):
    """Returns x (batch, time, ...) at the time indices (batch, new_time)."""
    tail = tuple(1 for _ in x.shape[2:])
    return ops.take_along_axis(x, ops.reshape(indices, (*ops.shape(indices), *tail)), axis=1)
