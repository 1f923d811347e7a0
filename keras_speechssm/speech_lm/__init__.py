"""Semantic tokens -> more semantic tokens: the spoken language models.

- `griffin_backbone`: the decoder of SpeechSSM, gated linear recurrences and local attention.
- `speech_ssm`: SpeechSSM, the language model on it, of constant memory.
- `speech_transformer`: the same interface on a KerasHub Transformer decoder, to compare with.
- `speech_language_model`: that interface.
- `checkpoint_weights`, `conversion`: text models' weights into these, and back into files.
- `generation`: sampling, compiled in blocks, from explicit state.
"""

from keras_speechssm.speech_lm.griffin_backbone import GriffinBackbone
from keras_speechssm.speech_lm.speech_ssm import SpeechSSM
from keras_speechssm.speech_lm.speech_transformer import SpeechTransformer

__all__ = ["GriffinBackbone", "SpeechSSM", "SpeechTransformer"]
