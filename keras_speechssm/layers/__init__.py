"""The layers that the models are built of.

Sequence layers take `x` (batch, time, dim) and `padding_mask` and, where documents may be packed
into one row, `reset_mask`. Causal layers also run chunk by chunk: `initial_state(batch_size)` is
the `get_initial_state` of Keras' RNN cells and of sequence-layers, and `advance(x, state)` is the
`step` of sequence-layers. `StreamingLayer` states what holds for them.
"""

from keras_speechssm.config import set_recurrence_implementation
from keras_speechssm.layers.causal_conv import CausalConv1D, CausalConv1DTranspose
from keras_speechssm.layers.conformer_block import (
    ConformerBlock,
    ConvolutionModule,
    SelfAttention,
)
from keras_speechssm.layers.dense import PointwiseDense, Projection
from keras_speechssm.layers.griffin_block import GatedMLP, GriffinBlock, RecurrentBlock
from keras_speechssm.layers.linear_recurrence import linear_recurrence
from keras_speechssm.layers.local_attention import LocalMultiQueryAttention
from keras_speechssm.layers.residual_vector_quantizer import ResidualVectorQuantizer
from keras_speechssm.layers.rg_lru import RGLRU, BlockDiagonalDense
from keras_speechssm.layers.rms_normalization import RMSNormalization
from keras_speechssm.layers.streaming_layer import StreamingLayer
from keras_speechssm.layers.temporal_conv import TemporalConv1D
from keras_speechssm.layers.vector_quantizer import VectorQuantizer

__all__ = [
    "RGLRU",
    "BlockDiagonalDense",
    "CausalConv1D",
    "CausalConv1DTranspose",
    "ConformerBlock",
    "ConvolutionModule",
    "GatedMLP",
    "GriffinBlock",
    "LocalMultiQueryAttention",
    "PointwiseDense",
    "Projection",
    "RMSNormalization",
    "RecurrentBlock",
    "ResidualVectorQuantizer",
    "SelfAttention",
    "StreamingLayer",
    "TemporalConv1D",
    "VectorQuantizer",
    "linear_recurrence",
    "set_recurrence_implementation",
]
