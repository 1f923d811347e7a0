"""The loss of a language model over a large vocabulary."""

import keras
from keras import ops

from keras_speechssm.layers.recomputation import recompute


@keras.saving.register_keras_serializable(package="keras_speechssm")
class NextTokenCrossEntropy(keras.losses.Loss):
    """Cross-entropy (nats) of token ids under logits, which keeps the logits only.

    The same as `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`, which on JAX
    keeps three more arrays of (batch, time, vocabulary) for the gradient, a one-hot among them.

    Call arguments:
        y_true: int (batch, time), the tokens.
        y_pred: float (batch, time, vocabulary), their logits.
    """

    def __init__(
        self, reduction="sum_over_batch_size", name="next_token_cross_entropy", dtype=None
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true, y_pred):
        return recompute(_cross_entropy, ops.cast(y_true, "int32"), ops.cast(y_pred, "float32"))


def _cross_entropy(tokens, logits):
    # A sum in place of a gather, whose gradient would be a scatter.
    at_token = ops.arange(logits.shape[-1], dtype="int32") == tokens[..., None]
    found = ops.sum(ops.where(at_token, logits, 0.0), axis=-1)
    return ops.logsumexp(logits, axis=-1) - found
