"""Read, write, and resample audio files; log-mel spectra."""
