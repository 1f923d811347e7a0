"""A training that is killed again and again gives the losses of one that never was.

`SPEECHSSM_KILLS=20 pytest -m slow tests/training/test_kills.py` kills as often as one likes.
"""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from keras_speechssm.data.token_store import write_token_store
from keras_speechssm.training.callbacks import read_metrics

pytestmark = pytest.mark.any_backend

TRAIN = """
import sys
from keras_speechssm.training.speech_lm import SpeechLMTrainingConfig, train_speech_lm

sizes = dict(num_layers=3, hidden_dim=16, intermediate_dim=32, num_heads=2, attention_window=8)
config = SpeechLMTrainingConfig(
    token_folders=[sys.argv[1]], output_dir=sys.argv[2], validation_folders=[sys.argv[1]],
    model_config=sizes,
    sequence_length=16, batch_size=4, gradient_accumulation_steps=2, total_steps=int(sys.argv[3]),
    steps_per_epoch=2, warmup_steps=5, learning_rate=1e-2, weight_decay=0.01,
    ema_momentum=0.9, validation_steps=2,
)
train_speech_lm(config)
"""


@pytest.mark.slow
def test_kills_lose_and_double_no_step(tmp_path):
    rng = np.random.default_rng(int(os.environ.get("SPEECHSSM_KILLS_SEED", "0")))
    recordings = {
        str(number): (np.arange(300) * (number + 1) + rng.integers(0, 2, 300)) % 8
        for number in range(4)
    }
    write_token_store(tmp_path / "tokens", recordings, 8)
    kills = int(os.environ.get("SPEECHSSM_KILLS", "2"))
    total_steps = 60 + 30 * kills  # 15 epochs for each, which take longer than 1.5 s

    def start(name):
        arguments = tmp_path / "tokens", tmp_path / name, total_steps
        command = [sys.executable, "-c", TRAIN, *map(str, arguments)]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    log = tmp_path / "killed" / "metrics.jsonl"
    killed_at = []
    for _ in range(kills):
        done = len(read_metrics(log))
        process = start("killed")
        # Training has started; now any instant of steps, validations and writes.
        while process.poll() is None and len(read_metrics(log)) == done:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_at.append(len(read_metrics(log)))
    assert start("killed").wait() == 0
    assert start("whole").wait() == 0
    whole, lines = read_metrics(tmp_path / "whole" / "metrics.jsonl"), read_metrics(log)
    print("killed after the epochs", killed_at)
    assert killed_at[-1] < len(whole) == total_steps // 2
    assert [line["step"] for line in lines] == [line["step"] for line in whole]
    for name in ("loss", "val_loss"):
        ours, theirs = ([line[name] for line in found] for found in (lines, whole))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
