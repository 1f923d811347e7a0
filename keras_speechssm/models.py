"""Every model class of the package, each with `from_preset`, `save_to_preset` and `fit`."""

from keras_speechssm.semantic import SemanticTokenizer
from keras_speechssm.soundstorm import SoundStorm
from keras_speechssm.soundstream import SoundStream
from keras_speechssm.speech_lm import GriffinBackbone, SpeechSSM, SpeechTransformer

__all__ = [
    "GriffinBackbone",
    "SemanticTokenizer",
    "SoundStorm",
    "SoundStream",
    "SpeechSSM",
    "SpeechTransformer",
]
