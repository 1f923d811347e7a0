import json

import numpy as np
import pytest
from tiny_models import shared_tiny_pipeline, shared_tiny_preset

from keras_speechssm.audio.io import write_audio
from keras_speechssm.benchmarks.continuation import bench_continue, bench_synthesis

pytestmark = pytest.mark.any_backend


@pytest.fixture
def preset():
    pytest.importorskip("matplotlib")
    return str(shared_tiny_preset())


def test_batches_of_windows_are_timed(preset, tmp_path, capsys):
    output = tmp_path / "synthesis.json"
    bench_synthesis([1, 2], preset=preset, num_windows=2, output=output)
    rows = json.loads(output.read_text())["rows"]
    assert [row["windows_per_batch"] for row in rows] == [1, 2]
    assert all(row["seconds_per_window"] > 0 for row in rows)
    speech = shared_tiny_pipeline()
    kept_seconds = (speech.synthesis.window - speech.synthesis.overlap) / 25
    for row in rows:
        expected = row["seconds_per_window"] / kept_seconds
        assert row["real_time_factor"] == pytest.approx(expected, rel=1e-6)
    assert "| windows_per_batch |" in capsys.readouterr().out


def test_a_continuation_is_timed_minute_by_minute(preset, tmp_path, capsys):
    prompt, output = tmp_path / "prompt.wav", tmp_path / "continue.json"
    rng = np.random.default_rng(0)
    write_audio(prompt, 0.1 * rng.normal(size=16000).astype("float32"))
    bench_continue(prompt, minutes=2.2, preset=preset, output=output)
    content = json.loads(output.read_text())
    assert [int(row["minute"]) for row in content["rows"]] == [1, 2, 2]
    assert content["rows"][-1]["minute"] == pytest.approx(2.2)
    assert content["first_audio_seconds"] > 0
    assert all(row["resident_mib"] > 50 for row in content["rows"])
    assert "first audio" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"must be a .json file"):
        bench_continue(prompt, preset=preset, output="a.csv")
