import numpy as np
import pytest

from keras_speechssm.audio.io import write_audio
from keras_speechssm.evaluation.metrics.codec_quality import codec_quality, log_mel_distance, si_sdr
from keras_speechssm.evaluation.studies.lyra import lyra_round_trip
from keras_speechssm.evaluation.studies.resynthesis import mean_quality

pytestmark = pytest.mark.any_backend


def speech_like(seconds=2.0):
    time = np.arange(int(16000 * seconds)) / 16000
    tone = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 20))
    envelope = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * time)
    noise = 1e-3 * np.random.default_rng(0).normal(size=len(time))
    return (0.2 * tone * envelope + noise).astype("float32")


def test_si_sdr_by_hand():
    reference = np.array([1.0, -1.0, 1.0, -1.0])
    error = np.array([0.1, 0.1, -0.1, -0.1])  # orthogonal to the reference
    assert si_sdr(reference, reference + error) == pytest.approx(20.0)
    assert si_sdr(reference, 3.0 * (reference + error)) == pytest.approx(20.0)


def test_log_mel_distance_of_a_gain_is_its_logarithm():
    reference = speech_like()
    assert log_mel_distance(reference, reference) == 0.0
    # Bands at the floor do not move, hence "at most".
    assert 0.3 < log_mel_distance(reference, 2.0 * reference) <= np.log(2.0) + 1e-3


def test_perfect_copy_scores_best_and_noise_costs():
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    reference = speech_like()
    perfect = codec_quality(reference, reference)
    assert perfect["stoi"] == pytest.approx(1.0, abs=1e-3)
    assert perfect["pesq_wb"] > 4.5 and perfect["log_mel_l1"] == 0.0
    noisy = reference + 0.1 * np.random.default_rng(1).normal(size=len(reference))
    worse = codec_quality(reference, noisy.astype("float32"))
    assert worse["stoi"] < 0.95 and worse["pesq_wb"] < 3.0 and worse["log_mel_l1"] > 0.3


def test_lengths_must_match():
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    with pytest.raises(ValueError, match="equally long"):
        codec_quality(np.zeros(10), np.zeros(11))


def test_a_recording_without_speech_is_named(tmp_path):
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    for name, waveform in (("a", speech_like()), ("b", np.zeros(32000))):
        write_audio(tmp_path / f"{name}.wav", waveform)
    with pytest.raises(ValueError, match="b.wav: no speech that PESQ could judge"):
        mean_quality([tmp_path], lambda x: x)
    with pytest.raises(ValueError, match="no speech that PESQ could judge"):
        codec_quality(speech_like(0.1), speech_like(0.1))


def test_means_over_a_folder(tmp_path, monkeypatch):
    for name, level in (("a", 0.1), ("b", 0.3)):
        write_audio(tmp_path / f"{name}.wav", np.full(8000, level))
    monkeypatch.setattr(
        "keras_speechssm.evaluation.studies.resynthesis.codec_quality",
        lambda reference, decoded: {"mean": float(decoded.mean())},
    )
    longer = lambda x: np.pad(x, (0, 320))  # noqa: E731
    result = mean_quality([tmp_path], longer)
    assert result == {"mean": pytest.approx(0.2, abs=1e-3), "num_recordings": 2}
    assert mean_quality([tmp_path], longer, limit=1)["num_recordings"] == 1
    for limit in (0, -1):
        with pytest.raises(ValueError, match=f"limit is {limit}"):
            mean_quality([tmp_path], longer, limit=limit)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="No audio in .*empty"):
        mean_quality([tmp_path / "empty"], longer)


def test_missing_lyra_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="soundstream_encoder.tflite is missing"):
        lyra_round_trip(tmp_path)(np.zeros(320, "float32"))
