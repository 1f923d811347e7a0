"""Training on many devices and hosts: processes, the mesh of devices, and the layouts on it."""

import functools
import inspect
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np

from keras_speechssm.files import open_path

AXES = ("data", "fsdp", "model")
"""Axes of the mesh. The first two share each batch; the last two split the weights."""

_HEARTBEAT_SECONDS = 45
"""After this time without a sign of life of a process, or after its end, JAX ends the others."""

# Outputs that are split by examples and nothing else. Without this XLA may gather the
# activations of the whole batch instead of the weights, which takes 14 times as much traffic.
_RESIDUAL_STREAM = re.compile(
    r"(^|/)(token_embedding|frame_embedding|\w*(block|encoder|decoder|unit)_\d+)/output$"
)
# Logits of some ids, see `score_targets`; the axis `model` may split the ids.
_LOGITS = re.compile(r"(^|/)token_embedding/logits$")

CONFORMER_LAYOUT = {
    r"(first|second)_intermediate/kernel": ("fsdp", "model"),
    r"(first|second)_intermediate/bias": ("model",),
    r"(first|second)_output/kernel": ("model", "fsdp"),
    r"attention/(query|key|value)_dense/kernel": ("fsdp", "model", None),
    r"attention/(query|key|value)_dense/bias": ("model", None),
    r"attention/output_dense/kernel": ("model", None, "fsdp"),
}
"""Patterns of the variables of a `ConformerBlock` -> the mesh axis of each of their dimensions."""


def parse_device_mesh(device_mesh: str | Sequence[int | str] | None) -> dict[str, int] | None:
    """Return the size of each axis of a mesh.

    Args:
        device_mesh: Sizes by name, such as `data=8,fsdp=2,model=1`, in one word or several; or
            one number (`data`); or two numbers (`fsdp` and `model`).

    Raises:
        ValueError: If an axis is unknown or given twice, or a size is not above 0.

    Example:

    ```python
    from keras_speechssm.training.distribution import parse_device_mesh

    parse_device_mesh("data=8,fsdp=2")  # {"data": 8, "fsdp": 2, "model": 1}
    ```
    """
    if device_mesh is None:
        return None
    given = [device_mesh] if isinstance(device_mesh, str) else list(device_mesh)
    words = [word for part in given for word in str(part).split(",")]
    if all(re.fullmatch(r"-?\d+", word) for word in words) and len(words) in (1, 2):
        pairs = list(zip(("data",) if len(words) == 1 else ("fsdp", "model"), words, strict=True))
    else:
        pairs = [tuple(word.partition("=")[::2]) for word in words]
    sizes = dict.fromkeys(AXES, 1) | {name: _size(size) for name, size in pairs}
    known = set(sizes) == set(AXES) and 0 < len(pairs) == len(dict(pairs))
    if not known or min(sizes.values()) < 1:
        raise ValueError(
            f"device_mesh is {' '.join(map(str, given))!r}; expected sizes above 0, such as "
            "'data=8,fsdp=2,model=1', or one or two numbers."
        )
    return sizes


