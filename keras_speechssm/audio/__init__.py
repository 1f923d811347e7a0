"""Reading, writing, and resampling audio files; mel filters."""
