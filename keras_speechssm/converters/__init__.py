"""Checkpoints of other libraries: read tensor by tensor, written back shard by shard."""

from keras_speechssm.converters.recurrent_gemma import (
    RecurrentGemmaCheckpoint,
    griffin_shapes,
    open_recurrent_gemma,
)
from keras_speechssm.converters.recurrent_gemma_writer import write_recurrent_gemma

__all__ = [
    "RecurrentGemmaCheckpoint",
    "griffin_shapes",
    "open_recurrent_gemma",
    "write_recurrent_gemma",
]
