import numpy as np
import pytest

from keras_speechssm.evaluation.metrics.similarity import speaker_similarity

pytestmark = pytest.mark.any_backend


def embed(waveform):
    return waveform / np.linalg.norm(waveform)


def test_cosines_and_rank_by_hand():
    result = speaker_similarity(
        prompt=np.array([1.0, 0.0]),
        continuation=np.array([0.6, 0.8]),
        others=[np.array([0.0, 1.0]), np.array([-1.0, 0.0])],
        embed=embed,
    )
    assert result["to_prompt"] == pytest.approx(0.6)
    assert result["to_others_mean"] == pytest.approx(0.1)
    assert result["to_others_max"] == pytest.approx(0.8)
    assert result["rank"] == 2


def test_needs_other_speakers():
    with pytest.raises(ValueError, match="at least one waveform of another speaker"):
        speaker_similarity(np.ones(2), np.ones(2), [], embed)
