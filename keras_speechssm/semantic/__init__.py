"""Waveform -> semantic tokens, 25 a second: what is said, little of who says it."""

from keras_speechssm.semantic.log_mel import LogMelFrames
from keras_speechssm.semantic.masked_prediction import MaskedPrediction, SpanMasking
from keras_speechssm.semantic.semantic_tokenizer import SemanticTokenizer

__all__ = ["LogMelFrames", "MaskedPrediction", "SemanticTokenizer", "SpanMasking"]
