import json

import keras
import pytest

from keras_speechssm.training.callbacks import Progress, TimeLimitedSchedule


def write_seconds(folder, seconds):
    lines = [json.dumps({"step": 1, "seconds": value, "loss": 1.0}) for value in seconds]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_the_scarcer_of_steps_and_seconds_counts(tmp_path):
    assert Progress(tmp_path, 10).fraction(5) == 0.5
    write_seconds(tmp_path, [1.0, 2.0, 3.0])
    assert Progress(tmp_path, 10, max_seconds=4.0).fraction(3) == 0.75
    assert Progress(tmp_path, 10, max_seconds=100.0).fraction(3) == 0.3
    assert Progress(tmp_path, 2, max_seconds=2.0).fraction(3) == 1.0


@pytest.mark.parametrize(
    ("seconds", "epoch", "lead"),
    [
        (9.0, 1, 0.0),  # still in the warm-up
        (0.0, 5, 0.0),
        (5.0, 5, 0.0),  # half of the time, half of the steps
        (7.5, 5, 25.0),  # three quarters of the time
        (10.0, 9, 10.0),
    ],
)
def test_the_schedule_leads_when_time_runs_out_first(tmp_path, seconds, epoch, lead):
    write_seconds(tmp_path, [seconds] * 10)
    variable = keras.Variable(1.0)
    progress = Progress(tmp_path, 10, max_seconds=10.0)
    TimeLimitedSchedule(variable, progress, steps_per_epoch=10, warmup_steps=20).on_epoch_begin(
        epoch
    )
    assert float(keras.ops.convert_to_numpy(variable)) == lead
