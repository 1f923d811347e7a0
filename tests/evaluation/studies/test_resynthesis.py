"""The measures taken from folders and presets."""

import numpy as np
import pytest
from tiny_models import shared_tiny_preset

from keras_speechssm.audio.io import write_audio
from keras_speechssm.evaluation.studies import resynthesis as report
from keras_speechssm.pipeline import SpeechContinuation


def test_codec_preset_is_measured_with_as_many_levels_as_asked(tmp_path, monkeypatch):
    write_audio(tmp_path / "a.wav", 0.1 * np.sin(np.arange(16000.0)))
    decoded = []

    def codec_quality(reference, restored):
        decoded.append(restored)
        return {"error": float(np.abs(reference - restored).max())}

    monkeypatch.setattr(
        "keras_speechssm.evaluation.studies.resynthesis.codec_quality", codec_quality
    )
    for levels in (None, 1):
        measured = report.evaluate_codec_preset(
            [tmp_path], preset=shared_tiny_preset(), num_levels=levels
        )["codec"]
        assert measured["num_recordings"] == 1 and measured["error"] > 0
    for levels in (0, -1, 3):
        with pytest.raises(ValueError, match=f"num_levels is {levels}; expected 1 to 2"):
            report.evaluate_codec_preset([tmp_path], preset=shared_tiny_preset(), num_levels=levels)
    assert decoded[0].shape == decoded[1].shape == (16000,)
    assert not np.array_equal(*decoded)


def test_resynthesis_is_compared_with_the_recordings(tmp_path, monkeypatch):
    write_audio(tmp_path / "a.wav", 0.1 * np.sin(np.arange(16000.0)))
    seen = []

    def codec_quality(reference, restored):
        seen.append(restored)
        return {"error": 1.0}

    monkeypatch.setattr(
        "keras_speechssm.evaluation.studies.resynthesis.codec_quality", codec_quality
    )
    measured = report.evaluate_resynthesis([tmp_path], preset=shared_tiny_preset(), seed=3)
    assert measured == {"resynthesis": {"error": 1.0, "num_recordings": 1}}
    speech = SpeechContinuation.from_preset(shared_tiny_preset())
    np.testing.assert_array_equal(seen[0], speech.resynthesize(tmp_path / "a.wav", seed=3))
