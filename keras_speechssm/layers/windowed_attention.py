"""Softmax attention inside a sliding window, one key-value head, cost linear in the length.

Pure functions on arrays: the layer in `local_attention` owns the weights and the state. The
window follows the Flax reference of RecurrentGemma: query t sees key s when
0 <= t - s <= window, that is `window + 1` keys, itself included.
"""

from keras import ops

from keras_speechssm.layers.recomputation import recompute

_MASKED = -1e30  # finite, so that a masked logit never turns into NaN
_MAX_UNROLLED_BLOCKS = 16
_RING_BEGINNINGS = (256, 512, 1024)  # slots; each is a branch that is compiled


def attend(queries, parts):
    """Attends to several groups of keys as if they were one.

    Args:
        queries: (batch, time, heads, head_dim), scaled already.
        parts: list of (keys, values, mask): keys and values (batch, length, head_dim), mask bool
            (batch or 1, time, length). Every query must see at least one key.

    Returns:
        (batch, time, heads, head_dim). The softmax is float32.
    """
    batch, time, heads, head_dim = ops.shape(queries)
    rows = ops.reshape(queries, (batch, time * heads, head_dim))  # heads share keys: rows of one
    logits = []
    for keys, _, mask in parts:
        scores = ops.matmul(rows, ops.swapaxes(keys, 1, 2))
        scores = ops.reshape(scores, (batch, time, heads, ops.shape(keys)[1]))
        logits.append(ops.where(mask[:, :, None, :], ops.cast(scores, "float32"), _MASKED))
    # The softmax, divided by its sum only after the values are mixed: one pass less over the
    # logits, and parts need not be joined.
    peak = ops.max(logits[0], axis=-1, keepdims=True)
    for scores in logits[1:]:
        peak = ops.maximum(peak, ops.max(scores, axis=-1, keepdims=True))
    peak = ops.stop_gradient(peak)
    mixed, total = 0.0, 0.0
    for (keys, values, _), scores in zip(parts, logits, strict=True):
        shares = ops.exp(scores - peak)
        total = total + ops.sum(shares, axis=-1, keepdims=True)
        shares = ops.reshape(shares, (batch, time * heads, ops.shape(keys)[1]))
        mixed = mixed + ops.matmul(ops.cast(shares, values.dtype), values)
    mixed = ops.reshape(mixed, (batch, time, heads, head_dim))
    return ops.cast(ops.cast(mixed, "float32") / total, queries.dtype)


def attend_to_ring(queries, keys, values, position):
    """One query's attention to the written slots of a ring buffer.

    As long as the ring is filling up, only a beginning of it is read that holds all there is:
    what a step costs then grows with the context, up to that of a whole ring.

    Args:
        queries: (batch, 1, heads, head_dim), scaled already.
        keys, values: (batch, slots, head_dim).
        position: int32 (batch,), of the query's own token, which is in its slot: slots up to
            this one are written, and all of them once it is beyond the last.

    Returns:
        (batch, 1, heads, head_dim). The softmax is float32.
    """
    lengths = [length for length in _RING_BEGINNINGS if length < keys.shape[1]]
    newest = ops.max(position)
    branch = sum((ops.cast(newest >= length, "int32") for length in lengths), 0)

    def attend_to_beginning(length):
        def function():
            beginning = slice(None), slice(0, length)
            return _attend_to_slots(queries, keys[beginning], values[beginning], position)

        return function

    branches = [attend_to_beginning(length) for length in (*lengths, keys.shape[1])]
    return ops.switch(branch, branches) if lengths else branches[0]()


def _attend_to_slots(queries, keys, values, position):
    written = ops.arange(keys.shape[1], dtype="int32")[None] <= position[:, None]
    # Keys times queries, and masked before it is turned: the other product, or a turn at once,
    # which XLA folds into it, reads the keys at 60 % of the speed on a CPU.
    scores = ops.cast(ops.matmul(keys, ops.swapaxes(queries[:, 0], 1, 2)), "float32")
    logits = ops.swapaxes(ops.where(written[:, :, None], scores, _MASKED), 1, 2)
    shares = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
    mixed = ops.cast(ops.matmul(ops.cast(shares, values.dtype), values), "float32")
    mixed = mixed / ops.sum(shares, axis=-1, keepdims=True)
    return ops.cast(mixed, queries.dtype)[:, None]


