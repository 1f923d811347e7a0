"""Local multi-query attention with a ring buffer as its state."""

import keras
from keras import ops

from keras_speechssm.layers.dense import make_dense
from keras_speechssm.layers.padding import gather_time, left_align_order, mask_padding
from keras_speechssm.layers.rematerialization import rematerialize
from keras_speechssm.layers.softmax import exponentials

_MASKED = -1e30
"""Logit of a key that is not visible; finite, so that it does not become NaN."""

_MAX_UNROLLED_BLOCKS = 16
"""Most blocks of queries that are unrolled; more run in one compiled loop."""

_RING_PREFIXES = (256, 512, 1024)
"""Lengths at which a ring buffer that is still filling up is read, each a compiled branch."""

_MAX_WAVELENGTH = 10_000.0
"""Base of the rotary positions."""


def attend(queries, parts):
    """Attends to several groups of keys as if they were one. The softmax is float32.

    Args:
        queries: (batch, time, heads, head_dim), already scaled.
        parts: List of (keys, values, mask): keys and values (batch, length, head_dim), mask bool
            (batch or 1, time, length). At least one key must be visible to each query.

    Returns:
        (batch, time, heads, head_dim).
    """
    batch, time, heads, head_dim = ops.shape(queries)
    rows = ops.reshape(queries, (batch, time * heads, head_dim))  # heads share keys
    logits = []
    for keys, _, mask in parts:
        scores = ops.matmul(rows, ops.swapaxes(keys, 1, 2))
        scores = ops.reshape(scores, (batch, time, heads, ops.shape(keys)[1]))
        logits.append(ops.where(mask[:, :, None, :], ops.cast(scores, "float32"), _MASKED))
    weights, total = exponentials(logits)
    mixed = 0.0
    for (keys, values, _), group in zip(parts, weights, strict=True):
        group = ops.reshape(group, (batch, time * heads, ops.shape(keys)[1]))
        mixed = mixed + ops.matmul(ops.cast(group, values.dtype), values)
    mixed = ops.reshape(mixed, (batch, time, heads, head_dim))
    return ops.cast(ops.cast(mixed, "float32") / total, queries.dtype)


def attend_to_ring(queries, keys, values, position):
    """Attends from one query to the written slots of a ring buffer. The softmax is float32.

    While the ring is filling up, only a prefix that contains every written slot is read, so
    the cost of a step grows with the context, up to that of the whole ring.

    Args:
        queries: (batch, 1, heads, head_dim), already scaled.
        keys: (batch, slots, head_dim).
        values: (batch, slots, head_dim).
        position: int32 (batch,), position of the query's own token, whose slot is already
            written. Slots up to this position are written; all of them, once it is beyond the
            last slot.

    Returns:
        (batch, 1, heads, head_dim).
    """
    lengths = [length for length in _RING_PREFIXES if length < keys.shape[1]]
    newest = ops.max(position)
    branch = sum((ops.cast(newest >= length, "int32") for length in lengths), 0)

    def attend_to_prefix(length):
        def function():
            prefix = slice(None), slice(0, length)
            return _attend_to_slots(queries, keys[prefix], values[prefix], position)

        return function

    branches = [attend_to_prefix(length) for length in (*lengths, keys.shape[1])]
    return ops.switch(branch, branches) if lengths else branches[0]()


def _attend_to_slots(queries, keys, values, position):
    written = ops.arange(keys.shape[1], dtype="int32")[None] <= position[:, None]
    # Keys times queries, masked before it is transposed. On CPU, queries times keys, or a
    # transpose that XLA merges into the product, reads the keys at 60 % of the speed.
    scores = ops.cast(ops.matmul(keys, ops.swapaxes(queries[:, 0], 1, 2)), "float32")
    logits = ops.swapaxes(ops.where(written[:, :, None], scores, _MASKED), 1, 2)
    (weights,), total = exponentials([logits])
    mixed = ops.cast(ops.matmul(ops.cast(weights, values.dtype), values), "float32") / total
    return ops.cast(mixed, queries.dtype)[:, None]


def attend_in_window(queries, keys, values, documents, window, block_size, has_history):
    """Computes causal attention block by block: each block of queries reads its slab of keys.

    Args:
        queries: (batch, time, heads, head_dim), already scaled.
        keys: (batch, history + time, head_dim); `history` is 0, or `window` keys that precede the
            first query.
        values: (batch, history + time, head_dim).
        documents: int (batch or 1, history + time): a query sees the keys of its document only.
            `None` if there is one document and all history is real.
        window: Number of keys before itself that a query sees.
        block_size: Number of queries per block.
        has_history: Whether there are `window` keys of history; lengths may be unknown.

    Returns:
        (batch, time, heads, head_dim).
    """
    time = queries.shape[1]
    if time is not None and time <= _MAX_UNROLLED_BLOCKS * block_size:
        return _attend_unrolled(queries, keys, values, documents, window, block_size)
    return _attend_mapped(queries, keys, values, documents, window, block_size, has_history)


