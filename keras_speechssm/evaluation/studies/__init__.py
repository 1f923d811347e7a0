"""Experiments on presets and corpora, one command each."""
