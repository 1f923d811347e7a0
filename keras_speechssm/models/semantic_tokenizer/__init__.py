"""SemanticTokenizer: waveform to semantic tokens at 25 Hz."""
