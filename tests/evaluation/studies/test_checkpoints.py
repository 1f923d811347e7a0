import json

import numpy as np
import pytest

from keras_speechssm.audio.io import write_audio
from keras_speechssm.evaluation.models.transcript import Word
from keras_speechssm.evaluation.studies import checkpoints as checkpoint_selection
from keras_speechssm.evaluation.studies.checkpoints import evaluate_checkpoints

pytestmark = pytest.mark.any_backend

SAID = {"step-1": "sea deck sea deck", "step-2": "sea ship gull wave", "step-3": ""}
MUTE = "step-4"


class Steps:
    name, unit = "steps", "word"

    def negative_log_likelihood(self, text):
        order = {"sea": 0, "ship": 1, "gull": 2, "wave": 3, "deck": 9}
        places = [order[word] for word in text.split()]
        return float(np.abs(np.diff(places)).sum()), len(places)


@pytest.fixture
def generated(monkeypatch):
    """Checkpoints say what `SAID` has, encoded in the level of the audio."""
    asked = []

    def generate(benchmark, output, *, speech_lm, **options):
        asked.append((speech_lm, options))
        output.mkdir(parents=True)
        # Of an earlier run without a subset: it counts for nothing.
        write_audio(output / "z.flac", np.full(1600, 0.1, "float32"))
        level = 0.0 if output.name == MUTE else (1 + sorted(SAID).index(output.name)) / 10
        write_audio(output / "a.flac", np.full(1600, level, "float32"))
        write_audio(output / "b.flac", np.full(1600, level, "float32"))

    class Transcriber:
        name = "levels"

        def __call__(self, waveform):
            if not waveform.any():
                return [Word("sea", 0.0, 1.0)]  # as recognizers do of silence, and sure
            name = sorted(SAID)[round(float(waveform[0]) * 10) - 1]
            return [Word(word, 0.0, 1.0) for word in SAID[name].split()]

    monkeypatch.setattr(checkpoint_selection, "generate_continuations", generate)
    monkeypatch.setattr(checkpoint_selection, "load_transcriber", lambda name: Transcriber())
    monkeypatch.setattr(checkpoint_selection, "load_text_model", lambda name: Steps())
    monkeypatch.setattr(checkpoint_selection, "speech_turns", lambda w: [(0, 1)] * bool(w.any()))
    return asked


def benchmark(tmp_path):
    folder = tmp_path / "benchmark"
    folder.mkdir(exist_ok=True)
    write_audio(folder / "a.flac", np.full(12 * 16000, 0.1, "float32"))
    return folder


def test_the_likeliest_that_says_something_is_best(tmp_path, generated):
    paths = [f"run/presets/{name}" for name in SAID]
    report = evaluate_checkpoints(paths, benchmark(tmp_path), tmp_path / "out", subset=3)
    assert report["best"] == "run/presets/step-2"
    entry = report["checkpoints"]["run/presets/step-2"]
    assert entry["nll_nats_per_unit"] == pytest.approx(3 / 4)
    assert entry["num_texts"] == 1
    assert report["checkpoints"]["run/presets/step-3"]["num_units"] == 0
    # All with the same prompts and seeds.
    assert [path for path, _ in generated] == paths
    assert len({json.dumps(options, default=str) for _, options in generated}) == 1
    assert json.loads((tmp_path / "out" / "selection.json").read_text())["best"] == report["best"]


def test_silence_is_not_the_likeliest(tmp_path, generated):
    folder = benchmark(tmp_path)
    report = evaluate_checkpoints(["x/step-1", f"x/{MUTE}"], folder, tmp_path / "out")
    assert report["best"] == "x/step-1"
    assert report["checkpoints"][f"x/{MUTE}"]["num_units"] == 0


def test_a_fluent_recording_among_silent_ones_is_not_best(tmp_path, generated, monkeypatch):
    folder = benchmark(tmp_path)
    write_audio(folder / "b.flac", np.full(12 * 16000, 0.1, "float32"))
    # step-2 says the likelier text, but nothing in the second recording.
    real = checkpoint_selection.read_audio

    def read(path):
        silent = path.parent.name == "step-2" and path.stem == "b"
        return np.zeros(1600, "float32") if silent else real(path)

    monkeypatch.setattr(checkpoint_selection, "read_audio", read)
    report = evaluate_checkpoints(["x/step-1", "x/step-2"], folder, tmp_path / "out")
    assert report["best"] == "x/step-1"
    found = [entry["nll_nats_per_unit"] for entry in report["checkpoints"].values()]
    assert found[1] < found[0]


def test_checkpoints_that_say_nothing_or_share_a_name_are_refused(tmp_path, generated):
    with pytest.raises(ValueError, match="No word was recognized"):
        evaluate_checkpoints(["x/step-3"], benchmark(tmp_path), tmp_path / "out")
    for paths in ([], ["a/step-1", "b/step-1"]):
        with pytest.raises(ValueError, match="different names"):
            evaluate_checkpoints(paths, benchmark(tmp_path), tmp_path / "other")
