import errno
import functools
import importlib.machinery
import io
import itertools
import json
import pickle
import sys
import threading
import time
import types
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import soundfile
from python_processes import start_python

from keras_speechssm.files import run_lock
from keras_speechssm.training import distribution
from keras_speechssm.training.callbacks import MetricsLog, ProgressBar, read_metrics
from keras_speechssm.training.checkpoints import Checkpoints
from keras_speechssm.training.codec import CodecBatches
from keras_speechssm.training.config import TrainingConfig
from keras_speechssm.training.trainer import fit_resumable, learning_rate_schedule, prefetch


def make_model():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    return model


def make_batch(step):
    rng = np.random.default_rng((0, step))
    x = rng.normal(size=(8, 3)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def options_of(folder, total_steps, **options):
    options = {"learning_rate": 0.01, "steps_per_epoch": 5, "warmup_steps": 2, **options}
    return TrainingConfig(output_dir=folder, total_steps=total_steps, **options)


FIT = ("validation_batches", "batch_threads", "best_from", "callbacks")


def run(folder, total_steps, make_batch=make_batch, **options):
    model = make_model()
    given = {name: options.pop(name) for name in FIT if name in options}
    return model, fit_resumable(
        model, make_batch, options_of(folder, total_steps, **options), **given
    )


class StopAfter(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch + 1 == self.epochs


def test_a_broken_run_equals_an_unbroken_one(tmp_path):
    whole, whole_lines = run(tmp_path / "whole", 30)
    run(tmp_path / "broken", 30, callbacks=[StopAfter(2)])
    broken, broken_lines = run(tmp_path / "broken", 30)
    assert [line["step"] for line in broken_lines] == [5, 10, 15, 20, 25, 30]
    np.testing.assert_allclose(
        [line["loss"] for line in broken_lines],
        [line["loss"] for line in whole_lines],
        rtol=1e-5,
    )
    for a, b in zip(whole.get_weights(), broken.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_two_runs_in_one_folder_would_mix_so_the_second_is_refused(tmp_path):
    _, before = run(tmp_path, 10)
    with run_lock(tmp_path):
        with pytest.raises(ValueError, match="Another run is at work in"):
            run(tmp_path, 20)
    assert read_metrics(tmp_path / "metrics.jsonl") == before
    assert len(run(tmp_path, 20)[1]) == 4


def test_each_step_gets_its_own_batch(tmp_path):
    seen = []

    def spy(step):
        seen.append(step)
        return make_batch(step)

    for total_steps in (10, 20):
        run(tmp_path, total_steps, spy)
    # Keras may ask for one batch more than it trains on.
    assert list(dict.fromkeys(seen))[:20] == list(range(20))


def killed(folder, epoch, when):
    """A run that is killed in an epoch: before its checkpoint, or while it is written."""

    class Killed(Exception):  # noqa: N818
        pass

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if when == "step" and batch == 2 and self.params["epochs"] and self.epoch == epoch:
                raise Killed

        def on_epoch_begin(self, number, logs=None):
            self.epoch = number

    save = Checkpoints.save

    def save_half(self, model, number, **about):
        if when in str(self.folder) and number == epoch + 1:
            partial = self.folder / f".epoch-{number:05d}.partial"
            partial.mkdir(parents=True)
            (partial / "state.weights.h5").write_bytes(b"half")
            raise Killed
        return save(self, model, number, **about)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_half)
        with pytest.raises(Killed):
            run(folder, 30, callbacks=[Kill()], validation_batches=[make_batch(1000)])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Weights and log lines of a run that nobody killed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    model, lines = run(folder, 30, validation_batches=[make_batch(1000)])
    return model.get_weights(), lines


@pytest.mark.parametrize("when", ["step", "checkpoints", "best"])
@pytest.mark.parametrize("epoch", [0, 3])
def test_a_killed_run_resumes_to_the_same_losses(tmp_path, uninterrupted, when, epoch):
    weights, whole_lines = uninterrupted
    killed(tmp_path / "killed", epoch, when)
    with open(tmp_path / "killed" / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "seco')  # the line that was being written
    again, lines = run(tmp_path / "killed", 30, validation_batches=[make_batch(1000)])
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30]
    for ours, theirs in zip(lines, whole_lines, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-5)
    for a, b in zip(weights, again.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_damaged_newest_checkpoint_costs_one_epoch(tmp_path, caplog):
    _, whole = run(tmp_path, 20)
    state = tmp_path / "checkpoints" / "epoch-00004" / "state.weights.h5"
    state.write_bytes(state.read_bytes()[:-9])
    _, again = run(tmp_path, 20)
    assert "epoch-00004 is damaged" in caplog.text
    assert [line["step"] for line in again] == [5, 10, 15, 20]
    assert again[-1]["loss"] == pytest.approx(whole[-1]["loss"], rel=1e-5)


def test_batches_of_many_threads_come_in_the_order_of_their_numbers(tmp_path):
    together = threading.Barrier(3)  # Broken, an error, unless three calls run at a time.

    def slow_for_the_first(number):
        if number < 3:
            together.wait(timeout=60)
        time.sleep(0.02 * (2 - number % 3))
        return make_batch(number)

    lines = {}
    for threads, function in ((1, make_batch), (3, slow_for_the_first)):
        options = {"steps_per_epoch": 4, "batch_threads": threads}
        lines[threads] = run(tmp_path / str(threads), 12, function, **options)[1]
    assert [line["loss"] for line in lines[3]] == [line["loss"] for line in lines[1]]


def test_batches_of_workers_are_those_of_threads_in_order(tmp_path):
    (tmp_path / "audio").mkdir()
    noise = 0.1 * np.random.default_rng(0).normal(size=16000)
    soundfile.write(tmp_path / "audio" / "a.wav", noise, 16000)
    batches = CodecBatches([tmp_path / "audio"], 2, 0.1, seed=0)
    by_processes = prefetch(batches, 3, threads=1, num_workers=2)
    for number in range(3, 9):
        for made, expected in zip(next(by_processes), batches(number), strict=True):
            np.testing.assert_array_equal(made, expected)
    by_processes.close()
    # What some processes of a distributed run make of it.
    make_rows = functools.partial(distribution._make_rows, batches, np.array([1]))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(make_rows))(4)[0], batches(4)[0][1:])


@pytest.mark.slow
def test_an_error_in_a_worker_is_the_error_of_the_run(tmp_path):
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", np.zeros(1600), 16000)
    batches = CodecBatches([tmp_path / "audio"], 2, 0.1, seed=0)
    batches.samples = "many"
    with pytest.raises(TypeError):
        next(prefetch(batches, 0, threads=1, num_workers=1))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes under /proc")
def test_workers_end_with_a_killed_run(tmp_path):
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", np.zeros(1600), 16000)
    script = """
import multiprocessing, sys, time
from keras_speechssm.training.codec import CodecBatches
from keras_speechssm.training.trainer import prefetch
if __name__ == "__main__":
    batches = prefetch(CodecBatches([sys.argv[1]], 1, 0.1, 0), 0, 1, num_workers=2)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""
    with start_python(script, tmp_path / "audio") as process:
        try:
            workers = [Path(f"/proc/{pid}") for pid in process.stdout.readline().split()]
            assert len(workers) == 2 and all(worker.is_dir() for worker in workers)
        finally:
            process.kill()
    deadline = time.monotonic() + 60
    while any(worker.is_dir() and _runs(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _runs(process: Path) -> bool:
    with suppress(OSError):  # it may end at any time
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_batch_that_cannot_be_made_ends_the_run_with_its_error(tmp_path):
    def broken(number):
        if number == 7:
            raise OSError("the disk is gone")
        return make_batch(number)

    # TensorFlow wraps what its generators raise.
    with pytest.raises(Exception, match="the disk is gone"):
        run(tmp_path, 20, broken)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [5]


def test_finished_run_trains_no_further(tmp_path):
    run(tmp_path, 10)
    _, lines = run(tmp_path, 10)
    assert [line["step"] for line in lines] == [5, 10]


def test_keeps_the_best_weights(tmp_path):
    class Worsen(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 4:
                self.model.set_weights([100.0 + w for w in self.model.get_weights()])

    validation = [make_batch(1000), make_batch(1001)]
    model, lines = run(tmp_path, 25, validation_batches=validation, callbacks=[Worsen()])
    assert lines[-1]["val_loss"] > 2 * lines[3]["val_loss"]
    loss = np.mean([model.evaluate(*batch, verbose=0) for batch in validation])
    assert loss == pytest.approx(min(line["val_loss"] for line in lines), rel=1e-4)


@pytest.mark.slow_to_compile("tensorflow")
def test_every_validation_sees_every_batch(tmp_path):
    """Keras looks at two batches of a generator, and gives them again at each validation."""
    validation = [make_batch(1000 + number) for number in range(5)]
    model, lines = run(tmp_path, 20, validation_batches=validation, learning_rate=0.0)
    losses = [model.evaluate(*batch, verbose=0) for batch in validation]
    assert np.ptp(losses) > 0.05
    for line in lines:
        assert line["val_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.slow_to_compile("tensorflow")
def test_time_limit_stops_and_counts_earlier_runs(tmp_path):
    for _ in range(2):  # run again, nothing is left to use
        _, lines = run(tmp_path, 1000, max_seconds=0.0)
        assert len(lines) == 1


def test_metrics_are_json_lines(tmp_path):
    run(tmp_path, 5)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == read_metrics(
        tmp_path / "metrics.jsonl"
    )
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_a_folder_says_what_each_session_was_run_with(tmp_path):
    for total_steps in (5, 10):
        run(tmp_path, total_steps)
    lines = (tmp_path / "sessions.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert (first["options"]["total_steps"], second["options"]["total_steps"]) == (5, 10)
    assert first["versions"]["keras"] == keras.__version__
    assert first["backend"] == keras.backend.backend() and first["processes"] == 1


def test_tensorboard_sees_the_losses(tmp_path):
    pytest.importorskip("tensorboardX")
    _, lines = run(tmp_path, 10)
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert events.count(b"learning_rate") == len(lines) == 2


class FakeWandb(types.ModuleType):
    """Stands for the package `wandb`; `error` is what its server answers."""

    class Error(Exception):
        pass

    def __init__(self, error=None):
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.error, self.runs = error, []

    def init(self, **options):
        if self.error is not None:
            raise self.Error(self.error)
        run = SimpleNamespace(options=options, logged={}, exit_code=None)
        run.log = lambda values, step: run.logged.update({step: values})
        run.finish = lambda exit_code: setattr(run, "exit_code", exit_code)
        self.runs.append(run)
        return run


def test_weights_and_biases_see_one_run_of_all_sessions(tmp_path, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    _, lines = run(tmp_path, 10, wandb_project="speech")
    with pytest.raises(ValueError, match="loss is nan"):
        run(
            tmp_path,
            15,
            lambda step: (np.full((8, 3), np.nan), np.zeros((8, 1))),
            wandb_project="speech",
        )
    first, second = wandb.runs
    assert first.options["project"] == "speech" and first.options["resume"] == "allow"
    assert first.options["id"] == second.options["id"]
    assert first.options["config"]["options"]["total_steps"] == 10
    assert [first.logged[line["step"]]["loss"] for line in lines] == [x["loss"] for x in lines]
    assert "learning_rate" in first.logged[10]
    assert (first.exit_code, second.exit_code, second.logged) == (0, 1, {})


def test_weights_and_biases_are_refused_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb("not logged in\nsee the documentation"))
    with pytest.raises(ValueError, match=r"start a run \(not logged in\); run `wandb login`"):
        run(tmp_path, 5, lambda step: pytest.fail("a batch was made"), wandb_project="speech")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError) as error:
        options_of(tmp_path, 5, wandb_project="speech")
    assert error.value.name == "wandb"


def test_the_time_of_an_interrupted_epoch_counts(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", 5, earlier_seconds=100.0)
    for epoch in range(2):
        log.on_train_begin()
        log.on_epoch_end(epoch, {"loss": 1.0})
    first, second = (line["seconds"] for line in read_metrics(tmp_path / "metrics.jsonl"))
    assert 100.0 <= first <= second < 160.0


def test_lines_wait_while_the_disk_is_full(tmp_path, monkeypatch, caplog):
    log = MetricsLog(tmp_path / "metrics.jsonl", steps_per_epoch=5)
    log.on_train_begin()
    log.on_epoch_end(0, {"loss": 1.0})

    class Full(io.StringIO):
        def write(self, text):
            with real_open(tmp_path / "metrics.jsonl", "a") as file:
                file.write(text[:7])
            raise OSError(errno.ENOSPC, "No space left on device")

    real_open = open
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", lambda *args, **kwargs: Full())
        log.on_epoch_end(1, {"loss": 0.5})
    assert "No space left" in caplog.text
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1.0]
    log.on_epoch_end(2, {"loss": 0.25})
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(5, 1.0), (10, 0.5), (15, 0.25)]


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_what_was(tmp_path):
    run(tmp_path, 10)

    def spoilt(step):
        x, y = make_batch(step)
        return x, y * (np.nan if step >= 15 else 1.0)

    with pytest.raises(ValueError, match="loss is nan in epoch 4; lower the learning rate"):
        run(tmp_path, 30, spoilt)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [5, 10, 15]
    assert (tmp_path / "checkpoints" / "epoch-00003").is_dir()
    assert not (tmp_path / "checkpoints" / "epoch-00004").exists()


def test_the_best_can_wait(tmp_path):
    class Worsen(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.set_weights([3.0 + w for w in self.model.get_weights()])

    for name, options in (("plain", {}), ("late", {"best_from": 0.6})):
        run(tmp_path / name, 25, callbacks=[Worsen()], **options)
    best = {name: next((tmp_path / name / "best").iterdir()).name for name in ("plain", "late")}
    assert best == {"plain": "epoch-00001", "late": "epoch-00004"}


@pytest.mark.parametrize(
    "options",
    [
        {"total_steps": 0},
        {"total_steps": -4},
        {"steps_per_epoch": 0},
        {"batch_threads": 0},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"max_seconds": -1.0},
        {"final_learning_rate": 2.0},
        {"clip_norm": 0.0},
        {"warmup_steps": -1},
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_written(tmp_path, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} is"):
        run(tmp_path / "run", **{"total_steps": 10, **options})
    assert not (tmp_path / "run").exists()


def test_damaged_metrics_are_named(tmp_path):
    run(tmp_path, 10)
    log = tmp_path / "metrics.jsonl"
    log.write_text("{\n" + log.read_text())
    with pytest.raises(ValueError, match="metrics.jsonl is damaged; delete it"):
        run(tmp_path, 20)
    log.unlink()
    assert [line["step"] for line in run(tmp_path, 20)[1]] == [15, 20]


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    schedule = learning_rate_schedule(0.5, total_steps=110, warmup_steps=10, batches_per_step=3)
    rates = [float(schedule(3 * step + 2)) for step in (0, 5, 10, 60, 110, 200)]
    np.testing.assert_allclose(rates, [0.0, 0.25, 0.5, 0.255, 0.01, 0.01], atol=1e-6)
    copy = type(schedule).from_config(schedule.get_config())
    assert float(copy(90)) == pytest.approx(float(schedule(90)))
    plain = learning_rate_schedule(0.5, total_steps=100, final_learning_rate=0.0)
    np.testing.assert_allclose([float(plain(n)) for n in (0, 50, 100)], [0.5, 0.25, 0.0], atol=1e-6)


class Record(keras.callbacks.Callback):
    """Keeps the learning rate and the first weights at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.rates, self.weights = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.rates.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))
        self.weights.append(self.model.get_weights()[0].copy())


