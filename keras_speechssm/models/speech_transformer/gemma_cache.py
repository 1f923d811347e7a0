"""Gemma, run in chunks over a cache of keys and values.

KerasHub's own cache has one write position for the whole batch. Here each row has its own, so
that prompts of any length and padding anywhere give what each row would give alone.
`_advance_block` repeats KerasHub's `GemmaDecoderBlock` on its layers; tests compare it with
`GemmaCausalLM`.
"""

import keras
import keras_hub
from keras import ops

from keras_speechssm.layers.padding import gather_time, left_align_order


def has_cache(backbone: keras_hub.models.Backbone) -> bool:
    """Returns whether `advance_cached` supports the backbone: Gemma without sliding windows."""
    return isinstance(backbone, keras_hub.models.GemmaBackbone) and not (
        backbone.use_sliding_window_attention
    )


def empty_cache(backbone, batch_size: int, max_length: int) -> list[dict]:
    """Returns `{"key", "value"}` per layer, each (batch, max_length, key heads, head_dim)."""
    shape = (batch_size, max_length, backbone.num_key_value_heads, backbone.head_dim)
    return [
        {name: ops.zeros(shape, dtype=layer.compute_dtype) for name in ("key", "value")}
        for layer in backbone.transformer_layers
    ]


def advance_cached(backbone, token_ids, cache: list[dict], length, padding_mask):
    """Computes the hidden states of a chunk that follows the cached tokens.

    Args:
        backbone: A `GemmaBackbone` that `has_cache` accepts.
        token_ids: int32 (batch, time).
        cache: From `empty_cache` or an earlier call.
        length: int32 (batch,), number of cached tokens per row.
        padding_mask: bool (batch, time), `True` at real tokens. Padding may be anywhere.

    Returns:
        Hidden states (batch, time, hidden_dim), meaningless at padding; the new cache; and the
        new lengths.
    """
    order, rank = left_align_order(padding_mask)
    count = ops.sum(ops.cast(padding_mask, "int32"), axis=1)
    token_ids = gather_time(token_ids, order)
    time, slots = token_ids.shape[1], cache[0]["key"].shape[1]
    steps = ops.arange(time, dtype="int32")[None]
    places = ops.arange(slots, dtype="int32")[None]
    positions = length[:, None] + steps
    # Slot j takes token j - length of the chunk, if there is one.
    source = ops.clip(places - length[:, None], 0, time - 1)
    written = ops.logical_and(places >= length[:, None], places < (length + count)[:, None])
    seen = places[:, None, :] <= positions[:, :, None]

    def store(old, new):
        if time == 1 and old.shape[0] != 1:
            # One slot per row, in place, so that a decoding step does not copy the cache.
            slot = ops.clip(length, 0, slots - 1)
            place = ops.stack([ops.arange(old.shape[0], dtype="int32"), slot], axis=1)
            kept = ops.take_along_axis(old, slot[:, None, None, None], axis=1)[:, 0]
            writes = ops.logical_and(count > 0, length < slots)[:, None, None]
            return ops.scatter_update(old, place, ops.where(writes, new[:, 0], kept))
        return ops.where(written[:, :, None, None], gather_time(new, source), old)

    hidden = backbone.token_embedding(token_ids)
    hidden = hidden * ops.cast(ops.sqrt(backbone.hidden_dim), hidden.dtype)
    new_cache = []
    for block, layer_cache in zip(backbone.transformer_layers, cache, strict=True):
        hidden, layer_cache = _advance_block(block, hidden, layer_cache, positions, seen, store)
        new_cache.append(layer_cache)
    return gather_time(backbone.layer_norm(hidden), rank), new_cache, length + count


def _advance_block(block, x, cache: dict, positions, seen, store):
    """Computes a `GemmaDecoderBlock` with its keys and values from the cache."""
    attention = block.attention
    normalized = block.pre_attention_norm(x)
    query = attention._apply_rope(attention.query_dense(normalized), 0, positions=positions)
    key = attention._apply_rope(attention.key_dense(normalized), 0, positions=positions)
    cache = {
        "key": store(cache["key"], key),
        "value": store(cache["value"], attention.value_dense(normalized)),
    }
    attended = attention._compute_attention(query, cache["key"], cache["value"], seen)
    attended = attention.output_dense(attended)
    if block.use_post_attention_norm:
        attended = block.post_attention_norm(attended)
    x = x + attended
    normalized = block.pre_ffw_norm(x)
    gate = keras.activations.gelu(block.gating_ffw(normalized), approximate=True)
    fed = block.ffw_linear(gate * block.gating_ffw_2(normalized))
    if block.use_post_ffw_norm:
        fed = block.post_ffw_norm(fed)
    return x + fed, cache
