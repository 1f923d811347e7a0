"""Clearing padding, and moving the real positions of a padded batch together and back.

Layers that count in real positions (convolution, local attention) work on rows with the real
positions first, in order, and the padding after them. Both directions are gathers along time with
static shapes.
"""

from keras import ops


def mask_padding(x, padding_mask):
    """Returns `x` with zeros at padding.

    It selects instead of multiplying, so that NaN at padding disappears too.

    Args:
        x: (batch, time, ...).
        padding_mask: bool (batch, time), `True` at real positions, or `None`.
    """
    if padding_mask is None:
        return x
    mask = ops.cast(padding_mask, "bool")
    mask = ops.reshape(mask, (*ops.shape(mask), *(1 for _ in x.shape[2:])))
    return ops.where(mask, x, ops.zeros_like(x))


def left_align_order(padding_mask):
    """Returns the order that moves real positions to the front of each row, and its inverse.

    Args:
        padding_mask: bool (batch, time), `True` at real positions.

    Returns:
        `(order, inverse)`, both int32 (batch, time): `gather_time(x, order)` moves the real
        positions to the front, and `gather_time(y, inverse)` moves them back.
    """
    real = ops.cast(padding_mask, "int32")
    num_real = ops.sum(real, axis=1, keepdims=True)
    place_if_real = ops.cumsum(real, axis=1) - 1
    place_if_padding = num_real + ops.cumsum(1 - real, axis=1) - 1
    inverse = ops.cast(ops.where(real > 0, place_if_real, place_if_padding), "int32")
    return ops.cast(ops.argsort(inverse, axis=1), "int32"), inverse


def gather_time(x, indices):
    """Returns `x` (batch, time, ...) at the time indices `indices` (batch, new_time)."""
    tail = tuple(1 for _ in x.shape[2:])
    return ops.take_along_axis(x, ops.reshape(indices, (*ops.shape(indices), *tail)), axis=1)
