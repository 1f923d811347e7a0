"""The training loop of all trainers: `model.fit`, made resumable.

It knows nothing about what is trained. It takes a compiled Keras model and a function that
returns the batch of a given number.
"""

import dataclasses
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from multiprocessing import get_context, parent_process
from pathlib import Path

import keras
from keras import ops

from keras_speechssm.checks import check_at_least, check_between
from keras_speechssm.files import atomic_write, is_bucket, open_path, run_lock
from keras_speechssm.training.callbacks import (
    BestCheckpoint,
    CheckpointCallback,
    MetricsLog,
    PresetCheckpoint,
    Progress,
    ProgressBar,
    RestoreMetrics,
    SaveWhenInterrupted,
    StopAtNaN,
    TensorBoardLog,
    TimeLimitedSchedule,
    ValidateAverages,
    WandbLog,
    averages_weights,
    read_metrics,
    truncate_log,
    wandb_run,
)
from keras_speechssm.training.checkpoints import RestoreTorchRandomStates
from keras_speechssm.training.config import TrainingConfig
from keras_speechssm.training.distribution import (
    is_first_process,
    local_rows,
    make_local,
    num_processes,
    on_first_process,
    take_rows,
)
from keras_speechssm.training.sharded_checkpoints import open_checkpoints

_LEAD = "schedule_lead"


