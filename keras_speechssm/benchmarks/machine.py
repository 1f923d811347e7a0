"""The machine that a benchmark ran on: what it is, and what it can do at most."""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

PACKAGES = ("keras", "keras-hub", "jax", "tensorflow", "torch", "recurrentgemma", "transformers")


def describe_machine() -> dict:
    """Processor, cores that may be used, memory in GiB, versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    # Linux knows which cores this process may use.
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "processor": _processor(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def median_seconds(call: Callable[[], object], repeats: int, warm_up: int = 1) -> float:
    """Median time of `call`, which must return only when its work is done.

    Args:
        call: what is measured.
        repeats: how often.
        warm_up: calls before, which are not counted: they compile.
    """
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_limits(repeats: int = 5) -> dict:
    """What JAX's default device does at most.

    Returns:
        `flops`: floating-point operations a second of a float32 product of 1024 x 2048 x
        1024 on a CPU, eight times as wide on an accelerator; `bytes_per_second`: of reading a
        large array; `device`: its kind.
    """
    import jax
    import jax.numpy as jnp

    scale = 1 if jax.default_backend() == "cpu" else 8
    rng = np.random.default_rng(0)
    left = jnp.asarray(rng.normal(size=(1024 * scale, 2048 * scale)), "float32")
    right = jnp.asarray(rng.normal(size=(2048 * scale, 1024 * scale)), "float32")
    product = jax.jit(jnp.matmul)
    seconds = median_seconds(lambda: product(left, right).block_until_ready(), repeats)
    flops = 2.0 * left.shape[0] * left.shape[1] * right.shape[1] / seconds
    vector = jnp.ones((2**26 * scale,), "float32")
    total = jax.jit(jnp.max)
    seconds = median_seconds(lambda: total(vector).block_until_ready(), repeats)
    return {
        "flops": flops,
        "bytes_per_second": vector.nbytes / seconds,
        "device": jax.devices()[0].device_kind,
    }
