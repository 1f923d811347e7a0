"""Settings of the package for the running process, in the style of `keras.config`."""

import random
from typing import Literal

import keras

from keras_speechssm.files import compilation_cache_settings

RecurrenceImplementation = Literal["auto", "scan", "associative", "pallas"]

_IMPLEMENTATIONS = ("auto", "scan", "associative", "pallas")
_PORTABLE_IMPLEMENTATIONS = ("auto", "scan")
_settings: dict = {"recurrence_implementation": "auto"}


def recurrence_implementation() -> RecurrenceImplementation:
    """Returns the name of the algorithm that `layers.linear_recurrence` uses on JAX."""
    return _settings["recurrence_implementation"]


def set_recurrence_implementation(name: RecurrenceImplementation) -> None:
    """Sets how `layers.linear_recurrence` runs on JAX.

    The setting applies to functions that are compiled after the call.

    Args:
        name: `"scan"` computes one step after the other. `"associative"` uses
            `jax.lax.associative_scan`, whose depth is logarithmic in time. `"pallas"` is a
            kernel for TPU and GPU. `"auto"` (the default) chooses by the platform that a function
            is compiled for: the kernel on a TPU (the associative form if `keras.distribution` is
            set), the associative form on a GPU, and the scan on a CPU. TensorFlow and PyTorch
            support `"auto"` and `"scan"`, which are the same there.

    Raises:
        ValueError: If the backend does not have an implementation of that name.

    Example:

    ```python
    import keras_speechssm

    keras_speechssm.config.set_recurrence_implementation("scan")
    keras_speechssm.config.set_recurrence_implementation("auto")
    ```
    """
    backend = keras.config.backend()
    names = _IMPLEMENTATIONS if backend == "jax" else _PORTABLE_IMPLEMENTATIONS
    if name not in names:
        raise ValueError(
            f"set_recurrence_implementation got {name!r}; on {backend} choose one of {names}."
        )
    _settings["recurrence_implementation"] = name


def enable_compilation_cache() -> str | None:
    """Keeps compiled programs in the user's cache folder, so that later processes start faster.

    The command line does this for every command (`--no-compilation-cache` switches it off). In a
    program of yours, call it before the first model is loaded. It changes settings of JAX for
    the whole process. Nothing happens on other backends, if the program or the user has chosen a
    folder (`JAX_COMPILATION_CACHE_DIR`), or if the environment variable
    `KERAS_SPEECHSSM_COMPILATION_CACHE` is `off`; it may name another folder as well.

    Returns:
        The folder, or `None` if there is no cache.

    Example:

    ```python
    import keras_speechssm

    folder = keras_speechssm.config.enable_compilation_cache()
    ```
    """
    if keras.config.backend() != "jax":
        return None
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        for name, value in compilation_cache_settings().items():
            jax.config.update(name, value)
    return jax.config.jax_compilation_cache_dir


def draw_seed() -> int:
    """Draws the seed of a call that got `seed=None`, an integer from 0 to 2^63 - 1.

    It comes from Python's random number generator, as the default seeds of Keras do, so
    `keras.utils.set_random_seed` makes such calls reproducible.
    """
    return random.getrandbits(63)
