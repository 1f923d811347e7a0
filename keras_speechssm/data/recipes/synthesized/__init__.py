"""Speech synthesized from text by the programs flite and espeak-ng."""
