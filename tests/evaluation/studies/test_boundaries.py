import numpy as np
import pytest

pytest.importorskip("scipy")

from keras_speechssm.audio.io import write_audio
from keras_speechssm.evaluation.studies.boundaries import (
    compare_boundaries,
    evaluate_boundaries,
    level_jump,
    spectral_jump,
    synthesis_boundaries,
)

pytestmark = pytest.mark.any_backend


def noise(seconds, level=0.1, seed=0):
    random = np.random.default_rng(seed)
    return (level * random.standard_normal(round(seconds * 16000))).astype("float32")


def test_boundaries_are_the_papers():
    # A window of 27 s, 4 s shared: 25 s, then each 23 s, as in section 7.3.
    assert synthesis_boundaries(100.0) == [25.0, 48.0, 71.0, 94.0]
    # The first window of 10 s gives its first 8.
    assert synthesis_boundaries(60.0, first_windows=(100, 200, 400)) == [3.0, 8.0, 20.0, 43.0]
    assert synthesis_boundaries(5.0) == []


def test_a_step_of_level_is_seen_in_db():
    waveform = np.concatenate([noise(1.0, 0.1), noise(1.0, 0.2, seed=1)])
    assert level_jump(waveform, 1.0) == pytest.approx(6.02, abs=0.3)
    assert level_jump(waveform, 0.5) < 0.3
    assert spectral_jump(waveform, 1.0) < 0.4  # louder, not another sound


def test_a_step_of_spectrum_is_seen():
    dull = np.convolve(noise(1.0), np.ones(16) / 4, "same").astype("float32")
    assert spectral_jump(np.concatenate([dull, noise(1.0)]), 1.0) > 1.0


def test_seams_are_told_from_centres():
    pieces = [noise(8.0, 0.1)] + [noise(23.0, 0.1 * (1 + n % 2), seed=n) for n in range(1, 4)]
    waveform = np.concatenate(pieces)
    found = compare_boundaries([(waveform, [8.0, 31.0, 54.0])], lambda clip: len(clip) / 16000)
    assert found["boundary"]["level_jump_db"]["mean"] > 5
    assert found["center"]["level_jump_db"]["mean"] < 0.5
    assert found["boundary"]["mos"]["mean"] == found["center"]["mos"]["mean"] == 5.0
    assert found["difference"]["level_jump_db"]["mean"] > 4.5
    assert (found["num_boundaries"], found["num_centers"], found["num_recordings"]) == (3, 2, 1)


def test_a_recording_counts_once_however_many_boundaries_it_has():
    long, places = noise(79.0), [8.0, 31.0, 54.0, 77.0]  # the last without room after it
    scores = iter([5.0, 5.0, 3.0] + [3.0, 3.0, 1.0, 1.0, 1.0, 1.0])  # boundaries, centers
    twice = [(long[: 16000 * 60], places[:2]), (long, places)]
    found = compare_boundaries(twice, lambda clip: next(scores))
    assert found["num_boundaries"] == 5 and found["num_centers"] == 4
    assert found["boundary"]["mos"] == pytest.approx(
        {"mean": (5.0 + (3.0 + 3.0 + 1.0) / 3) / 2, "half_width": 84.9, "num": 2}, rel=1e-2
    )
    assert found["difference"]["mos"]["num"] == 2


def test_short_continuations_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has two boundaries"):
        compare_boundaries([(noise(20.0), [8.0])])
    pytest.importorskip("speechmos")
    write_audio(tmp_path / "a.wav", noise(5.0))
    with pytest.raises(ValueError, match="has two boundaries"):
        evaluate_boundaries([tmp_path])
