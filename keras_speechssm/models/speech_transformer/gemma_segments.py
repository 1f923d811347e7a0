"""Gemma on packed rows: attention within each document only."""

import functools

import keras_hub
from keras import ops


def has_segments(backbone: keras_hub.models.Backbone) -> bool:
    """Returns whether `separate_segments` supports the backbone: any Gemma or Gemma 2."""
    return isinstance(backbone, keras_hub.models.GemmaBackbone)


def separate_segments(backbone: keras_hub.models.GemmaBackbone) -> None:
    """Makes a Gemma read its `padding_mask` as the numbers of documents, and keep them apart.

    A token then attends to earlier tokens of the same number only. With zeros and ones the mask
    means what it meant before. Positions need not start at zero for each document, because rotary
    embeddings are relative.

    Args:
        backbone: The backbone, which is changed.
    """
    for block in backbone.transformer_layers:
        block._compute_attention_mask = functools.partial(_segment_mask, block)


def number_segments(reset_mask, padding_mask=None):
    """Numbers the documents of packed rows.

    Args:
        reset_mask: bool (batch, time), `True` at the first token of each document.
        padding_mask: bool (batch, time), `True` at real tokens. Defaults to `None`: all are.

    Returns:
        int32 (batch, time), from 1; 0 at padding.
    """
    numbers = 1 + ops.cumsum(ops.cast(reset_mask, "int32"), axis=1)
    if padding_mask is None:
        return numbers
    return numbers * ops.cast(ops.cast(padding_mask, "bool"), "int32")


def _segment_mask(block, x, padding_mask, cache, cache_update_index):
    mask = type(block)._compute_attention_mask(block, x, padding_mask, cache, cache_update_index)
    if padding_mask is None or cache is not None:
        return mask
    query, key = padding_mask[:, :, None], padding_mask[:, None, :]
    # Padding sees what it saw before: a row of the mask without any token could give NaN.
    same = ops.logical_or(ops.equal(query, key), ops.equal(query, 0))
    return ops.logical_and(ops.cast(mask, "bool"), same)
