import numpy as np
import pytest

from keras_speechssm.audio import write_audio
from keras_speechssm.evaluation.speaker_probe import (
    evaluate_speaker_probe,
    probe_accuracy,
    probe_recordings,
    token_shares,
)


def test_what_tells_the_speaker_is_found_and_what_does_not_is_not():
    rng = np.random.default_rng(0)
    speakers = [name for name in "abcd" for _ in range(40)]
    plain = rng.normal(size=(160, 12))
    telling = plain + 3.0 * np.array(
        [[name == other for other in "abcdefghijkl"] for name in speakers]
    )
    assert probe_accuracy(list(telling), speakers) > 0.9
    assert probe_accuracy(list(plain), speakers) < 0.45  # chance 0.25


def test_the_second_half_is_judged_by_what_the_first_taught():
    """Who sounds like the other from half-time on is always taken for the other."""
    features = [np.array([x]) for x in (0.0, 0.1, 1.0, 0.9, 1.0, 1.1, 0.0, 0.1)]
    assert probe_accuracy(features, list("aaaabbbb")) == 0.0


def test_shares_of_tokens_do_not_depend_on_the_length():
    shares = token_shares(np.array([0, 0, 0, 2]), 4)
    np.testing.assert_allclose(shares**2, [0.75, 0, 0.25, 0])
    np.testing.assert_allclose(token_shares(np.array([2, 0, 0, 0] * 3), 4), shares)


@pytest.fixture
def recordings(tmp_path):
    """Two speakers, a deep and a high one, three seconds each in two files."""
    rng = np.random.default_rng(0)
    for speaker, hertz in (("deep", 200), ("high", 2000)):
        for number in range(2):
            time = np.arange(int(3.5 * 16000)) / 16000
            tone = 0.3 * np.sin(2 * np.pi * hertz * time) + 0.01 * rng.normal(size=len(time))
            write_audio(tmp_path / f"{number:04d}_{speaker}.wav", tone)
    return [(path.stem.partition("_")[2], path) for path in sorted(tmp_path.glob("*.wav"))]


def test_the_voice_is_in_the_spectra_and_not_in_tokens_that_leave_it_out(recordings):
    rng = np.random.default_rng(0)
    found = probe_recordings(recordings, lambda x: rng.integers(0, 4, 25), 4, 1.0, 5)
    assert found["log_mel"] == 1.0 and found["chance"] == 0.5
    assert (found["num_speakers"], found["num_excerpts"]) == (2, 10)
    loud = probe_recordings(recordings, lambda x: np.array([int(x[5] > x[2])]), 2, 1.0, 5)
    assert loud["num_excerpts"] == 10
    with pytest.raises(ValueError, match="No recording lasts 60 s"):
        probe_recordings(recordings, lambda x: np.zeros(1, int), 4, 60.0, 5)


def test_one_kind_of_folder_is_asked_for():
    with pytest.raises(ValueError, match="speaker_folders, or audio_folders"):
        evaluate_speaker_probe()
    with pytest.raises(ValueError, match="two speakers of two excerpts"):
        probe_accuracy([np.zeros(1)] * 3, ["a", "a", "b"])