def attend_in_window(queries, keys, values, documents, window, block_size, has_history):
    """Block-local causal attention: each block of queries meets only its slab of keys.

    Args:
        queries: (batch, time, heads, head_dim), scaled already.
        keys, values: (batch, history + time, head_dim), `history` being 0 or `window` keys that
            precede the first query.
        documents: int (batch or 1, history + time): a query sees keys of its own document only;
            None when there is one document and all history is real.
        window: keys before itself that a query sees.
        block_size: queries of one block.
        has_history: whether there are those `window` keys; lengths may be unknown.

    Returns:
        (batch, time, heads, head_dim).
    """
    time = queries.shape[1]
    if time is not None and time <= _MAX_UNROLLED_BLOCKS * block_size:
        return _attend_unrolled(queries, keys, values, documents, window, block_size)
    return _attend_mapped(queries, keys, values, documents, window, block_size, has_history)


def _attend_unrolled(queries, keys, values, documents, window, block_size):
    """A Python loop over blocks: static slices, and no work on keys before the first."""
    time = queries.shape[1]
    history = keys.shape[1] - time
    outputs = []
    for start in range(0, time, block_size):
        stop = min(start + block_size, time)
        first = max(0, start + history - window)
        block, slab = slice(start, stop), slice(first, stop + history)
        mask = window_mask(start + history, stop - start, first, stop + history - first, window)
        if documents is not None:
            own = documents[:, start + history : stop + history]
            mask = ops.logical_and(mask, own[:, :, None] == documents[:, None, slab])
        outputs.append(
            recompute(_attend_to_slab, queries[:, block], keys[:, slab], values[:, slab], mask)
        )
    return outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, axis=1)


def _attend_mapped(queries, keys, values, documents, window, block_size, has_history):
    """One compiled body for all blocks: for long inputs and lengths not known in advance."""
    batch, time, heads, head_dim = ops.shape(queries)
    num_blocks = -(-time // block_size)
    fill = num_blocks * block_size - time
    if documents is None:
        documents = ops.zeros((1, ops.shape(keys)[1]), dtype="int32")
    if not has_history:  # a document of its own, which no query belongs to
        keys = ops.pad(keys, ((0, 0), (window, 0), (0, 0)))
        values = ops.pad(values, ((0, 0), (window, 0), (0, 0)))
        documents = ops.pad(documents, ((0, 0), (window, 0)), constant_values=-1)
    queries = ops.pad(queries, ((0, 0), (0, fill), (0, 0), (0, 0)))
    keys = ops.pad(keys, ((0, 0), (0, fill), (0, 0)))
    values = ops.pad(values, ((0, 0), (0, fill), (0, 0)))
    documents = ops.pad(documents, ((0, 0), (0, fill)))
    blocks = ops.reshape(queries, (batch, num_blocks, block_size, heads, head_dim))
    slab_length = window + block_size
    mask = window_mask(window, block_size, 0, slab_length, window)

    def attend_block(inputs):
        block, start = inputs
        rows = start + ops.arange(slab_length)
        slab_documents = ops.take(documents, rows, axis=1)
        own = slab_documents[:, window:]
        visible = ops.logical_and(mask, own[:, :, None] == slab_documents[:, None, :])
        slab_keys, slab_values = ops.take(keys, rows, axis=1), ops.take(values, rows, axis=1)
        return recompute(_attend_to_slab, block, slab_keys, slab_values, visible)

    starts = ops.arange(num_blocks) * block_size
    outputs = ops.map(attend_block, (ops.swapaxes(blocks, 0, 1), starts))
    outputs = ops.reshape(
        ops.swapaxes(outputs, 0, 1), (batch, num_blocks * block_size, heads, head_dim)
    )
    return outputs[:, :time]


def _attend_to_slab(queries, keys, values, mask):
    return attend(queries, [(keys, values, mask)])


def window_mask(query_start, num_queries, key_start, num_keys, window):
    """bool (1, num_queries, num_keys): 0 <= query position - key position <= window."""
    distance = (
        query_start
        - key_start
        + ops.arange(num_queries, dtype="int32")[:, None]
        - ops.arange(num_keys, dtype="int32")[None, :]
    )
    return ops.logical_and(distance >= 0, distance <= window)[None]
