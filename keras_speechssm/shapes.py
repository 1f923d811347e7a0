"""The rates that connect the stages, as in the paper.

Audio at 16 kHz, semantic tokens at 25 Hz (Park et al. 2024, section 3), and acoustic frames at
50 Hz (SoundStream as SoundStorm uses it).
"""

SAMPLE_RATE = 16_000
"""Samples of waveform per second."""

TOKEN_RATE = 25
"""Semantic tokens per second."""

FRAME_RATE = 50
"""Acoustic frames per second."""

SAMPLES_PER_TOKEN = SAMPLE_RATE // TOKEN_RATE
"""Samples per semantic token (640)."""

SAMPLES_PER_FRAME = SAMPLE_RATE // FRAME_RATE
"""Samples per acoustic frame (320)."""

FRAMES_PER_TOKEN = FRAME_RATE // TOKEN_RATE
"""Acoustic frames per semantic token (2)."""