def _attend_unrolled(queries, keys, values, documents, window, block_size):
    """Loops over blocks in Python: static slices, and no work on keys before the first."""
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
            rematerialize(_attend_to_slab, queries[:, block], keys[:, slab], values[:, slab], mask)
        )
    return outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, axis=1)


def _attend_mapped(queries, keys, values, documents, window, block_size, has_history):
    """Runs one compiled body for all blocks: for long inputs and unknown lengths."""
    batch, time, heads, head_dim = ops.shape(queries)
    num_blocks = -(-time // block_size)
    fill = num_blocks * block_size - time
    if documents is None:
        documents = ops.zeros((1, ops.shape(keys)[1]), dtype="int32")
    if not has_history:  # a separate document, which no query belongs to
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
        return rematerialize(_attend_to_slab, block, slab_keys, slab_values, visible)

    starts = ops.arange(num_blocks) * block_size
    outputs = ops.map(attend_block, (ops.swapaxes(blocks, 0, 1), starts))
    outputs = ops.reshape(
        ops.swapaxes(outputs, 0, 1), (batch, num_blocks * block_size, heads, head_dim)
    )
    return outputs[:, :time]


def _attend_to_slab(queries, keys, values, mask):
    return attend(queries, [(keys, values, mask)])


def window_mask(query_start, num_queries, key_start, num_keys, window):
    """Bool (1, num_queries, num_keys): 0 <= query position - key position <= window."""
    distance = (
        query_start
        - key_start
        + ops.arange(num_queries, dtype="int32")[:, None]
        - ops.arange(num_keys, dtype="int32")[None, :]
    )
    return ops.logical_and(distance >= 0, distance <= window)[None]


@keras.saving.register_keras_serializable(package="keras_speechssm")
class LocalMultiQueryAttention(keras.layers.Layer):
    """Causal attention to the recent past; all query heads share one key-value head.

    A query sees itself and the `attention_window` real tokens before it in its own document.
    Windows and positions skip padding. Cost and memory are linear in the length.

    It is a `StreamingLayer` with the state `{"keys": (batch, attention_window + 1, head_dim),
    "values": the same, "position": int32 (batch,)}`. `position` counts the real tokens of the
    current document. The token at position p is in slot p modulo `attention_window + 1`.

    Args:
        hidden_dim: Dimension of the input and of the output.
        num_heads: Number of query heads.
        head_dim: Dimension of a head. Defaults to `hidden_dim // num_heads`.
        attention_window: Tokens before itself that a query attends to. Defaults to `2048`.
        use_rotary: Rotates the first half of each head by the position in the document (base
            10,000). Defaults to `True`; SpeechSSM uses no positions.
        query_block_size: Number of queries that are processed together; it changes the cost
            only. Defaults to `128`.
        output_variance: Variance scale of the initial output projection. Defaults to `1.0`.

    Raises:
        ValueError: If the sizes do not fit each other, or a size is below 1.

    Call arguments:
        x: (batch, time, hidden_dim).
        padding_mask: bool (batch, time), `True` at real positions; `None` if all are real.
        reset_mask: bool (batch, time), `True` at the first token of each packed document.

    Returns:
        (batch, time, hidden_dim) in the compute dtype; finite and meaningless at padding.

    Example:

    ```python
    import keras
    from keras_speechssm.layers import LocalMultiQueryAttention

    layer = LocalMultiQueryAttention(hidden_dim=8, num_heads=2, attention_window=4)
    y = layer(keras.random.normal((2, 10, 8)))
    y, state = layer.advance(keras.random.normal((2, 3, 8)), layer.initial_state(2))
    ```

    Reference:
        De et al. 2024, "Griffin" (arXiv 2402.19427), section 2.3. The window is that of the Flax
        reference, whose mask is q <= k + window; `transformers` attends to one key less.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        head_dim: int | None = None,
        attention_window: int = 2048,
        use_rotary: bool = True,
        query_block_size: int = 128,
        output_variance: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if head_dim is None and hidden_dim % num_heads:
            raise ValueError(
                f"hidden_dim is {hidden_dim}, num_heads {num_heads} and head_dim None; choose "
                "num_heads that divides hidden_dim, or pass head_dim."
            )
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.head_dim = head_dim or hidden_dim // num_heads
        self.attention_window = attention_window
        self.use_rotary = use_rotary
        self.query_block_size = query_block_size
        # One slot per key that a query sees, itself included: a token is written before the
        # ring is read, so XLA does not copy the ring in each step of a decoding loop.
        self.num_slots = attention_window + 1
        self.output_variance = output_variance
        if attention_window < 1 or query_block_size < 1:
            raise ValueError(
                f"attention_window is {attention_window} and query_block_size {query_block_size}; "
                "expected at least 1 for both."
            )
        if use_rotary and self.head_dim % 4:
            raise ValueError(
                f"head_dim is {self.head_dim}; rotary positions rotate half of it in pairs: "
                "choose a multiple of 4, or use_rotary=False."
            )
        policy, inner_dim = self.dtype_policy, num_heads * self.head_dim
        self.query_dense = make_dense(inner_dim, "query_dense", policy, use_bias=False)
        self.key_dense = make_dense(self.head_dim, "key_dense", policy, use_bias=False)
        self.value_dense = make_dense(self.head_dim, "value_dense", policy, use_bias=False)
        self.output_dense = make_dense(hidden_dim, "output_dense", policy, output_variance)

    def build(self, input_shape):
        for dense in (self.query_dense, self.key_dense, self.value_dense):
            dense.build((None, None, self.hidden_dim))
        self.output_dense.build((None, None, self.num_heads * self.head_dim))

    def initial_state(self, batch_size: int) -> dict:
        """Returns the state before any token; see the class for its structure."""
        shape = (batch_size, self.num_slots, self.head_dim)
        return {
            "keys": ops.zeros(shape, dtype=self.compute_dtype),
            "values": ops.zeros(shape, dtype=self.compute_dtype),
            "position": ops.zeros((batch_size,), dtype="int32"),
        }

    def call(self, x, padding_mask=None, reset_mask=None):
        return self._run(x, None, padding_mask, reset_mask)[0]

    def advance(self, x, state, padding_mask=None, reset_mask=None):
        """Processes the next chunk, of any length; returns its outputs and the new state."""
        if not self.built:
            self.build(x.shape)
        return self._run(x, state, padding_mask, reset_mask)

    def _run(self, x, state, padding_mask, reset_mask):
        rank = num_real = None
        if reset_mask is not None:
            reset_mask = ops.cast(reset_mask, "bool")
        if padding_mask is not None:
            padding_mask = ops.cast(padding_mask, "bool")
            num_real = ops.sum(ops.cast(padding_mask, "int32"), axis=1)
            order, rank = left_align_order(padding_mask)
            x = gather_time(mask_padding(x, padding_mask), order)
            if reset_mask is not None:
                reset_mask = gather_time(ops.logical_and(reset_mask, padding_mask), order)
        queries, keys, values = self._project(x, state, reset_mask)
        if state is not None and x.shape[1] == 1:
            outputs, state = self._step(queries, keys, values, state, num_real, reset_mask)
        elif state is None:
            documents = None if reset_mask is None else _documents(reset_mask)
            window, block_size = self.attention_window, self.query_block_size
            outputs = attend_in_window(
                queries, keys, values, documents, window, block_size, has_history=False
            )
        else:
            outputs = self._attend_with_state(queries, keys, values, state, reset_mask)
            state = self._next_state(keys, values, state, num_real, reset_mask)
        merged = (*ops.shape(outputs)[:2], self.num_heads * self.head_dim)
        outputs = self.output_dense(ops.reshape(outputs, merged))
        return (outputs if rank is None else gather_time(outputs, rank)), state

    def _project(self, x, state, reset_mask):
        queries = self.query_dense(x)
        keys, values = self.key_dense(x)[:, :, None], self.value_dense(x)
        split = (*ops.shape(queries)[:2], self.num_heads, self.head_dim)
        queries = ops.reshape(queries, split) * self.head_dim**-0.5
        if self.use_rotary:
            positions = _positions(ops.shape(x)[1], state, reset_mask)
            queries, keys = _rotate(queries, positions), _rotate(keys, positions)
        return queries, keys[:, :, 0], values

    def _step(self, queries, keys, values, state, num_real, reset_mask):
        """Processes one token: writes it into the ring, in place if possible, then attends."""
        position = state["position"]
        if reset_mask is not None:
            position = ops.where(reset_mask[:, 0], 0, position)
        slot = ops.mod(position, self.num_slots)
        slots = ops.arange(self.num_slots, dtype="int32")[None]
        here = (slots == slot[:, None])[..., None]
        if num_real is not None:  # padding does not change its slot
            here = here & (num_real > 0)[:, None, None]

        def write(buffer, new):
            new = ops.cast(new, buffer.dtype)
            if num_real is None and buffer.shape[0] != 1:
                place = ops.stack([ops.arange(ops.shape(slot)[0], dtype="int32"), slot], axis=1)
                return ops.scatter_update(buffer, place, new[:, 0])
            # XLA on CPU turns a scatter of one row into a slice update, which it computes twice,
            # with copies of the ring. This select runs in place.
            return ops.where(here, new, buffer)

        state = {
            "keys": write(state["keys"], keys),
            "values": write(state["values"], values),
            "position": position + (1 if num_real is None else num_real),
        }
        return attend_to_ring(queries, state["keys"], state["values"], position), state

    def _attend_with_state(self, queries, keys, values, state, reset_mask):
        window, time = self.attention_window, queries.shape[1]
        position = state["position"][:, None]
        documents = None if reset_mask is None else _documents(reset_mask)
        if time is not None and time <= self.query_block_size:
            # Reads the ring in its own order, without a copy; age 1 is the newest token.
            slots = ops.arange(self.num_slots, dtype="int32")[None]
            age = 1 + ops.mod(position - 1 - slots, self.num_slots)
            steps = ops.arange(time, dtype="int32")
            in_ring = (age[:, None] + steps[None, :, None] <= window) & (age <= position)[:, None]
            in_chunk = window_mask(0, time, 0, time, window)
            if documents is not None:
                in_ring = in_ring & (documents == 0)[:, :, None]
                in_chunk = in_chunk & (documents[:, :, None] == documents[:, None])
            parts = [(state["keys"], state["values"], in_ring), (keys, values, in_chunk)]
            return attend(queries, parts)
        # A long chunk: sort the ring from oldest to newest, then attend block by block.
        past = position - window + ops.arange(window, dtype="int32")[None]
        slots = ops.mod(past, self.num_slots)
        history = ops.where(past >= 0, 0, -1)  # -1: an empty slot
        if documents is None:
            documents = ops.zeros(ops.shape(keys)[:2], dtype="int32")
        return attend_in_window(
            queries,
            ops.concatenate([gather_time(state["keys"], slots), keys], axis=1),
            ops.concatenate([gather_time(state["values"], slots), values], axis=1),
            ops.concatenate([ops.cast(history, "int32"), documents], axis=1),
            window,
            self.query_block_size,
            has_history=True,
        )

    def _next_state(self, keys, values, state, num_real, reset_mask):
        time = ops.shape(keys)[1]
        count = time if num_real is None else num_real
        position = state["position"] + count
        if reset_mask is not None:
            steps = ops.arange(time, dtype="int32")[None]
            last = ops.max(ops.where(reset_mask, steps, -1), axis=1)
            position = ops.where(last >= 0, count - last, position)
        # Each slot holds the newest position that maps to it. `source` is its index in the
        # chunk, negative if an earlier chunk wrote it.
        slots = ops.arange(self.num_slots, dtype="int32")[None]
        age = ops.mod(position[:, None] - 1 - slots, self.num_slots)
        count = count if num_real is None else num_real[:, None]
        source = count - 1 - age
        fresh = ((source >= 0) & (age < position[:, None]))[..., None]
        source = ops.maximum(source, 0)

        def write(buffer, chunk):
            chunk = ops.cast(chunk, buffer.dtype)
            return ops.where(fresh, gather_time(chunk, source), buffer)

        return {
            "keys": write(state["keys"], keys),
            "values": write(state["values"], values),
            "position": ops.cast(position, "int32"),
        }

    def compute_output_spec(self, x, padding_mask=None, reset_mask=None):
        return keras.KerasTensor((*x.shape[:-1], self.hidden_dim), dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "attention_window": self.attention_window,
            "use_rotary": self.use_rotary,
            "query_block_size": self.query_block_size,
            "output_variance": self.output_variance,
        }


def _documents(reset_mask):
    """Numbers the documents of a chunk; 0 is the one that was open before it."""
    return ops.cumsum(ops.cast(reset_mask, "int32"), axis=1)


def _positions(time, state, reset_mask):
    """Positions in the document, int32 (batch or 1, time)."""
    steps = ops.arange(time, dtype="int32")[None]
    positions = steps if state is None else state["position"][:, None] + steps
    if reset_mask is None:
        return positions
    # Starts in order: document n begins at the n-th of them.
    starts = ops.sort(ops.where(reset_mask, steps, time), axis=1)
    documents = _documents(reset_mask)
    start = ops.take_along_axis(starts, ops.maximum(documents - 1, 0), axis=1)
    return ops.where(documents == 0, positions, steps - start)


def _rotate(x, positions):
    """Rotates the first half of x (batch, time, heads, head_dim) by its positions."""
    rotated, kept = ops.split(x, 2, axis=-1)
    pairs = rotated.shape[-1] // 2
    exponents = ops.arange(pairs, dtype="float32") / pairs
    angles = ops.cast(positions, "float32")[..., None] * _MAX_WAVELENGTH**-exponents
    cosine = ops.cast(ops.cos(angles), x.dtype)[:, :, None]
    sine = ops.cast(ops.sin(angles), x.dtype)[:, :, None]
    first, second = ops.split(rotated, 2, axis=-1)
    return ops.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine, kept], axis=-1
    )
