"""Training on many devices: `keras.distribution` from the shape of a mesh."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import keras


@contextmanager
def distributed(
    device_mesh: Sequence[int] | None, make_layout_map: Callable | None, batch_size: int
) -> Iterator[None]:
    """Distribute the models that are built and trained in the block over a mesh of devices.

    Args:
        device_mesh: Number of devices that share each batch, each with a copy of the weights. A
            second number splits the weights; that many devices share each layer. `None` for one
            device.
        make_layout_map: Function from a `keras.distribution.DeviceMesh` to the layout of the
            weights, for a mesh of two numbers. `None` if the model cannot be split.
        batch_size: Examples per batch. The first number of the mesh must divide it.

    Raises:
        ValueError: If the backend is not JAX, the mesh has more devices than there are, or the
            batch cannot be shared.
    """
    if device_mesh is None:
        yield
        return
    shape = tuple(device_mesh)
    _check_mesh(shape, batch_size, splits=make_layout_map is not None)
    devices = keras.distribution.list_devices()[: math.prod(shape)]
    if len(shape) == 1:
        distribution = keras.distribution.DataParallel(devices=devices)
    else:
        mesh = keras.distribution.DeviceMesh(shape, ("data", "model"), devices)
        layout_map = make_layout_map(mesh)
        distribution = keras.distribution.ModelParallel(
            layout_map=layout_map, batch_dim_name="data"
        )
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(distribution)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def _check_mesh(shape: tuple[int, ...], batch_size: int, splits: bool) -> None:
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"device_mesh needs the backend jax, but it is {keras.backend.backend()}; "
            "set KERAS_BACKEND=jax."
        )
    if len(shape) not in (1, 2) or min(shape) < 1:
        raise ValueError(f"device_mesh is {list(shape)}; expected one or two numbers above 0.")
    if len(shape) == 2 and not splits:
        raise ValueError(
            f"device_mesh is {list(shape)}; expected one number: this model cannot be split."
        )
    found = len(keras.distribution.list_devices())
    if math.prod(shape) > found:
        raise ValueError(
            f"device_mesh {list(shape)} needs {math.prod(shape)} devices, but there are {found}."
        )
    if batch_size % shape[0]:
        raise ValueError(
            f"batch_size is {batch_size}; expected a multiple of {shape[0]}, the devices that "
            "share a batch."
        )
