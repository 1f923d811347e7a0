"""Local multi-query attention with a ring buffer as its state."""

import keras
from keras import ops

from keras_speechssm.layers.padding import compaction, gather_time, zero_padding
from keras_speechssm.layers.projection import make_dense
from keras_speechssm.layers.windowed_attention import (
    attend,
    attend_in_window,
    attend_to_ring,
    window_mask,
)

_MAX_WAVELENGTH = 10_000.0


@keras.saving.register_keras_serializable(package="keras_speechssm")
class LocalMultiQueryAttention(keras.layers.Layer):
    """Causal attention to the recent past; all query heads share one key-value head.

    A query sees itself and the `attention_window` real tokens before it, in its own document:
    padding is skipped in windows and in positions. Cost and memory are linear in the length.

    Args:
        hidden_dim: dimension of the input and of the output.
        num_heads: query heads.
        head_dim: dimension of a head. Defaults to hidden_dim // num_heads.
        attention_window: tokens before itself that a query sees. Defaults to 2048.
        use_rotary: rotates the first half of each head by the position in the document (base
            10 000). Defaults to True; SpeechSSM uses no positions (False).
        query_block_size: queries handled at once, which changes cost only. Defaults to 128.
        output_variance: variance scale of the output projection at the start. Defaults to 1.

    Call arguments:
        x: (batch, time, hidden_dim).
        padding_mask: bool (batch, time), True = real; None when all are real.
        reset_mask: bool (batch, time), True at the first token of each packed document.

    Returns:
        (batch, time, hidden_dim) in the compute dtype; finite and meaningless at padding.

    State: `{"keys", "values": (batch, attention_window + 1, head_dim) in the compute dtype,
    "position": int32 (batch,)}`. `position` counts the real tokens of the current document; the
    token at position p lies in slot p modulo `attention_window + 1`.

    Source: Griffin, arXiv 2402.19427, section 2.3; window rule of the Flax reference (its mask
    is q <= k + window; others see one key less).

    Example:

        layer = LocalMultiQueryAttention(hidden_dim=64, num_heads=4, attention_window=16)
        y = layer(keras.random.normal((2, 40, 64)))
        y, state = layer.advance(keras.random.normal((2, 3, 64)), layer.initial_state(2))
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
                f"LocalMultiQueryAttention got hidden_dim={hidden_dim}, num_heads={num_heads} and "
                "no head_dim: choose num_heads that divides hidden_dim, or give head_dim."
            )
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.head_dim = head_dim or hidden_dim // num_heads
        self.attention_window = attention_window
        self.use_rotary = use_rotary
        self.query_block_size = query_block_size
        # A slot for each key that a query sees, itself included: a token can be written before
        # the ring is read, which spares XLA a copy of the ring in each step of a decoding loop.
        self.num_slots = attention_window + 1
        self.output_variance = output_variance
        if attention_window < 1 or query_block_size < 1:
            raise ValueError(
                f"LocalMultiQueryAttention got attention_window={attention_window} and "
                f"query_block_size={query_block_size}; both must be at least 1."
            )
        if use_rotary and self.head_dim % 4:
            raise ValueError(
                f"LocalMultiQueryAttention got head_dim={self.head_dim}; rotary positions turn "
                "half of it in pairs: choose a multiple of 4, or use_rotary=False."
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
        """Returns the state before any token."""
        shape = (batch_size, self.num_slots, self.head_dim)
        return {
            "keys": ops.zeros(shape, dtype=self.compute_dtype),
            "values": ops.zeros(shape, dtype=self.compute_dtype),
            "position": ops.zeros((batch_size,), dtype="int32"),
        }

    def call(self, x, padding_mask=None, reset_mask=None):
        return self._run(x, None, padding_mask, reset_mask)[0]

    def advance(self, x, state, padding_mask=None, reset_mask=None):
        """Continues from `state` over a chunk of any length; returns (output, new state)."""
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
            order, rank = compaction(padding_mask)
            x = gather_time(zero_padding(x, padding_mask), order)
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
        """One token: written into the ring, in place where the compiler can, then attended to."""
        position = state["position"]
        if reset_mask is not None:
            position = ops.where(reset_mask[:, 0], 0, position)
        slot = ops.mod(position, self.num_slots)
        slots = ops.arange(self.num_slots, dtype="int32")[None]
        here = (slots == slot[:, None])[..., None]
        if num_real is not None:  # padding leaves its slot as it was
            here = here & (num_real > 0)[:, None, None]

        def write(buffer, new):
            new = ops.cast(new, buffer.dtype)
            if num_real is None and buffer.shape[0] != 1:
                place = ops.stack([ops.arange(ops.shape(slot)[0], dtype="int32"), slot], axis=1)
                return ops.scatter_update(buffer, place, new[:, 0])
            # A scatter of one row becomes a slice update, which XLA on CPU computes twice over,
            # with copies of the ring; this select runs in place.
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
            # The ring as it lies: age 1 is the newest token. No copy of the buffer.
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
        # A long chunk: unroll the ring from oldest to newest and go on block by block.
        past = position - window + ops.arange(window, dtype="int32")[None]
        slots = ops.mod(past, self.num_slots)
        history = ops.where(past >= 0, 0, -1)  # -1: empty slots, no query's document
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
        # Each slot holds the newest position that falls on it; `source` is where the chunk has
        # it, negative when an earlier chunk wrote it.
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
    """Numbers the documents of a chunk: 0 is the one that was open before it."""
    return ops.cumsum(ops.cast(reset_mask, "int32"), axis=1)


def _positions(time, state, reset_mask):
    """Positions in the document: int32 (batch or 1, time)."""
    steps = ops.arange(time, dtype="int32")[None]
    positions = steps if state is None else state["position"][:, None] + steps
    if reset_mask is None:
        return positions
    # The starts in order; the n-th document's is the n-th of them.
    starts = ops.sort(ops.where(reset_mask, steps, time), axis=1)
    documents = _documents(reset_mask)
    start = ops.take_along_axis(starts, ops.maximum(documents - 1, 0), axis=1)
    return ops.where(documents == 0, positions, steps - start)


def _rotate(x, positions):
    """Rotary embedding of the first half of x (batch, time, heads, head_dim)."""
    turned, kept = ops.split(x, 2, axis=-1)
    pairs = turned.shape[-1] // 2
    exponents = ops.arange(pairs, dtype="float32") / pairs
    angles = ops.cast(positions, "float32")[..., None] * _MAX_WAVELENGTH**-exponents
    cosine = ops.cast(ops.cos(angles), x.dtype)[:, :, None]
    sine = ops.cast(ops.sin(angles), x.dtype)[:, :, None]
    first, second = ops.split(turned, 2, axis=-1)
    return ops.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine, kept], axis=-1
    )
