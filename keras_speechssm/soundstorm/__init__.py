"""Stage 5: semantic tokens and a voice prompt to acoustic tokens (SoundStorm)."""

from keras_speechssm.soundstorm.masking import mask_for_training, remask_counts
from keras_speechssm.soundstorm.soundstorm import SoundStorm, check_guidance_scale

__all__ = ["SoundStorm", "check_guidance_scale", "mask_for_training", "remask_counts"]
