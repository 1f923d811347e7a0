import numpy as np
from tiny_models import shared_tiny_preset

from keras_speechssm.audio import read_audio, write_audio
from keras_speechssm.evaluation.continuation import evaluate_continuation


def test_report_of_a_short_continuation(tmp_path):
    prompt = 0.1 * np.random.default_rng(0).normal(size=32000)
    write_audio(tmp_path / "prompt.wav", prompt)
    report = evaluate_continuation(
        tmp_path / "prompt.wav", tmp_path / "out.wav", 2.0, preset=shared_tiny_preset()
    )
    assert len(read_audio(tmp_path / "out.wav")) == 32000
    assert report["real_time_factor"] > 0 and report["first_audio_seconds"] > 0
    assert report["peak_memory_mib"]["end"] > 10
    assert len(report["silent_share_per_minute"]) == 1
    assert "speaker_similarity" not in report
