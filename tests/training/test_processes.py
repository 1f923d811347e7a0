"""Two processes of `speechssm train`: one is killed or terminated, both resume.

`SPEECHSSM_KILLS=20 pytest -m slow tests/training/test_processes.py` kills as often as one likes.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_speechssm.data.token_store import write_token_store
from keras_speechssm.training.callbacks import read_metrics

pytest.importorskip("orbax.checkpoint")

pytestmark = [
    pytest.mark.any_backend,
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution on JAX"),
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM"),
]

ORPHAN_SECONDS = 60
"""A process whose partner was killed ends within this time."""

COMMAND = "import sys; from keras_speechssm.cli import main; sys.exit(main())"

SIZES = dict(num_layers=3, hidden_dim=16, intermediate_dim=32, num_heads=2, attention_window=8)


@pytest.fixture
def tokens(tmp_path):
    rng = np.random.default_rng(0)
    recordings = {
        str(number): (np.arange(300) * (number + 1) + rng.integers(0, 2, 300)) % 8
        for number in range(4)
    }
    write_token_store(tmp_path / "tokens", recordings, 8)
    return tmp_path / "tokens"


def start(tokens, folder, total_steps, steps_per_epoch, *cluster):
    options = {
        "token-folders": tokens,
        "validation-folders": tokens,
        "output-dir": folder,
        "model-config": json.dumps(SIZES),
        "sequence-length": 16,
        "batch-size": 4,
        "gradient-accumulation-steps": 2,
        "total-steps": total_steps,
        "steps-per-epoch": steps_per_epoch,
        "warmup-steps": 5,
        "learning-rate": 1e-2,
        "ema-momentum": 0.9,
        "validation-steps": 2,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    path = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "train", "speech-lm", *words, *map(str, cluster)],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_both(*arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    cluster = ("--coordinator", address, "--num-processes", 2, "--process-id")
    return [start(*arguments, *cluster, number) for number in range(2)]


def wait_for_epoch(processes, log, done):
    """Wait until an epoch more is logged."""
    while len(read_metrics(log)) == done:
        for process in processes:
            assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.05)


def check_same(folder, whole):
    lines, expected = (read_metrics(path / "metrics.jsonl") for path in (folder, whole))
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for name in ("loss", "val_loss"):
        ours, theirs = ([line[name] for line in found] for found in (lines, expected))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def finish(processes):
    for process in processes:
        error = process.communicate(timeout=400)[1]
        assert process.returncode == 0, error[-3000:]


def test_killing_one_process_ends_the_other_and_loses_no_epoch(tokens, tmp_path):
    rng = np.random.default_rng(int(os.environ.get("SPEECHSSM_KILLS_SEED", "0")))
    kills = int(os.environ.get("SPEECHSSM_KILLS", "1"))
    run = (tokens, tmp_path / "killed", 60 + 30 * kills, 2)
    log = tmp_path / "killed" / "metrics.jsonl"
    for _ in range(kills):
        processes = start_both(*run)
        wait_for_epoch(processes, log, len(read_metrics(log)))
        time.sleep(rng.uniform(0, 1.5))
        killed = int(rng.integers(2))
        processes[killed].send_signal(signal.SIGKILL)
        for process in processes:
            process.communicate(timeout=ORPHAN_SECONDS)
        assert processes[1 - killed].returncode != 0
        print("killed process", killed, "after epoch", len(read_metrics(log)))
    finish(start_both(*run))
    finish([start(tokens, tmp_path / "whole", *run[2:])])
    check_same(tmp_path / "killed", tmp_path / "whole")


def test_sigterm_to_one_process_saves_the_state_of_both(tokens, tmp_path):
    run = (tokens, tmp_path / "ended", 240, 60)
    log = tmp_path / "ended" / "metrics.jsonl"
    processes = start_both(*run)
    wait_for_epoch(processes, log, 0)
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        error = process.communicate(timeout=120)[1]
        assert process.returncode == 130, error[-3000:]
        assert "speechssm: interrupted after batch " in error and "which is saved" in error
    assert len(read_metrics(log)) < 4
    finish(start_both(*run))
    finish([start(tokens, tmp_path / "whole", *run[2:])])
    check_same(tmp_path / "ended", tmp_path / "whole")
