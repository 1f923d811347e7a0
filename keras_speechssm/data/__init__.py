"""Preparing data: corpora of audio, synthesised speech, and folders of tokens."""
