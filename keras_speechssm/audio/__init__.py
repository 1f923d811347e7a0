"""Read, write, and resample audio files; log-mel spectra."""

from keras_speechssm.audio.io import AudioWriter, WavStream, read_audio, read_speech, write_audio
from keras_speechssm.audio.mel import log_mel, mel_filters, spectrogram

__all__ = [
    "AudioWriter",
    "WavStream",
    "log_mel",
    "mel_filters",
    "read_audio",
    "read_speech",
    "spectrogram",
    "write_audio",
]
