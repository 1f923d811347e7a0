"""Training on many devices: `keras.distribution` from the shape of a mesh."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import keras


@contextmanager
def distributed(
    device_mesh: Sequence[int] | None, make_layout_map: Callable, batch_size: int
) -> Iterator[None]:
    """Models that are built and trained in the block lie on a mesh of devices.

    Args:
        device_mesh: devices that share each batch, whole weights on each; with a second
            number weights are split among all, and that many share each layer. `None` for
            one device.
        make_layout_map: function from a `keras.distribution.DeviceMesh` to the layout of the
            weights, for a mesh of two numbers.
        batch_size: rows of a batch, which the first number must divide.

    Raises:
        ValueError: another backend than JAX, a mesh of more devices than there are, or a
            batch that cannot be shared.
    """
    if device_mesh is None:
        yield
        return
    shape = _check_mesh(tuple(device_mesh), batch_size)
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


def _check_mesh(shape: tuple[int, ...], batch_size: int) -> tuple[int, ...]:
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"device_mesh needs the backend jax; it is {keras.backend.backend()} "
            "(set KERAS_BACKEND=jax)."
        )
    if len(shape) not in (1, 2) or min(shape) < 1:
        raise ValueError(f"device_mesh is {list(shape)}; expected one or two numbers from 1 on.")
    found = len(keras.distribution.list_devices())
    if math.prod(shape) > found:
        raise ValueError(
            f"device_mesh {list(shape)} needs {math.prod(shape)} devices; there are {found}."
        )
    if batch_size % shape[0]:
        raise ValueError(
            f"A batch of {batch_size} cannot be shared among {shape[0]} devices: give a multiple."
        )
    return shape
