"""Recipes that build data sets: LibriSpeech-Long, transcripts, stories, synthesized speech."""
