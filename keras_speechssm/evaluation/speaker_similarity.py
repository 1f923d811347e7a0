"""Whether a continuation keeps the prompt's voice."""

from collections.abc import Sequence

import numpy as np


def speaker_similarity(
    prompt: np.ndarray, continuation: np.ndarray, others: Sequence[np.ndarray], embed
) -> dict[str, float]:
    """Whether a continuation keeps the prompt's voice.

    Args:
        prompt, continuation: float (samples,) at 16 kHz.
        others: waveforms of other speakers.
        embed: function from a waveform to a unit vector, such as `open_speaker_embedder()`.

    Returns:
        dict of cosines: `to_prompt`; `to_others_mean` and `to_others_max`, of the
        continuation to the other speakers; and `rank`, 1 if no other is nearer.
    """
    if not others:
        raise ValueError("speaker_similarity needs at least one waveform of another speaker.")
    embedding = embed(continuation)
    to_prompt = float(embed(prompt) @ embedding)
    to_others = np.array([embed(other) @ embedding for other in others], "float64")
    return {
        "to_prompt": to_prompt,
        "to_others_mean": float(to_others.mean()),
        "to_others_max": float(to_others.max()),
        "rank": 1 + int(np.sum(to_others > to_prompt)),
    }
