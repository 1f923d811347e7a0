import numpy as np
from tiny_models import shared_tiny_preset

from keras_speechssm.audio.io import read_audio, write_audio
from keras_speechssm.evaluation.studies import continuation
from keras_speechssm.evaluation.studies.continuation import evaluate_continuation


def test_report_of_a_short_continuation(tmp_path):
    prompt = 0.1 * np.random.default_rng(0).normal(size=32000)
    write_audio(tmp_path / "prompt.wav", prompt)
    report = evaluate_continuation(
        tmp_path / "prompt.wav", tmp_path / "out.wav", 2.0, preset=shared_tiny_preset()
    )
    assert len(read_audio(tmp_path / "out.wav")) == 32000
    assert report["real_time_factor"] > 0 and report["first_audio_seconds"] > 0
    assert report["peak_memory_mib"]["end"] > 10
    assert len(report["silence_fraction_per_minute"]) == 1
    assert "speaker_similarity" not in report


def test_what_the_call_itself_takes_is_counted(tmp_path, monkeypatch):
    """Tokenizing the prompt and the language model's compilation are included."""
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(continuation.time, "monotonic", lambda: next(clock))

    def stream(self, *arguments, **options):
        next(clock), next(clock)  # twenty seconds
        return iter([np.ones(16000, "float32")])

    monkeypatch.setattr(continuation.SpeechContinuation, "stream", stream)
    write_audio(tmp_path / "prompt.wav", 0.1 * np.random.default_rng(0).normal(size=32000))
    report = evaluate_continuation(
        tmp_path / "prompt.wav", tmp_path / "out.wav", 1.0, preset=shared_tiny_preset()
    )
    assert report["load_seconds"] == 10.0 and report["first_audio_seconds"] == 30.0
