"""Stage 6: waveform <-> acoustic tokens."""

from keras_speechssm.soundstream.soundstream import SoundStream

__all__ = ["SoundStream"]
