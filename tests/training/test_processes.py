"""Two processes of `speechssm train`: one is killed or terminated, both resume.

`SPEECHSSM_KILLS=20 pytest -m slow tests/training/test_processes.py` kills as often as one likes.
"""

import json
import os
import signal
import sys
import time

import keras
import numpy as np
import pytest
import python_processes
from python_processes import free_address, start_python

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

kill_what_is_left = python_processes.kill_what_is_left

SIZES = dict(num_layers=1, hidden_dim=16, intermediate_dim=32, num_heads=2, attention_window=8)


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
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return start_python(COMMAND, "train", "speech-lm", *words, *cluster)


def start_both(*arguments):
    cluster = ("--coordinator", free_address(), "--num-processes", 2, "--process-id")
    return [start(*arguments, *cluster, number) for number in range(2)]


def wait_for_line(processes, path):
    """Wait until a line more is written, and return how long that took."""
    before, began = len(read_metrics(path)), time.monotonic()
    while len(read_metrics(path)) == before:
        for process in processes:
            assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.05)
    return time.monotonic() - began


def wait_at_most(seconds, path, lines):
    """Wait, but not until more than some lines more are written."""
    before, began = len(read_metrics(path)), time.monotonic()
    while time.monotonic() < began + seconds and len(read_metrics(path)) < before + lines:
        time.sleep(0.02)


def check_same(folder, whole):
    lines, expected = (read_metrics(path / "metrics.jsonl") for path in (folder, whole))
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for name in ("loss", "val_loss"):
        ours, theirs = ([line[name] for line in found] for found in (lines, expected))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    names = {"checkpoints": 2, "best": 1}
    for name, count in names.items():  # nothing is left of those that were being written
        found = sorted(path.name for path in (folder / name).iterdir())
        assert len(found) == count and all(len(path) == len("epoch_00000") for path in found)


def finish(processes):
    for process in processes:
        error = process.communicate(timeout=1200)[1]
        assert process.returncode == 0, error[-3000:]


def test_killing_one_process_ends_the_other_and_loses_no_epoch(tokens, tmp_path):
    rng = np.random.default_rng(int(os.environ.get("SPEECHSSM_KILLS_SEED", "0")))
    kills = int(os.environ.get("SPEECHSSM_KILLS", "1"))
    run = (tokens, tmp_path / "killed", 10 + 4 * kills, 1)
    log, sessions = (tmp_path / "killed" / f"{name}.jsonl" for name in ("metrics", "sessions"))
    opening = 0.0
    for kill in range(kills):
        processes = start_both(*run)
        wait_for_line(processes, sessions)
        if kill % 2:  # while the processes restore, compile and train
            wait_at_most(rng.uniform(0, opening), log, 2)
        else:  # while they train and save
            opening = wait_for_line(processes, log)
            wait_at_most(rng.uniform(0, 2 * wait_for_line(processes, log)), log, 2)
        killed, epochs = int(rng.integers(2)), len(read_metrics(log))
        processes[killed].send_signal(signal.SIGKILL)
        began = time.monotonic()
        for process in processes:
            process.communicate(timeout=ORPHAN_SECONDS)
        assert processes[1 - killed].returncode != 0
        seconds = time.monotonic() - began
        line = f"killed process {killed} after epoch {epochs}; the other ended in {seconds:.1f} s"
        print(line, flush=True)
    finish(start_both(*run))
    finish(start_both(tokens, tmp_path / "whole", *run[2:]))
    check_same(tmp_path / "killed", tmp_path / "whole")


def test_sigterm_to_one_process_saves_the_state_of_both(tokens, tmp_path):
    run = (tokens, tmp_path / "ended", 240, 60)
    log = tmp_path / "ended" / "metrics.jsonl"
    processes = start_both(*run)
    wait_for_line(processes, log)
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        error = process.communicate(timeout=120)[1]
        assert process.returncode == 130, error[-3000:]
        assert "speechssm: interrupted after batch " in error and "which is saved" in error
    assert len(read_metrics(log)) < 4
    finish(start_both(*run))
    finish(start_both(tokens, tmp_path / "whole", *run[2:]))
    check_same(tmp_path / "ended", tmp_path / "whole")


SAVES = """
import sys, time
from types import SimpleNamespace
sys.modules["tensorflow"] = sys.modules["tensorflow_text"] = None  # as the command: it takes long
from keras_speechssm.training.distribution import join_processes
process, address, folder = int(sys.argv[1]), *sys.argv[2:]
join_processes(address, 2, process)
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint._src.checkpointers import async_checkpointer
from keras_speechssm.training.sharded_checkpoints import ShardedCheckpoints

split = NamedSharding(jax.make_mesh((2,), ("data",)), PartitionSpec("data"))
variable = SimpleNamespace(value=None, shape=(4,), dtype="float32")
variable.assign = lambda value: setattr(variable, "value", value)
optimizer = SimpleNamespace(variables=[], built=True)
model = SimpleNamespace(variables=[variable], optimizer=optimizer)
last, best = (ShardedCheckpoints(f"{folder}/{name}") for name in ("last", "best"))

commit = async_checkpointer._background_wait_for_commit_futures
def commit_late(path, *args, **options):  # each process has another folder that is slow
    time.sleep((process == 1) == (path.parent.name == "best"))
    commit(path, *args, **options)
async_checkpointer._background_wait_for_commit_futures = commit_late
for epoch in (1, 2, 3):
    variable.value = jax.device_put(np.full(4, epoch, "float32"), split)
    best.save(model, epoch)
    last.save(model, epoch)
found = [best.restore(model)["epoch"], float(variable.value.addressable_data(0)[0])]

open_all = last._open
def open_damaged(*args, **options):
    reader = open_all(*args, **options)
    restore = reader.restore
    def restore_but_one(epoch, args):
        if process == 1 and epoch == 3 and "state" in args.keys():
            raise OSError("The shard is damaged.")
        return restore(epoch, args=args)
    reader.restore = restore_but_one
    return reader
last._open = open_damaged
print(*found, last.restore(model)["epoch"], variable.value.addressable_data(0)[0])
last.close()
best.close()
"""


def test_two_checkpoints_are_written_at_once_and_a_shard_that_one_process_cannot_read(tmp_path):
    address = free_address()
    processes = [start_python(SAVES, number, address, tmp_path) for number in range(2)]
    for process in processes:
        out, error = process.communicate(timeout=1200)
        assert process.returncode == 0, error[-3000:]
        assert out.splitlines()[-1].split() == ["3", "3.0", "2", "2.0"]
    for name in ("last", "best"):
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == ["epoch_00002", "epoch_00003"]


FAILS = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_text"] = None  # as the command: it takes long
from keras_speechssm.training.distribution import broadcast, join_processes
process, address = int(sys.argv[1]), sys.argv[2]
join_processes(address, 2, process)
broadcast(1.0)
print("joined", flush=True)
if process == 1:
    raise OSError("The disk of this process is full.")
broadcast(1.0)
"""


def test_an_error_in_one_process_ends_the_other():
    address = free_address()
    processes = [start_python(FAILS, number, address) for number in range(2)]
    for process in processes:
        assert any(line == "joined\n" for line in process.stdout)  # after those of Gloo
    for process in processes:
        error = process.communicate(timeout=ORPHAN_SECONDS)[1]
        assert process.returncode != 0
    assert "The disk of this process is full." in error
