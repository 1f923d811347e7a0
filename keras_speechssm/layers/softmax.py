"""The softmax of attention, without its division."""

from collections.abc import Sequence

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
