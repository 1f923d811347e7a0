import numpy as np
import pytest

from keras_speechssm.audio.io import read_audio, write_audio
from keras_speechssm.data.recipes.synthesized.perturbation import prepare_perturbed

pytestmark = pytest.mark.any_backend


def record(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, tone(1000))


def tone(hertz, seconds=1.0):
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(16000 * seconds)) / 16000)).astype("f4")


def test_a_tone_rises_with_the_speed_and_shortens(tmp_path):
    record(tmp_path / "in" / "deep" / "a.wav")
    files = prepare_perturbed([tmp_path / "in"], tmp_path / "out", speeds=[0.8, 1.25])
    assert [file.name for file in files] == ["a@0.8.flac", "a@1.25.flac"]
    for file, speed in zip(files, (0.8, 1.25), strict=True):
        assert file.parent == tmp_path / "out" / "deep"
        waveform = read_audio(file)
        assert abs(len(waveform) - 16000 / speed) < 2
        loudest = np.abs(np.fft.rfft(waveform)).argmax() * 16000 / len(waveform)
        assert abs(loudest - 1000 * speed) < 3


def test_what_is_there_is_not_made_again(tmp_path):
    record(tmp_path / "in" / "a.wav")
    (file,) = prepare_perturbed([tmp_path / "in"], tmp_path / "out", speeds=[1.1])
    before = file.stat().st_mtime_ns
    prepare_perturbed([tmp_path / "in"], tmp_path / "out", speeds=[1.1])
    assert file.stat().st_mtime_ns == before


def test_names_must_differ_and_speeds_be_sane(tmp_path):
    for folder in ("x", "y"):
        record(tmp_path / folder / "a.wav")
    with pytest.raises(ValueError, match="both become"):
        prepare_perturbed([tmp_path / "x", tmp_path / "y"], tmp_path / "out")
    with pytest.raises(ValueError, match="factors from 0.5 to 2"):
        prepare_perturbed([tmp_path / "x"], tmp_path / "out", speeds=[3.0])
    assert not (tmp_path / "out").exists()
