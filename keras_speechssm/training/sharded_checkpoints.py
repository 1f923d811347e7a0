"""Checkpoints of distributed runs, written by Orbax.

    <folder>/epoch_00012/state/    variables of model, optimizer and random generators, in shards
    <folder>/epoch_00012/about/    epoch, backend and shapes, further values

Every process writes its own shards while training continues. A checkpoint gets its name when all
of them are complete, and is read on any number of devices and processes.
"""

import logging
from pathlib import Path

import keras

from keras_speechssm.checks import first_line
from keras_speechssm.files import is_bucket, open_path
from keras_speechssm.training.checkpoints import Checkpoints
from keras_speechssm.training.distribution import on_all_processes

logger = logging.getLogger(__name__)


def open_checkpoints(folder: str | Path, keep: int = 2) -> "Checkpoints | ShardedCheckpoints":
    """Return the checkpoints of a run: sharded on a mesh or in a bucket, else in one file.

    Sharded ones restore from a file as well, and a run that was started with them keeps them.

    Args:
        folder: Folder of the checkpoints.
        keep: How many are kept. Defaults to `2`.
    """
    distributed = keras.distribution.distribution() is not None
    if distributed or is_bucket(folder) or any(Path(folder).glob("epoch_*")):
        return ShardedCheckpoints(folder, keep)
    return Checkpoints(folder, keep)


class ShardedCheckpoints:
    """The newest checkpoints of a distributed run.

    Args:
        folder: Folder of the checkpoints, which all processes share.
        keep: How many are kept. Defaults to `2`.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        if keras.backend.backend() != "jax":
            raise ValueError(
                f"Sharded checkpoints, such as those in {folder}, need the backend jax, but it is "
                f"{keras.backend.backend()}; set KERAS_BACKEND=jax."
            )
        import orbax.checkpoint as ocp

        self.folder = open_path(folder) if is_bucket(folder) else Path(folder).absolute()
        self._ocp = ocp
        # Processes wait for one another by name. Without the folder in it, a process that saves the
        # last checkpoint would answer one that saves the best.
        by_folder = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=self.folder.name)
        self._manager = self._open(by_folder, max_to_keep=keep, cleanup_tmp_directories=True)
        # Orbax would give JAX the number of the epoch, from a thread, where `SaveWhenInterrupted`
        # gives that of the batch, and the processes would not stop after the same one.
        self._manager.reached_preemption = lambda step: False

    def _open(self, processes, **options):
        options = self._ocp.CheckpointManagerOptions(
            step_prefix="epoch",
            step_format_fixed_length=5,
            multiprocessing_options=processes,
            **options,
        )
        items = ("state", "about")
        return self._ocp.CheckpointManager(self.folder, options=options, item_names=items)

    def save(self, model: keras.Model, epoch: int, **about) -> bool:
        """Start to save the state after `epoch` epochs; it is written while training continues.

        Args:
            model: A compiled model.
            epoch: Number of finished epochs.
            **about: Further values.

        Returns:
            Whether the checkpoint is being written.
        """
        variables = _variables(model)
        # Damaged, of a run that was resumed, or at the start of the epoch that is interrupted.
        newer = [other for other in self._manager.all_steps() if other >= epoch]
        if newer:
            self._manager.wait_until_finished()
        for other in newer:
            self._manager.delete(other)
        about = {"epoch": epoch, "shapes": _shapes(variables), **about}
        args = self._ocp.args
        return self._manager.save(
            epoch,
            args=args.Composite(
                state=args.StandardSave(_tree(v.value for v in variables)),
                about=args.JsonSave(about),
            ),
            force=True,
        )

    def restore(self, model: keras.Model) -> dict:
        """Load the newest intact checkpoint, and warn about damaged ones.

        Args:
            model: A built and compiled model, whose state is replaced.

        Returns:
            What was saved about it, or an empty dict if there is no checkpoint.

        Raises:
            ValueError: If an intact checkpoint belongs to another model or optimizer.
        """
        import jax

        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        variables = _variables(model)
        args, process = self._ocp.args, jax.process_index()
        # Read without waiting: a process that cannot read would leave the others behind.
        alone = self._ocp.options.MultiprocessingOptions(
            primary_host=process, active_processes={process}
        )
        self.wait()
        with self._open(alone, create=False) as reader:
            for epoch in sorted(self._manager.all_steps(), reverse=True):
                about = self._read(reader, epoch, about=args.JsonRestore())
                if about is None:
                    continue
                if about["shapes"] != _shapes(variables):
                    raise ValueError(
                        f"Checkpoint {self.folder}/epoch_{epoch:05d} belongs to another model or "
                        "optimizer; use another output_dir."
                    )
                wanted = _tree(
                    jax.ShapeDtypeStruct(v.shape, v.value.dtype, sharding=v.value.sharding)
                    for v in variables
                )
                state = self._read(reader, epoch, state=args.StandardRestore(wanted))
                if state is None:
                    continue
                for variable, name in zip(variables, wanted, strict=True):
                    variable.assign(state[name])
                return about
        if not is_bucket(self.folder) and Checkpoints.is_in(self.folder):
            return Checkpoints(self.folder).restore(model)
        return {}

    def _read(self, reader, epoch: int, **item) -> dict | None:
        """Read a part of a checkpoint, or return `None` if a process finds it damaged."""
        found = None
        try:
            (found,) = reader.restore(epoch, args=self._ocp.args.Composite(**item)).values()
        except Exception as error:  # Orbax and TensorStore have many for damaged files
            name = f"{self.folder}/epoch_{epoch:05d}"
            logger.warning(
                "Checkpoint %s is damaged and was skipped (%s).", name, first_line(error)
            )
        return found if on_all_processes(found is not None) else None

    def wait(self) -> None:
        """Wait until the checkpoints are written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until the checkpoints are written, and end the threads."""
        self._manager.close()


def _variables(model: keras.Model) -> list:
    """Return the variables of the model, its random generators, and its optimizer."""
    found = (*model.variables, *model.optimizer.variables)
    return list({id(variable): variable for variable in found}.values())


def _shapes(variables: list) -> list:
    return [[list(v.shape), keras.backend.standardize_dtype(v.dtype)] for v in variables]


def _tree(values) -> dict:
    """Name values by their place: the names of layers depend on what else a process has built."""
    return {f"{number:05d}": value for number, value in enumerate(values)}
