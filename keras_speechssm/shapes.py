"""The legend of dimension letters, and the rates that tie the stages together.

Every shape comment and einsum in the package uses these letters:

    B  batch                    T  time: tokens or frames, as the docstring says
    S  samples of waveform      D  model width
    F  feed-forward width       H  heads
    K  head dimension           V  vocabulary or codebook size
    Q  quantizer levels         W  attention window or analysis window
    M  mel bands                C  channels of a convolution

Rates follow the paper: 16 kHz audio, 25 Hz semantic tokens (section 3), 50 Hz
acoustic frames (SoundStream as SoundStorm uses it).
"""

SAMPLE_RATE = 16_000
"""Samples of waveform in a second."""

TOKEN_RATE = 25
"""Semantic tokens in a second."""

FRAME_RATE = 50
"""Acoustic frames in a second."""

SAMPLES_PER_TOKEN = SAMPLE_RATE // TOKEN_RATE
"""Samples that one semantic token stands for (640)."""

SAMPLES_PER_FRAME = SAMPLE_RATE // FRAME_RATE
"""Samples that one acoustic frame stands for (320)."""

FRAMES_PER_TOKEN = FRAME_RATE // TOKEN_RATE
"""Acoustic frames that share one semantic token (2)."""
