"""Recipes that build data sets: LibriSpeech-Long, transcribed speech, synthesized speech."""
