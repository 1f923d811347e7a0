"""Stage 5: semantic tokens and a voice prompt to acoustic tokens (SoundStorm)."""

from keras_speechssm.soundstorm.masking import mask_for_training, remask_counts
from keras_speechssm.soundstorm.soundstorm import SoundStorm

__all__ = ["SoundStorm", "mask_for_training", "remask_counts"]
