"""Speech synthesized from text by flite, espeak-ng, hibari and Kokoro."""