def _size(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _choose_mesh(device_mesh: str | Sequence[int | str] | None) -> dict[str, int] | None:
    """Return the size of each axis; by default several processes share all devices."""
    if device_mesh is None and num_processes() > 1:
        device_mesh = f"data={len(keras.distribution.list_devices())}"
    return parse_device_mesh(device_mesh)


def batch_shards(device_mesh: str | Sequence[int | str] | None) -> int:
    """Return how many parts each batch is split into.

    Args:
        device_mesh: See `distributed`.
    """
    sizes = _choose_mesh(device_mesh)
    return 1 if sizes is None else sizes["data"] * sizes["fsdp"]


def join_processes(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Connect this process with the others of a training run, if there are any.

    Must be called before anything is computed. If a process ends or is killed, the others end
    within a minute. Without arguments it looks for the environment of
    torchrun (`MASTER_ADDR`, `MASTER_PORT`, `WORLD_SIZE`, `RANK`), of JAX
    (`JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID`), and of what JAX detects
    (SLURM, Open MPI, Cloud TPU, GKE). Does nothing if there is no such environment, or the
    process is connected.

    Args:
        coordinator: Address `host:port` of process 0, or `auto`: what JAX detects.
            Defaults to `None`.
        num_processes: Number of processes. Defaults to `None`.
        process_id: Number of this process, from 0. Defaults to `None`.

    Raises:
        ValueError: If the arguments do not fit each other, or the backend is not JAX.
    """
    given = (coordinator, num_processes, process_id)
    settings = {}
    if coordinator == "auto":
        given = (None, None, None)
    elif any(value is not None for value in given):
        if None in given or not 0 <= process_id < num_processes or ":" not in coordinator:
            raise ValueError(
                f"coordinator is {coordinator}, num_processes {num_processes}, and process_id "
                f"{process_id}; expected the host:port of process 0, and a number below "
                "num_processes."
            )
    else:
        found = _read_environment(os.environ)
        if found is None:
            return
        given, settings = found
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Several processes need the backend jax, but it is {keras.backend.backend()}; "
            "set KERAS_BACKEND=jax."
        )
    import jax

    if jax.distributed.is_initialized() or given[1] == 1:
        return
    timeouts = ("heartbeat_timeout_seconds", "shutdown_timeout_seconds")
    settings.update(dict.fromkeys(timeouts, _HEARTBEAT_SECONDS))
    try:
        jax.distributed.initialize(*given, **settings)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"The processes could not be connected: {error}") from error
    if jax.default_backend() == "cpu":
        # On CPUs only the first process finds programs in the cache, and these do not wait for the
        # processes that compile theirs: the second start of a run would hang.
        jax.config.update("jax_enable_compilation_cache", False)


def _read_environment(environment) -> tuple[tuple, dict] | None:
    """Return the arguments of `jax.distributed.initialize`, or `None` if there is one process."""
    if int(environment.get("WORLD_SIZE", 1)) > 1 and "MASTER_ADDR" in environment:
        settings = {}
        if int(environment.get("LOCAL_WORLD_SIZE", 1)) > 1:  # one GPU per process
            settings["local_device_ids"] = [int(environment["LOCAL_RANK"])]
        address = f"{environment['MASTER_ADDR']}:{environment.get('MASTER_PORT', 29500)}"
        return (address, int(environment["WORLD_SIZE"]), int(environment["RANK"])), settings
    if "JAX_COORDINATOR_ADDRESS" in environment and "JAX_NUM_PROCESSES" in environment:
        numbers = (int(environment[f"JAX_{name}"]) for name in ("NUM_PROCESSES", "PROCESS_ID"))
        return (environment["JAX_COORDINATOR_ADDRESS"], *numbers), {}
    steps = (
        environment.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    )
    tpus = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
    hosts = any("," in environment.get(name, "") for name in tpus)
    if hosts or "MEGASCALE_COORDINATOR_ADDRESS" in environment or any(int(n) > 1 for n in steps):
        return (None, None, None), {}  # JAX knows them
    return None


def num_processes() -> int:
    """Return how many processes train together."""
    if keras.backend.backend() != "jax":
        return 1
    import jax

    return jax.process_count()


def is_first_process() -> bool:
    """Return whether this process is the one that writes logs and presets."""
    if keras.backend.backend() != "jax":
        return True
    import jax

    return jax.process_index() == 0


def on_first_process(function: Callable[[], object]) -> None:
    """Run a function on the first process, while the others wait.

    What it builds and computes is not distributed: the devices of the others take no part.

    Args:
        function: What to run.

    Raises:
        ValueError: On all processes if the function raises one.
    """
    error, distribution = None, keras.distribution.distribution()
    if is_first_process():
        keras.distribution.set_distribution(None)
        try:
            function()
        except (ValueError, OSError) as caught:
            error = caught
        finally:
            keras.distribution.set_distribution(distribution)
    failed = broadcast(error is not None)
    if error is not None:
        raise error
    if failed:
        raise ValueError("The first process failed; its message says why.")


def broadcast(value: float) -> float:
    """Return the value of the first process on all of them.

    Args:
        value: A number. That of the other processes does not matter.
    """
    if num_processes() == 1:
        return value
    from jax.experimental import multihost_utils

    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))


def on_all_processes(value: bool) -> bool:
    """Return whether a value is true on all processes.

    Args:
        value: That of this process.
    """
    if num_processes() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.float32(value)).all())


class _BatchLayout(keras.distribution.TensorLayout):
    """Splits the first dimension over the axes `data` and `fsdp`, which Keras cannot express.

    Args:
        rank: Number of dimensions.
        device_mesh: The mesh.
        free_last: Whether XLA may split the last dimension. Defaults to `False`.
    """

    def __init__(
        self, rank: int, device_mesh: keras.distribution.DeviceMesh, free_last: bool = False
    ):
        super().__init__((None,) * rank, device_mesh)
        self._free_last = free_last

    @property
    def backend_layout(self):
        from jax.sharding import NamedSharding, PartitionSpec

        spec = [AXES[:2]] if self.axes else []
        if self._free_last:
            spec += [None] * (len(self.axes) - 2) + [PartitionSpec.UNCONSTRAINED]
        return NamedSharding(self.device_mesh.backend_mesh, PartitionSpec(*spec))


class MeshDistribution(keras.distribution.ModelParallel):
    """Batches split over `data` and `fsdp`, weights over `fsdp` and `model`.

    Weights that the layout map does not name are split over `fsdp` in their largest dimension.
    A dimension that an axis does not divide is not split. The residual streams are kept split by
    examples, so that XLA gathers weights and not activations.

    Args:
        layout_map: A `keras.distribution.LayoutMap` on a mesh with the axes of `AXES`.
    """

    def __init__(self, layout_map: keras.distribution.LayoutMap):
        self._layouts = layout_map
        super().__init__(layout_map=layout_map, batch_dim_name="data", auto_shard_dataset=False)

    @property
    def num_model_replicas(self) -> int:
        return math.prod(self.device_mesh.shape[:2])

    def get_data_layout(self, data_shape):
        return _BatchLayout(len(data_shape), self.device_mesh)

    def get_variable_layout(self, variable):
        known = getattr(variable, "_layout", None)
        if known is not None:
            return known
        sizes = dict(zip(self.device_mesh.axis_names, self.device_mesh.shape, strict=True))
        shape = tuple(variable.shape)
        layout = self._layouts[variable.path]
        if layout is not None:
            axes = layout.axes
        else:
            axes = [None] * len(shape)
            split = [n for n in range(len(shape)) if shape[n] % sizes["fsdp"] == 0]
            if len(shape) > 1 and split:
                axes[max(split, key=lambda n: shape[n])] = "fsdp"
        axes = [
            axis if axis is not None and shape[n] % sizes[axis] == 0 else None
            for n, axis in enumerate(axes)
        ]
        return keras.distribution.TensorLayout(axes, self.device_mesh)

    def get_tensor_layout(self, path: str):
        if _RESIDUAL_STREAM.search(path):
            return _BatchLayout(1, self.device_mesh)
        if _LOGITS.search(path):
            return _BatchLayout(3, self.device_mesh, free_last=True)
        return None


@contextmanager
def distributed(
    device_mesh: str | Sequence[int | str] | None,
    make_layout_map: Callable | None,
    batch_size: int,
) -> Iterator[None]:
    """Distribute the models that are built and trained in the block over a mesh of devices.

    Args:
        device_mesh: See `parse_device_mesh`. `None` for one device, or for all of them (`data`)
            if several processes train together.
        make_layout_map: Function from a `keras.distribution.DeviceMesh` to the layout of the
            weights. `None` for a model whose layers cannot be shared (`model`).
        batch_size: Examples per batch. `data` times `fsdp` must divide it.

    Raises:
        ValueError: If the backend is not JAX, the mesh has more devices than there are, or the
            batch cannot be shared.
    """
    sizes = _choose_mesh(device_mesh)
    if sizes is None:
        yield
        return
    _check_mesh(sizes, batch_size, splits=make_layout_map is not None)
    import jax
    from jax.experimental import mesh_utils

    shape = tuple(sizes.values())
    devices = jax.devices()
    if math.prod(shape) == len(devices):
        devices = mesh_utils.create_device_mesh(shape, devices)
    mesh = keras.distribution.DeviceMesh(shape, AXES, np.ravel(devices)[: math.prod(shape)])
    if make_layout_map is None:
        layout_map = keras.distribution.LayoutMap(mesh)
    else:
        layout_map = make_layout_map(mesh)
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(MeshDistribution(layout_map))
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def conformer_layout_map(
    device_mesh: keras.distribution.DeviceMesh,
) -> keras.distribution.LayoutMap:
    """Return the layout of the conformer blocks of a SoundStorm or a semantic tokenizer.

    Args:
        device_mesh: A mesh with the axes of `AXES`.
    """
    layout_map = keras.distribution.LayoutMap(device_mesh)
    for pattern, axes in CONFORMER_LAYOUT.items():
        layout_map[rf"(.*/)?(conformer_block|encoder|decoder)_\d+/{pattern}"] = axes
    return layout_map


def _check_mesh(sizes: dict[str, int], batch_size: int, splits: bool) -> None:
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"device_mesh needs the backend jax, but it is {keras.backend.backend()}; "
            "set KERAS_BACKEND=jax."
        )
    words = ",".join(f"{name}={size}" for name, size in sizes.items())
    if sizes["model"] > 1 and not splits:
        raise ValueError(
            f"device_mesh is {words}; expected model=1: the layers of this model cannot be "
            "shared. Use fsdp instead."
        )
    needed, found = math.prod(sizes.values()), len(keras.distribution.list_devices())
    if needed > found or (num_processes() > 1 and needed < found):
        raise ValueError(f"device_mesh {words} needs {needed} devices, but there are {found}.")
    shards = sizes["data"] * sizes["fsdp"]
    if batch_size % shards:
        raise ValueError(
            f"batch_size is {batch_size}; expected a multiple of {shards}, the devices that "
            "share a batch."
        )


def local_rows(batch_size: int) -> np.ndarray | None:
    """Return which examples of a batch the devices of this process need.

    Args:
        batch_size: Examples per batch.

    Returns:
        Their numbers, or `None` for all of them.
    """
    if num_processes() == 1:
        return None
    layout = keras.distribution.distribution().get_data_layout((batch_size,)).backend_layout
    parts = layout.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[part] for part in parts]))


def make_local(make_batch: Callable[..., tuple], batch_size: int) -> Callable[[int], tuple]:
    """Return a function from a batch's number to the examples that this process needs.

    Args:
        make_batch: Function of a batch's number. If it has a second argument `rows`, it is asked
            for these examples only.
        batch_size: Examples per batch.
    """
    rows = local_rows(batch_size)
    if rows is None:
        return make_batch
    # Workers pickle it, so it is not a lambda.
    if "rows" in inspect.signature(make_batch).parameters:
        return functools.partial(make_batch, rows=rows)
    return functools.partial(_make_rows, make_batch, rows)


def _make_rows(make_batch: Callable[[int], tuple], rows: np.ndarray, number: int) -> tuple:
    return take_rows(make_batch(number), rows)


def take_rows(batch: tuple, rows: np.ndarray | None) -> tuple:
    """Return some examples of a batch.

    Args:
        batch: Nested arrays, or `None`, with the examples in the first dimension.
        rows: From `local_rows`.
    """
    if rows is None:
        return batch
    return keras.tree.map_structure(lambda x: None if x is None else x[rows], batch)


@contextmanager
def whole_weights(model: keras.Model) -> Iterator[None]:
    """Hold a model's weights as NumPy arrays during the block, so that one process can save them.

    The weights that several processes share are gathered one by one. All processes must enter
    the block; in the others than the first the weights must not be used.

    Args:
        model: The model.
    """
    if num_processes() == 1:
        yield
        return
    import jax

    mesh = keras.distribution.distribution().device_mesh.backend_mesh
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    gather = jax.jit(lambda x: x, out_shardings=replicated)
    kept = [(variable, variable.value) for variable in model.variables]
    try:
        for variable, value in kept:
            whole = gather(value)
            if is_first_process():
                # `assign` would split it again.
                variable._value = np.asarray(whole.addressable_data(0))
        yield
    finally:
        for variable, value in kept:
            variable._value = value


def save_preset(model: keras.Model, folder: str | os.PathLike, name: str) -> None:
    """Save a model as a preset, by the first process.

    Args:
        model: The model.
        folder: Folder of the preset's folder, local or in a bucket.
        name: Name of the preset's folder.
    """
    with whole_weights(model):
        on_first_process(lambda: model.save_to_preset(os.fspath(open_path(folder) / name)))