def test_the_learning_rate_falls_with_every_step(tmp_path):
    record = Record()
    run(tmp_path, 20, learning_rate=0.1, warmup_steps=5, callbacks=[record])
    schedule = learning_rate_schedule(0.1, 20, 5)
    expected = [float(schedule(step)) for step in (5, 10, 15, 20)]
    np.testing.assert_allclose(record.rates, expected, rtol=1e-5)


def test_the_learning_rate_falls_with_time_when_that_runs_out_first(tmp_path, monkeypatch):
    clock = iter(np.arange(0.0, 1000.0, 10.0))
    fake = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("keras_speechssm.training.callbacks.time", fake)
    record = Record()
    options = {"learning_rate": 0.1, "final_learning_rate": 0.0, "warmup_steps": 0}
    run(tmp_path, 1000, max_seconds=20.001, callbacks=[record], **options)
    schedule = learning_rate_schedule(0.1, 1000, 0, 0.0)
    # After 10 s half of the time is left, after 20 s next to nothing.
    expected = [float(schedule(step)) for step in (5, 505, 1000)]
    np.testing.assert_allclose(record.rates, expected, rtol=1e-3, atol=1e-6)
    moved = [np.abs(b - a).max() for a, b in itertools.pairwise(record.weights)]
    assert moved[0] > 1e-2 and moved[1] < 1e-5  # the compiled step follows


def test_progress_is_shown_in_a_terminal_only(tmp_path, monkeypatch, capsys):
    run(tmp_path, 5)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(ProgressBar, "is_visible", staticmethod(lambda: True))
    run(tmp_path, 10)
    assert "10/10" in capsys.readouterr().err
