"""Measure times and memory, and write tables and plots of the results."""

import importlib.metadata
import json
import os
import platform
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.files import atomic_write, write_json

_PACKAGES = (
    "keras",
    "keras-hub",
    "jax",
    "tensorflow",
    "torch",
    "recurrentgemma",
    "transformers",
)

_OUT_OF_MEMORY_MESSAGES = (
    "RESOURCE_EXHAUSTED",
    "Out of memory",
    "MemoryError",
    "bad_alloc",
    "not enough memory",
)


def peak_memory_mib() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    # Linux reports KiB, macOS bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def resident_memory_mib() -> float | None:
    """Return the resident memory of this process in MiB, or `None` without /proc."""
    statistics_file = Path("/proc/self/statm")
    if not statistics_file.is_file():
        return None
    pages = int(statistics_file.read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def describe_machine() -> dict:
    """Return the processor, the number of usable cores, the memory in GiB, and versions."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    # On Linux, the cores that this process may use.
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
    """Return the median time of a call in seconds.

    Args:
        call: The function to measure. It must return only when its work is done.
        repeats: Number of timed calls.
        warm_up: Number of calls before that are not timed, because they compile.
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
    """Measure the limits of JAX's default device.

    Args:
        repeats: Number of timed calls of each measurement.

    Returns:
        `flops`, the floating-point operations per second of a float32 matrix product (1024 x
        2048 x 1024 on a CPU, eight times as wide on an accelerator); `bytes_per_second` of
        reading a large array; and `device`, its kind.
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


def run_in_subprocess(
    command: Sequence[str], timeout: float, environment: Mapping[str, str] | None = None
) -> dict:
    """Run a command that prints a JSON object as its last line.

    Args:
        command: The program and its arguments.
        timeout: Seconds after which it is stopped.
        environment: Environment variables. Defaults to `None` (those of this process).

    Returns:
        The object, or `{"failed": reason}`.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {timeout:.0f} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    exhausted = any(message in done.stderr for message in _OUT_OF_MEMORY_MESSAGES)
    if done.returncode == -signal.SIGKILL or exhausted:
        return {"failed": "out of memory"}
    # Only the error message: libraries print advice after it.
    errors = re.findall(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*", done.stderr, re.MULTILINE)
    return {"failed": errors[-1] if errors else f"exit status {done.returncode}"}


def check_output(output: str | os.PathLike | None, plotted: bool = True) -> None:
    """Raise `ValueError` if a result file cannot be written, before anything is measured.

    Args:
        output: `.json` file, or `None`.
        plotted: Whether a plot is written next to it, which needs matplotlib.
    """
    if output is None:
        return
    output = Path(output)
    if output.suffix != ".json":
        raise ValueError(f"output must be a .json file, got {str(output)!r}.")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise ValueError(f"Cannot write {output}: {output.parent} is not a writable folder.")
    if plotted:
        import matplotlib  # noqa: F401


def write_report(title: str, rows: list[dict], limits: dict, output, x: str, **details) -> None:
    """Print a benchmark's table and machine, and write them to a JSON file with a plot.

    Args:
        title: What was measured.
        rows: Rows of the table, with `model` and `tokens_per_second`.
        limits: Result of `measure_limits` in the same run.
        output: `.json` file, next to which the plot is written; or `None`.
        x: Key of the rows on the horizontal axis of the plot.
        **details: More entries of the JSON file.

    Raises:
        ValueError: Every measurement failed. The report is written nevertheless.
    """
    machine = describe_machine()
    print(format_table(rows))
    print(f"machine: {machine}; limits: {limits}")
    if output is not None:
        content = {"machine": machine, "limits": limits, "work": title, **details, "rows": rows}
        write_json(Path(output), content)
        plot_rates(Path(output).with_suffix(".png"), rows, x)
    if all(row.get("failed") for row in rows):
        raise ValueError(f"Nothing could be measured: {rows[0]['failed']}")


def format_table(rows: Sequence[dict]) -> str:
    """Format rows with the same keys as a Markdown table, numbers with 3 significant digits."""
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
    """Plot the tokens per second of each model over `x`, as in the paper's figures 6 to 8.

    Requires matplotlib (extra `eval`).

    Args:
        path: PNG file.
        rows: Rows of the table, with `model` and `tokens_per_second`.
        x: Key of the rows on the horizontal axis.
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
