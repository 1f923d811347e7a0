"""The next token against a large vocabulary, without the logits of a whole row."""

from typing import NamedTuple

import keras
from keras import ops

CHUNK_SIZE = 2048
"""Most ids whose logits exist at a time.

In float32 they take as much memory as a few hidden states, and a matrix product with that many
columns keeps an accelerator busy. Smaller vocabularies are not split: to recompute their logits for
the gradient would take more time than it saves memory.
"""

_LOWEST = -1e30


class TargetScores(NamedTuple):
    """What the loss and the accuracy need of the logits.

    Both are those of a problem with two classes: the target, and all the other ids.

    Attributes:
        logits: float32 (batch, time, 2), the logit of the target, and that of all others together.
        is_best: float32 (batch, time, 2), 1 and 0 where the target has the highest logit, else 0
            and 1.
    """

    logits: object
    is_best: object


def can_score(embedding: keras.layers.Layer) -> bool:
    """Returns whether `score_targets` supports an embedding and saves memory.

    Args:
        embedding: The `token_embedding` of a backbone.
    """
    return (
        type(embedding) is keras.layers.ReversibleEmbedding
        and embedding.quantization_mode is None
        and embedding.input_dim > CHUNK_SIZE
    )


def score_targets(embedding: keras.layers.ReversibleEmbedding, hidden, targets) -> TargetScores:
    """Compares targets with the rest of the vocabulary, one chunk of it at a time.

    The logits are those of `embedding(hidden, reverse=True)`. Those of a chunk are recomputed for
    the gradient. It is the vocabulary that is split, and not the time: each weight then takes part
    in one chunk only, so that devices that share the weights exchange each of them, and its
    gradient, as often as without chunks.

    Args:
        embedding: See `can_score`.
        hidden: (batch, time, hidden_dim).
        targets: int (batch, time).
    """
    kernel = embedding.embeddings
    if not embedding.tie_weights:
        kernel = ops.transpose(embedding.reverse_embeddings)
    kernel = ops.cast(kernel, embedding.compute_dtype)
    vocabulary_size, width = kernel.shape
    count = -(-vocabulary_size // CHUNK_SIZE)
    size = -(-vocabulary_size // count)
    kernel = ops.pad(kernel, ((0, count * size - vocabulary_size), (0, 0)))
    # Every `count`-th id, so that devices that split the vocabulary split each chunk too.
    kernels = ops.swapaxes(ops.reshape(kernel, (size, count, width)), 0, 1)
    ids = ops.transpose(ops.reshape(ops.arange(count * size, dtype="int32"), (size, count)))
    hidden = ops.cast(hidden, "float32")  # the dtype in which the gradients of chunks are added
    targets = ops.cast(targets, "int32")

    def score_chunk(chunk):
        kernel, ids = chunk

        @keras.remat
        def score(hidden, kernel):
            logits = _project(embedding, hidden, kernel)
            logits = ops.where(ids < vocabulary_size, logits, _LOWEST)
            is_target = ops.equal(targets[..., None], ids)
            others = ops.logsumexp(ops.where(is_target, _LOWEST, logits), axis=-1)
            target = ops.sum(ops.where(is_target, logits, 0.0), axis=-1)
            logits = ops.stop_gradient(logits)
            best = ops.cast(ops.take(ids, ops.argmax(logits, axis=-1)), "float32")
            # As one array, because TensorFlow needs a gradient for each.
            return ops.stack([target, others, ops.max(logits, axis=-1), best])

        return score(hidden, kernel)

    target, others, highest, best = ops.unstack(ops.map(score_chunk, (kernels, ids)), axis=1)
    target, others = ops.sum(target, axis=0), ops.logsumexp(others, axis=0)
    # Of equal logits the first id counts, as in `argmax`.
    best = ops.where(ops.equal(highest, ops.max(highest, axis=0)), best, vocabulary_size)
    is_best = ops.equal(ops.cast(ops.min(best, axis=0), "int32"), targets)
    is_best = ops.cast(is_best, "float32")
    return TargetScores(
        ops.stack([target, others], axis=-1), ops.stack([is_best, 1.0 - is_best], axis=-1)
    )


def _project(embedding, hidden, kernel):
    """Returns the logits of some ids, as `ReversibleEmbedding` computes those of all."""
    dtype = embedding.reverse_dtype or embedding.compute_dtype
    logits = ops.matmul(ops.cast(hidden, dtype), ops.transpose(ops.cast(kernel, dtype)))
    distribution = keras.distribution.distribution()
    layout = distribution and distribution.get_tensor_layout(f"{embedding.path}/logits")
    if layout is not None:
        logits = keras.distribution.distribute_tensor(logits, layout)
    cap = embedding.logit_soft_cap
    if cap is not None:
        logits = ops.tanh(logits / cap) * cap
    return ops.cast(logits, "float32")
