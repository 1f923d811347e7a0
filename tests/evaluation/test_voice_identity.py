import numpy as np
import pytest

from keras_speechssm.evaluation.voice_identity import voice_identity


def embed(waveform):
    """A voice is the direction of the first two samples."""
    return waveform[:2] / np.linalg.norm(waveform[:2])


def speakers():
    angles = [[0.0, 0.1, 0.2], [1.0, 1.1], [2.0, 2.1]]
    return [[np.array([np.cos(a), np.sin(a), 7.0]) for a in speaker] for speaker in angles]


def test_a_perfect_copy_is_always_nearest_to_its_own_speaker():
    measured = voice_identity(speakers(), lambda waveform: waveform, embed)
    assert measured["nearest_share"] == measured["nearest_share_originals"] == 1.0
    assert measured["to_own"] > 0.98 > measured["to_others"]
    assert measured["num_speakers"] == 3 and measured["num_recordings"] == 7


def test_one_voice_for_all_is_right_for_one_speaker_only():
    constant = np.array([np.cos(1.05), np.sin(1.05), 0.0])
    measured = voice_identity(speakers(), lambda waveform: constant, embed)
    assert measured["nearest_share"] == pytest.approx(2 / 7)
    assert measured["nearest_share_originals"] == 1.0


def test_the_recording_itself_is_left_out():
    # Each first recording is far from its speaker's other one: a copy cannot be found by itself.
    pair = [np.array([1.0, 0.0]), np.array([0.0, 1.0])]
    near = [np.array([1.0, 0.01]), np.array([1.0, -0.01])]
    measured = voice_identity([pair, near], lambda waveform: waveform, embed)
    assert measured["nearest_share"] == measured["nearest_share_originals"] < 1.0


@pytest.mark.parametrize("recordings", [[], [[np.ones(2)] * 2], [[np.ones(2)] * 2, [np.ones(2)]]])
def test_too_few_speakers_or_recordings(recordings):
    with pytest.raises(ValueError, match="two speakers or more"):
        voice_identity(recordings, lambda waveform: waveform, embed)
