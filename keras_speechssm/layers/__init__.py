"""The layers the models are built of; they know no stage of the pipeline.

Sequence layers take `x` (batch, time, dim), `padding_mask` and, where documents may be packed,
`reset_mask`; the causal ones also carry explicit state: `initial_state`, `advance`.
"""

from keras_speechssm.layers.conformer_block import ConformerBlock
from keras_speechssm.layers.griffin_block import GriffinBlock
from keras_speechssm.layers.linear_recurrence import (
    linear_recurrence,
    set_recurrence_implementation,
)
from keras_speechssm.layers.local_attention import LocalMultiQueryAttention
from keras_speechssm.layers.residual_vector_quantizer import ResidualVectorQuantizer
from keras_speechssm.layers.rg_lru import RGLRU
from keras_speechssm.layers.temporal_conv import TemporalConv1D
from keras_speechssm.layers.vector_quantizer import VectorQuantizer

__all__ = [
    "ConformerBlock",
    "GriffinBlock",
    "LocalMultiQueryAttention",
    "RGLRU",
    "ResidualVectorQuantizer",
    "TemporalConv1D",
    "VectorQuantizer",
    "linear_recurrence",
    "set_recurrence_implementation",
]
