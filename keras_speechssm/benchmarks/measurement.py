"""Tables and plots of measurements."""

import importlib.metadata
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.files import atomic_write, write_json


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far."""
    # Linux counts KiB, macOS bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def resident_memory_mib() -> float | None:
    """Memory that is resident now; `None` where the system does not tell."""
    pages = Path("/proc/self/statm")
    if not pages.is_file():
        return None
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


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


def check_output(output: str | os.PathLike | None, plotted: bool = True) -> None:
    """Refuses before anything is measured what could not be written: `ValueError`.

    Args:
        output: `.json` file, or `None`.
        plotted: whether a plot goes beside it, as `publish` draws it.
    """
    if output is None:
        return
    output = Path(output)
    if output.suffix != ".json":
        raise ValueError(f"output takes a .json file, got {str(output)!r}.")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise ValueError(f"Cannot write {output}: {output.parent} is no folder to write to.")
    if plotted:
        import matplotlib  # noqa: F401


def publish(work: str, rows: list[dict], limits: dict, output, x: str, **more) -> None:
    """Prints a benchmark's table and machine; writes both as JSON, and a plot, to `output`.

    Raises `ValueError`, having done so, where every measurement failed.

    Args:
        work: what was measured.
        rows: lines of the table, with `model` and `tokens_per_second`.
        limits: of the machine, from `measure_limits` in the same run.
        output: `.json` file, beside which the plot goes; or `None`.
        x: key of the rows, the plot's horizontal axis.
        **more: what else the JSON says.
    """
    machine = describe_machine()
    print(format_table(rows))
    print(f"machine: {machine}; limits: {limits}")
    if output is not None:
        content = {"machine": machine, "limits": limits, "work": work, **more, "rows": rows}
        write_json(Path(output), content)
        plot_rates(Path(output).with_suffix(".png"), rows, x)
    if all(row.get("failed") for row in rows):
        raise ValueError(f"Nothing could be measured: {rows[0]['failed']}")


def format_table(rows: Sequence[dict]) -> str:
    """Rows with the same keys as a Markdown table; numbers with three digits that count."""
    names = list(rows[0])
    cells = [names] + [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    padded = [[cell.ljust(widths[i]) for i, cell in enumerate(line)] for line in cells]
    lines = [" | ".join(line) for line in padded]
    rule = " | ".join("-" * width for width in widths)
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])


def _cell(value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def plot_rates(path: str | os.PathLike, rows: Sequence[dict], x: str) -> None:
    """Tokens a second of each model against `x`, both logarithmic, as the paper's figures 6 to 8.

    Needs matplotlib (extra `eval`).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    y = "tokens_per_second"
    for name in dict.fromkeys(row["model"] for row in rows):
        points = [(row[x], row[y]) for row in rows if row["model"] == name and row[y]]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set(xlabel=x, ylabel=y, xscale="log", yscale="log")
    axes.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
