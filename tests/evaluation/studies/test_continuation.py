import numpy as np
import pytest

from keras_speechssm.audio.io import read_audio, write_audio
from keras_speechssm.evaluation.generate import SamplingOptions
from keras_speechssm.evaluation.studies import continuation
from keras_speechssm.evaluation.studies.continuation import evaluate_continuation


class FakePipeline:
    """Continues with two blocks, the second of them silent."""

    calls: list = []  # noqa: RUF012
    sample_rate = 16_000

    @classmethod
    def from_preset(cls, preset):
        assert preset == "some-preset"
        return cls()

    def stream(self, prompt, **options):
        self.calls.append((len(prompt), options))
        samples = round(options["seconds"] * 16000) // 2
        yield np.full(samples, 0.5, "float32")
        yield np.zeros(samples, "float32")


@pytest.fixture(autouse=True)
def fake_pipeline(monkeypatch):
    monkeypatch.setattr(continuation, "SpeechContinuation", FakePipeline)
    FakePipeline.calls.clear()


@pytest.fixture
def prompt(tmp_path):
    path = tmp_path / "prompt.wav"
    write_audio(path, 0.1 * np.random.default_rng(0).normal(size=32000))
    return path


def test_a_continuation_is_written_and_measured(tmp_path, prompt):
    sampling = SamplingOptions(top_p=0.9, seed=3)
    report = evaluate_continuation(
        prompt,
        tmp_path / "out.wav",
        120.0,
        preset="some-preset",
        prompt_seconds=1.0,
        sampling=sampling,
    )
    assert FakePipeline.calls == [(16000, {"seed": 3, "seconds": 120.0, "top_p": 0.9})]
    assert len(read_audio(tmp_path / "out.wav")) == 120 * 16000
    assert report["silence_fraction_per_minute"] == [0.0, 1.0]
    assert report["prompt_silence_fraction"] == 0.0
    assert report["real_time_factor"] >= 0 and report["first_audio_seconds"] >= 0
    assert set(report["peak_memory_mib"]) == {"minute_1", "end"}
    assert report["peak_memory_mib"]["end"] > 10
    assert "speaker_similarity" not in report


def test_the_voice_is_compared_with_other_speakers(tmp_path, prompt, monkeypatch):
    monkeypatch.setattr(
        continuation,
        "open_speaker_embedder",
        lambda: lambda waveform: np.array([1.0, 0.0] if waveform[0] < 0.4 else [0.0, 1.0]),
    )
    write_audio(tmp_path / "other.wav", np.full(16000, 0.5))
    report = evaluate_continuation(
        prompt,
        tmp_path / "out.wav",
        2.0,
        preset="some-preset",
        other_speakers=[tmp_path / "other.wav"],
    )
    assert report["speaker_similarity"]["rank"] == 2


def test_what_the_call_itself_takes_is_counted(tmp_path, prompt, monkeypatch):
    """Tokenizing the prompt and the language model's compilation are included."""
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(continuation.time, "monotonic", lambda: next(clock))

    def stream(self, *arguments, **options):
        next(clock), next(clock)  # twenty seconds
        return iter([np.ones(16000, "float32")])

    monkeypatch.setattr(FakePipeline, "stream", stream)
    report = evaluate_continuation(prompt, tmp_path / "out.wav", 1.0, preset="some-preset")
    assert report["load_seconds"] == 10.0 and report["first_audio_seconds"] == 30.0
    assert report["real_time_factor"] == 40.0 and report["steady_real_time_factor"] is None
