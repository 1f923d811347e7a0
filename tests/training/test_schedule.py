import json

import keras
import numpy as np
import pytest

from keras_speechssm.training.callbacks import Budget, LearningRate

pytestmark = pytest.mark.any_backend


def write_seconds(folder, seconds):
    lines = [json.dumps({"step": 1, "seconds": value, "loss": 1.0}) for value in seconds]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_the_scarcer_of_steps_and_seconds_counts(tmp_path):
    assert Budget(tmp_path, 10).used(5) == 0.5
    write_seconds(tmp_path, [1.0, 2.0, 3.0])
    assert Budget(tmp_path, 10, max_seconds=4.0).used(3) == 0.75
    assert Budget(tmp_path, 10, max_seconds=100.0).used(3) == 0.3
    assert Budget(tmp_path, 2, max_seconds=2.0).used(3) == 1.0


@pytest.mark.parametrize(
    ("seconds", "epoch", "expected"),
    [
        (0.0, 0, 0.2),  # the first of five epochs of warm-up
        (0.0, 4, 1.0),
        (5.0, 5, 0.51),  # half of the time is gone: half way down the cosine
        (10.0, 9, 0.02),
    ],
)
def test_the_rate_warms_up_and_falls_to_a_fiftieth(tmp_path, seconds, epoch, expected):
    write_seconds(tmp_path, [seconds] * 10)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer="adam", loss="mse")
    # So many epochs that only seconds count.
    callback = LearningRate(Budget(tmp_path, 10**6, max_seconds=10.0), peak=0.5)
    callback.set_model(model)
    callback.on_epoch_begin(epoch)
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    np.testing.assert_allclose(rate, 0.5 * expected, rtol=1e-3)
