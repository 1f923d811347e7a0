import numpy as np
import pytest

from keras_speechssm.audio.io import write_audio
from keras_speechssm.evaluation.studies.speaker_probe import (
    Excerpts,
    evaluate_speaker_probe,
    probe_accuracy,
    probe_recordings,
    token_frequencies,
)

pytestmark = pytest.mark.any_backend


def one_each(speakers):
    """Excerpts of one recording a speaker."""
    return Excerpts(tuple(speakers), tuple(ord(speaker) for speaker in speakers))


def test_what_tells_the_speaker_is_found_and_what_does_not_is_not():
    rng = np.random.default_rng(0)
    speakers = "".join(name * 40 for name in "abcd")
    plain = rng.normal(size=(160, 12))
    telling = plain + 3.0 * np.array([[a == b for b in "abcdefghijkl"] for a in speakers])
    assert probe_accuracy(list(telling), one_each(speakers)) > 0.9
    assert probe_accuracy(list(plain), one_each(speakers)) < 0.45  # chance 0.25


def test_the_second_half_is_judged_by_what_the_first_taught():
    """Who sounds like the other from half-time on is always taken for the other."""
    features = [np.array([x]) for x in (0.0, 0.1, 1.0, 0.9, 1.0, 1.1, 0.0, 0.1)]
    assert probe_accuracy(features, one_each("aaaabbbb")) == 0.0


def test_a_recording_is_not_known_from_training_where_there_is_another():
    excerpts = Excerpts(tuple("aaaaabbbc"), (0, 0, 0, 0, 1, 2, 2, 2, 3))
    assert excerpts.split() == ([0, 1, 2, 3, 5], [4, 6, 7])


def test_shares_of_tokens_do_not_depend_on_the_length():
    shares = token_frequencies(np.array([0, 0, 0, 2]), 4)
    np.testing.assert_allclose(shares**2, [0.75, 0, 0.25, 0])
    np.testing.assert_allclose(token_frequencies(np.array([2, 0, 0, 0] * 3), 4), shares)


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


def test_the_voice_is_in_the_spectra_and_in_tokens_that_keep_it(recordings):
    blind = probe_recordings(recordings, lambda x: np.arange(25) % 4, 4, 1.0, 6)
    assert blind["log_mel"] == 1.0 and blind["tokens"] == blind["chance"] == 0.5
    assert (blind["num_speakers"], blind["num_excerpts"]) == (2, 6)

    def crossings(waveform):
        return np.array([int((np.diff(np.sign(waveform)) != 0).mean() > 0.1)])

    assert probe_recordings(recordings, crossings, 2, 1.0, 6)["tokens"] == 1.0
    with pytest.raises(ValueError, match="No recording is as long as 60 s"):
        probe_recordings(recordings, lambda x: np.zeros(1, int), 4, 60.0, 5)


def test_one_kind_of_folder_is_asked_for():
    with pytest.raises(ValueError, match="speaker_folders, or audio_folders"):
        evaluate_speaker_probe()
    with pytest.raises(ValueError, match="two speakers with two excerpts"):
        one_each("aab").split()


def test_a_name_without_a_voice_is_refused(tmp_path):
    write_audio(tmp_path / "plain.wav", np.zeros(16000))
    with pytest.raises(ValueError, match="plain.wav should be named"):
        evaluate_speaker_probe(audio_folders=[tmp_path])