@keras.saving.register_keras_serializable(package="keras_speechssm")
class StepSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate schedule that counts optimizer steps instead of batches.

    Keras calls a schedule with the number of the batch, also when the optimizer accumulates the
    gradients of several batches into one step.

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule` of the step.
        batches_per_step: Batches per step. Defaults to `1`.
        lead: Variable whose value is added to the step; see `TimeLimitedSchedule`.
            Defaults to `None`.
    """

    def __init__(self, schedule, batches_per_step: int = 1, lead: keras.Variable | None = None):
        super().__init__()
        self.schedule = schedule
        self.batches_per_step = batches_per_step
        self.lead = lead

    def __call__(self, step):
        step = ops.cast(ops.floor_divide(step, self.batches_per_step), "float32")
        if self.lead is not None:
            step = step + ops.convert_to_tensor(self.lead)
        return self.schedule(step)

    def get_config(self) -> dict:
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "batches_per_step": self.batches_per_step}

    @classmethod
    def from_config(cls, config: dict) -> "StepSchedule":
        schedule = keras.optimizers.schedules.deserialize(config["schedule"])
        return cls(schedule, config["batches_per_step"])


def learning_rate_schedule(
    learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
    final_learning_rate: float = 0.02,
    batches_per_step: int = 1,
) -> StepSchedule:
    """Return the schedule of all trainers: a linear warm-up, then a cosine.

    Args:
        learning_rate: Peak of the learning rate.
        total_steps: Optimizer steps of the whole run.
        warmup_steps: Steps over which the learning rate rises from 0. Defaults to `0`.
        final_learning_rate: Last learning rate, as a fraction of the peak. Defaults to `0.02`.
        batches_per_step: The optimizer's `gradient_accumulation_steps`. Defaults to `1`.

    Example:

    ```python
    import keras
    from keras_speechssm.training import learning_rate_schedule

    optimizer = keras.optimizers.AdamW(learning_rate_schedule(1e-3, total_steps=100))
    ```
    """
    decay_steps = max(1, total_steps - warmup_steps)
    if warmup_steps:
        warmup = {"warmup_target": learning_rate, "warmup_steps": warmup_steps}
        cosine = keras.optimizers.schedules.CosineDecay(
            0.0, decay_steps, final_learning_rate, **warmup
        )
    else:
        cosine = keras.optimizers.schedules.CosineDecay(
            float(learning_rate), decay_steps, final_learning_rate
        )
    return StepSchedule(cosine, batches_per_step)


def make_optimizer(
    config: TrainingConfig, not_decayed: Sequence[str] = ()
) -> keras.optimizers.Adam:
    """Return Adam (AdamW if weights decay) with the options and the schedule of a run.

    Args:
        config: Options of the run.
        not_decayed: Parts of the names of weights that are not decayed.
    """
    accumulation = config.gradient_accumulation_steps
    averages = {}
    if config.ema_momentum is not None:
        # Keras averages after each batch, although weights change once per step.
        averages = {"use_ema": True, "ema_momentum": config.ema_momentum ** (1 / accumulation)}
    optimizer = keras.optimizers.Adam(
        learning_rate_schedule(
            config.learning_rate,
            config.total_epochs * config.steps_per_epoch,
            config.warmup_steps,
            config.final_learning_rate,
            accumulation,
        ),
        beta_1=config.beta_1,
        beta_2=config.beta_2,
        weight_decay=config.weight_decay or None,
        global_clipnorm=config.clip_norm,
        gradient_accumulation_steps=accumulation if accumulation > 1 else None,
        **averages,
    )
    if not_decayed:
        optimizer.exclude_from_weight_decay(var_names=list(not_decayed))
    return optimizer


def prefetch(
    make_batch: Callable[[int], tuple], first: int, threads: int, num_workers: int = 0
) -> Iterator[tuple]:
    """Yield the batches from number `first` on, in order, made ahead by threads or processes.

    An accelerator then need not wait for a batch that one core makes in the time of many steps.
    Unlike `keras.utils.PyDataset`, it fetches ahead across the ends of epochs.

    Args:
        make_batch: Function of a batch's number.
        first: Number of the first batch.
        threads: How many batches are made at a time. Twice as many are kept ready.
        num_workers: Processes that make the batches instead, one at a time each. They need a
            `make_batch` that can be pickled. Defaults to `0`.

    Raises:
        Exception: Whatever `make_batch` raises, when that batch is due.
    """
    if num_workers:
        pool = ProcessPoolExecutor(
            num_workers, get_context("spawn"), _begin_worker, initargs=(make_batch,)
        )
        make_batch = _make_batch_in_worker
    else:
        pool = ThreadPoolExecutor(threads, "batches")
    made, numbers = deque(), itertools.count(first)
    try:
        while True:
            while len(made) < 2 * (num_workers or threads):
                made.append(pool.submit(make_batch, next(numbers)))
            yield made.popleft().result()
    finally:  # when the iterator is dropped
        pool.shutdown(wait=False, cancel_futures=True)


_in_worker: dict[str, Callable] = {}


def _begin_worker(make_batch: Callable[[int], tuple]) -> None:
    _in_worker["make_batch"] = make_batch
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training process.

    def end_with_training() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_training, daemon=True).start()


def _make_batch_in_worker(number: int) -> tuple:
    return _in_worker["make_batch"](number)


class ValidationBatches(keras.utils.PyDataset):
    """The same batches at every validation.

    Given a generator, Keras would repeat only the batches that it used to find their shapes.

    Args:
        batches: The batches.
    """

    def __init__(self, batches: Sequence[tuple]):
        super().__init__()
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple:
        return self.batches[index]


def fit_resumable(
    model: keras.Model,
    make_batch: Callable[[int], tuple],
    config: TrainingConfig,
    *,
    validation_batches: Sequence[tuple] | None = None,
    batch_threads: int = 1,
    monitor: str = "val_loss",
    best_from: float = 0.0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    exported: keras.Model | None = None,
) -> list[dict]:
    """Train a compiled model with `fit`, or resume the run of the same folder.

    Writes into `config.output_dir`: `metrics.jsonl` (one line per epoch), `sessions.jsonl`
    (options, versions and devices of each session), `checkpoints/` (the last two), `best/`, the
    presets of `config.keep_presets_every` and, if the package `tensorboardX` is installed,
    `tensorboard/`. `config.wandb_project` gets the same values. However a session ends, the next
    one resumes from the last intact checkpoint and gives the losses of an uninterrupted run. At
    the end the model holds the best weights, or their moving averages if the optimizer keeps them.

    Args:
        model: A compiled `keras.Model`.
        make_batch: Function of a batch's number that returns `(x, y)` or
            `(x, y, sample_weight)`. If it draws from `numpy.random.default_rng((seed, number))`,
            a resumed run sees the batches of an uninterrupted one.
        config: Options of the run. Its learning rate schedule replaces that of the optimizer,
            and `gradient_accumulation_steps` must be that of the optimizer.
        validation_batches: Batches of a validation. Defaults to `None`: the training loss
            selects the best weights.
        batch_threads: How many threads make batches ahead, unless `config.num_workers` processes
            do. With more than one, `make_batch` runs several times at once. Defaults to `1`.
        monitor: Logged value whose minimum marks the best weights. Defaults to `"val_loss"`.
        best_from: Fraction of the run before which no weights count as the best.
            Defaults to `0.0`.
        callbacks: Further Keras callbacks.
        exported: Model that is saved as presets. Defaults to `None`: `model`.

    Returns:
        The lines of `metrics.jsonl`.

    Raises:
        ValueError: If an option is out of range, the run was started with other options, another
            process trains in the folder, or a loss is NaN or infinite.
        KeyboardInterrupt: After SIGTERM, once the state is saved.
    """
    check_at_least(1, batch_threads=batch_threads)
    check_between(0, 1, best_from=best_from)
    config.check_resumed()
    output_dir = open_path(config.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    with _only_run(output_dir), ExitStack() as stack:
        about, wandb_runs = _describe_session(config), []
        on_first_process(config.save)
        if config.wandb_project is not None:
            wandb = wandb_run(output_dir, config.wandb_project, about)
            on_first_process(lambda: wandb_runs.append(stack.enter_context(wandb)))
        on_first_process(lambda: _log_session(output_dir, about))
        log, steps_per_epoch = output_dir / "metrics.jsonl", config.steps_per_epoch
        batches_per_epoch = steps_per_epoch * config.gradient_accumulation_steps
        checkpoints = open_checkpoints(output_dir / "checkpoints")
        best = open_checkpoints(output_dir / "best", 1)
        progress = Progress(output_dir, config.total_epochs, config.max_seconds)
        lead = _install_schedule(model.optimizer, config)
        restored = checkpoints.restore(model)
        first_epoch = restored.get("epoch", 0)
        on_first_process(lambda: truncate_log(log, first_epoch))
        validation, averages = None, averages_weights(model.optimizer)
        if validation_batches is None:
            monitor = "loss"
        else:
            validation = ValidationBatches(
                [take_rows(batch, local_rows(_size_of(batch))) for batch in validation_batches]
            )
        metrics_log = MetricsLog(
            log, steps_per_epoch, config.max_seconds, restored.get("seconds", 0.0)
        )
        interruption = SaveWhenInterrupted(checkpoints, metrics_log, restored.get("batch", 0))
        restoring = [RestoreTorchRandomStates(restored), RestoreMetrics(restored)]

        def make_callbacks(first_epoch: int) -> list[keras.callbacks.Callback]:
            own = [
                StopAtNaN(output_dir),
                *restoring,
                TimeLimitedSchedule(lead, progress, steps_per_epoch, config.warmup_steps),
                *callbacks,
            ]
            if config.keep_presets_every is not None:
                folder = output_dir / "presets"
                every = config.keep_presets_every
                own.append(PresetCheckpoint(folder, every, steps_per_epoch, exported))
            if averages and validation is not None:
                own.append(ValidateAverages())
            own.append(metrics_log)
            if ProgressBar.is_visible() and is_first_process():
                total_batches = config.total_epochs * batches_per_epoch
                own.append(ProgressBar(total_batches, first_epoch * batches_per_epoch))
            has_tensorboard = importlib.util.find_spec("tensorboardX") is not None
            if has_tensorboard and is_first_process() and not is_bucket(output_dir):
                own.append(TensorBoardLog(output_dir / "tensorboard", steps_per_epoch, first_epoch))
            own += [WandbLog(run, steps_per_epoch) for run in wandb_runs]
            own.append(BestCheckpoint(best, monitor, read_metrics(log), progress, best_from))
            own.append(CheckpointCallback(checkpoints))
            return [*own, interruption]

        if progress.fraction(first_epoch) < 1.0:
            done = restored.get("batch", 0)

            def fit(first_epoch: int, epochs: int, done: int = 0) -> None:
                model.fit(
                    prefetch(
                        make_local(make_batch, config.batch_size),
                        first_epoch * batches_per_epoch + done,
                        batch_threads,
                        config.num_workers,
                    ),
                    initial_epoch=first_epoch,
                    steps_per_epoch=batches_per_epoch - done,
                    epochs=epochs,
                    shuffle=False,
                    verbose=0,
                    callbacks=make_callbacks(first_epoch),
                    validation_data=validation,
                )

            with interruption.watching():
                stopped = False
                if done:  # the rest of an interrupted epoch
                    fit(first_epoch, first_epoch + 1, done)
                    first_epoch, stopped = first_epoch + 1, model.stop_training
                    # `fit` has replaced averaged weights, and draws from PyTorch's generators as it
                    # begins again.
                    checkpoints.wait()
                    restoring[0] = RestoreTorchRandomStates(checkpoints.restore(model))
                if not stopped and progress.fraction(first_epoch) < 1.0:
                    fit(first_epoch, config.total_epochs)
        checkpoints.close()
        best.wait()
        if best.restore(model) and averages:
            model.optimizer.finalize_variable_values(model.trainable_variables)
        best.close()
        return read_metrics(log)


@contextmanager
def _only_run(output_dir: Path) -> Iterator[None]:
    """Lock the folder of a run, by the first process."""
    with ExitStack() as stack:
        on_first_process(lambda: stack.enter_context(run_lock(output_dir)))
        yield


def _describe_session(config: TrainingConfig) -> dict:
    """Return what a session is run with, as JSON values."""
    packages = ("keras-speechssm", "keras", "keras-hub", "numpy", keras.backend.backend())
    versions = {}
    for name in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    distribution = keras.distribution.distribution()
    mesh = None
    if distribution is not None:
        axes = distribution.device_mesh.axis_names
        mesh = dict(zip(axes, distribution.device_mesh.shape, strict=True))
    about = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": _git_commit(),
        "versions": versions,
        "python": platform.python_version(),
        "backend": keras.backend.backend(),
        "processes": num_processes(),
        "device_mesh": mesh,
        "options": dataclasses.asdict(config),
    }
    return json.loads(json.dumps(about, default=str))


def _log_session(output_dir: Path, about: dict) -> None:
    """Append to `sessions.jsonl`, so that the folder explains itself."""
    path = output_dir / "sessions.jsonl"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    with atomic_write(path) as temporary:
        temporary.write_text(before + json.dumps(about) + "\n", encoding="utf-8")


def _git_commit() -> str | None:
    """Return the commit of the package's checkout; `None` if it is installed without one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    return None


def _size_of(batch: tuple) -> int:
    return len(keras.tree.flatten(batch)[0])


def _install_schedule(
    optimizer: keras.optimizers.Optimizer, config: TrainingConfig
) -> keras.Variable:
    """Give an optimizer the schedule of a run, and return the variable that moves it."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    lead = next((v for v in inner.variables if v.name == _LEAD), None)
    if lead is None:
        # A variable of the optimizer: JAX would compile the value of any other as a constant.
        lead = inner.add_variable((), "zeros", "float32", name=_LEAD)
    schedule = learning_rate_schedule(
        config.learning_rate,
        config.total_epochs * config.steps_per_epoch,
        config.warmup_steps,
        config.final_learning_rate,
        config.gradient_accumulation_steps,
    )
    schedule.lead = lead
    inner.learning_rate = schedule
    return lead
