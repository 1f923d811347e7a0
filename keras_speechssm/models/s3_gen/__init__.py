"""S3Gen of Chatterbox and CosyVoice 2: semantic tokens and a voice to a waveform at 24 kHz."""
