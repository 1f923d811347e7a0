"""The softmax of attention, without its division, and attention to a whole sequence."""

from collections.abc import Sequence

import keras
from keras import ops


def exponentials(logits: Sequence) -> tuple[list, object]:
    """Computes a softmax over several groups of logits as if they were one, before its division.

    Dividing the attended values by the sum, rather than the weights, is one pass less over the
    weights, and groups need not be concatenated.

    Args:
        logits: List of float32 (..., length) arrays. Masked entries must be finite, such as -1e9,
            so that a row without any visible entry does not become NaN.

    Returns:
        The exponentials of each group, and their sum over all groups, (..., 1).
    """
    peak = ops.max(logits[0], axis=-1, keepdims=True)
    for scores in logits[1:]:
        peak = ops.maximum(peak, ops.max(scores, axis=-1, keepdims=True))
    peak = ops.stop_gradient(peak)
    weights = [ops.exp(scores - peak) for scores in logits]
    return weights, sum(ops.sum(group, axis=-1, keepdims=True) for group in weights)


def attend(queries, keys, values, padding_mask=None, position_scores=None):
    """Attends from each query to all keys. The softmax is float32.

    Args:
        queries: (batch, time, heads, head_dim), not scaled.
        keys: (batch, time, heads, head_dim).
        values: (batch, time, heads, head_dim).
        padding_mask: bool (batch, time), `True` at real keys. Defaults to `None`: all are real.
        position_scores: (batch, heads, time, time), added to the scores. Defaults to `None`.

    Returns:
        (batch, time, heads * head_dim), in the dtype of the values.
    """
    batch, time, heads, size = ops.shape(queries)
    if (
        keras.backend.backend() == "torch"
        and keras.backend.standardize_dtype(values.dtype) == "float32"
    ):
        attended = _attend_fused(queries, keys, values, padding_mask, position_scores)
        return ops.reshape(attended, (batch, time, heads * size))
    scores = ops.einsum("bqhd,bkhd->bhqk", queries * size**-0.5, keys)
    if position_scores is not None:
        scores = scores + position_scores
    scores = ops.cast(scores, "float32")
    if padding_mask is not None:
        scores = ops.where(padding_mask[:, None, None, :], scores, -1e9)
    (weights,), total = exponentials([scores])
    attended = ops.einsum("bhqk,bkhd->bqhd", ops.cast(weights, values.dtype), values)
    attended = attended / ops.cast(ops.transpose(total, (0, 2, 1, 3)), values.dtype)
    return ops.reshape(attended, (batch, time, heads * size))


def _attend_fused(queries, keys, values, padding_mask, position_scores):
    """Does the same in one pass of PyTorch, which does not fuse the steps."""
    from torch.nn.functional import scaled_dot_product_attention

    bias = position_scores
    if padding_mask is not None:
        mask = ops.where(ops.convert_to_tensor(padding_mask)[:, None, None, :], 0.0, -1e9)
        bias = mask if bias is None else bias + mask
    arrays = (ops.swapaxes(x, 1, 2) for x in (queries, keys, values))
    return ops.swapaxes(scaled_dot_product_attention(*arrays, attn_mask=bias), 1, 2)
