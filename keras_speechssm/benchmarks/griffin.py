"""Griffin against its peers: `speechssm bench {forward,train,decode}`."""

import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_speechssm.benchmarks.measurement import (
    check_output,
    measure_limits,
    median_seconds,
    peak_memory_mib,
    publish,
)
from keras_speechssm.benchmarks.peers import IMPLEMENTATIONS, GriffinSize

PACKAGES = {
    "keras_speechssm": ["keras"],
    "keras_speechssm_int8": ["keras"],
    "speech_transformer": ["keras_hub"],
    "flax": ["recurrentgemma"],
    "hugging_face": ["transformers", "torch"],
}

MEMORY_SIGNS = (
    "RESOURCE_EXHAUSTED",
    "Out of memory",
    "MemoryError",
    "bad_alloc",
    "not enough memory",
)
"""How the libraries say that memory ran out."""


def installed(implementation: str) -> bool:
    """Whether the libraries of a key of `IMPLEMENTATIONS` are there."""
    return all(importlib.util.find_spec(package) for package in PACKAGES[implementation])


def measure_in_subprocess(task: dict, memory_gib: float | None, timeout: float) -> dict:
    """Runs a task in a new process.

    Args:
        task: `{"work": "limits"}`, or `work` of `forward`, `train`, `decode` with the arguments
            of `measure`.
        memory_gib: memory that the process may have at most; `None`: all there is.
        timeout: seconds after which it is stopped.

    Returns:
        What the task gave, or `{"failed": why}`.
    """
    command = [sys.executable, "-m", __spec__.name, json.dumps({**task, "memory_gib": memory_gib})]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {timeout:.0f} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    exhausted = any(sign in done.stderr for sign in MEMORY_SIGNS)
    if exhausted or done.returncode == -signal.SIGKILL:
        return {"failed": "out of memory"}
    # The message itself: libraries write advice after it.
    errors = re.findall(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*", done.stderr, re.MULTILINE)
    return {"failed": errors[-1] if errors else f"exit status {done.returncode}"}


def measure(
    implementation: str,
    work: str,
    batch: int,
    amount: int,
    size: dict,
    repeats: int,
    context: int | None = None,
) -> dict:
    """Times one implementation in this process.

    Args:
        implementation: a key of `IMPLEMENTATIONS`.
        work: `forward`, `train` or `decode`.
        batch: sequences at once.
        amount: tokens of each: their length, or the steps that are decoded.
        size: arguments of `GriffinSize`.
        repeats: timed calls, of which the median counts.
        context: tokens before those that are decoded.

    Returns:
        `seconds` of a call, `parameters`, `peak_gib`, the process's largest resident memory up
        to the end of the first call, and `limit_gflops`, the machine's rate of products between
        before and after: machines that are shared change their speed.
    """
    model = IMPLEMENTATIONS[implementation](GriffinSize.from_config(size))
    call = getattr(model, work)(batch, amount, *([] if context is None else [context]))
    call()
    peak_gib = peak_memory_mib() / 1024  # before the limit's matrices are there
    before = measure_limits()["flops"]
    seconds = median_seconds(call, repeats, warm_up=0)
    after = measure_limits()["flops"]
    return {
        "seconds": seconds,
        "parameters": int(model.num_parameters()),
        "peak_gib": peak_gib,
        "limit_gflops": (before + after) / 2e9,
    }


def _main(task: dict) -> None:
    memory_gib = task.pop("memory_gib")
    if memory_gib is not None:
        limit = int(memory_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    os.environ.setdefault("KERAS_BACKEND", "jax")
    work = task["work"]
    result = measure_limits() if work == "limits" else measure(**task)
    print(json.dumps(result))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))

OURS = "keras_speechssm"
PEERS = ("keras_speechssm", "flax", "hugging_face")


def bench_forward(
    lengths: Sequence[int] = (1024, 4096),
    batch_size: int = 1,
    implementations: Sequence[str] = PEERS,
    size: dict | None = None,
    repeats: int = 3,
    memory_gib: float | None = None,
    timeout: float = 900.0,
    output: str | Path | None = None,
) -> None:
    """Times whole forward passes, the prefill, at several lengths.

    Prints a table and the machine's limits, measured in the same run.

    Args:
        lengths: tokens of a sequence.
        batch_size: sequences at once.
        implementations: of `keras_speechssm`, `flax` and `hugging_face`; those that are
            not installed are left out.
        size: arguments of `GriffinSize`. Defaults to 21 M parameters.
        repeats: timed calls, of which the median counts.
        memory_gib: memory each measurement may have. Defaults to all there is.
        timeout: seconds each measurement may take.
        output: `.json` file to write the results to; a plot of the same name goes
            beside it. Defaults to neither.
    """
    grid = [(batch_size, length) for length in lengths]
    _bench("forward", grid, implementations, size, repeats, memory_gib, timeout, output)


def bench_train(
    lengths: Sequence[int] = (1024, 4096),
    batch_size: int = 1,
    implementations: Sequence[str] = PEERS,
    size: dict | None = None,
    repeats: int = 3,
    memory_gib: float | None = None,
    timeout: float = 900.0,
    output: str | Path | None = None,
) -> None:
    """Times training steps (forward, backward, Adam) at several lengths.

    Prints a table and the machine's limits, measured in the same run.

    Args:
        lengths, batch_size, implementations, size, repeats, memory_gib, timeout, output: as
            those of `bench_forward`.
    """
    grid = [(batch_size, length) for length in lengths]
    _bench("train", grid, implementations, size, repeats, memory_gib, timeout, output)


def bench_decode(
    batch_sizes: Sequence[int] = (1, 8, 64),
    steps: int = 256,
    context: int = 1,
    implementations: Sequence[str] = PEERS,
    size: dict | None = None,
    repeats: int = 3,
    memory_gib: float | None = None,
    timeout: float = 900.0,
    output: str | Path | None = None,
) -> None:
    """Times the generation of tokens one by one, at several batch sizes.

    Prints a table and the machine's limits, measured in the same run. The first `steps`
    tokens compile and are not counted. Each library goes the way that it offers: this
    package samples in compiled blocks from its ring buffers, Flax takes the likeliest token in
    a compiled step after a whole window, whose cache has its final size, and `transformers`
    takes it with its growing cache after `context` tokens, of which few are the cheapest case.
    Calls go on from each other, but for `speech_transformer`, which repeats the same steps.

    Args:
        batch_sizes: sequences at once.
        steps: tokens of one timed call.
        context: tokens before them.
        implementations: also `keras_speechssm_int8` and `speech_transformer`.
        size, repeats, memory_gib, timeout, output: as those of
            `bench_forward`.
    """
    grid = [(batch_size, steps) for batch_size in batch_sizes]
    _bench("decode", grid, implementations, size, repeats, memory_gib, timeout, output, context)


def _bench(
    work, grid, implementations, size, repeats, memory_gib, timeout, output, context=None
) -> None:
    unknown = [name for name in implementations if name not in IMPLEMENTATIONS]
    if unknown:
        raise ValueError(f"implementations are {', '.join(IMPLEMENTATIONS)}; got {unknown[0]}.")
    unable = [name for name in implementations if not hasattr(IMPLEMENTATIONS[name], work)]
    if unable:
        raise ValueError(f"{unable[0]} does not {work}; it is there for bench decode.")
    check_output(output)
    numbers = [repeats, 1 if context is None else context, *(n for pair in grid for n in pair)]
    if not grid or min(numbers) < 1:
        raise ValueError("repeats, context, batch sizes, lengths and steps are numbers from 1 on.")
    GriffinSize.from_config(size)
    present = [name for name in implementations if installed(name)]
    if not present:
        raise ValueError("None of the implementations is installed: pip install '.[parity,torch]'.")
    limits = measure_in_subprocess({"work": "limits"}, None, timeout)
    rows = []
    for batch, amount in grid:
        for name in present:
            task = dict(implementation=name, work=work, batch=batch, amount=amount)
            details = {"size": size or {}, "repeats": repeats, "context": context}
            found = measure_in_subprocess({**task, **details}, memory_gib, timeout)
            rows.append(make_row(task, found))
            print(f"{name}, {batch} x {amount}: {rows[-1]}", flush=True)
    add_ratios(rows)
    publish(work, rows, limits, output, "batch" if work == "decode" else "tokens")


def make_row(task: dict, found: dict) -> dict:
    """One line of the table."""
    seconds = found.get("seconds")
    batch, amount = task["batch"], task["amount"]
    return {
        "model": task["implementation"],
        "batch": batch,
        "tokens": amount,
        "tokens_per_second": seconds and batch * amount / seconds,
        "ms_per_step": seconds and 1e3 * seconds / (amount if task["work"] == "decode" else 1),
        "peak_gib": found.get("peak_gib"),
        "limit_gflops": found.get("limit_gflops"),
        "parameters_m": found.get("parameters") and found["parameters"] / 1e6,
        "failed": found.get("failed"),
    }


def add_ratios(rows: list[dict]) -> None:
    """Adds to every row how many times as fast this package is at that size."""
    ours = {
        (row["batch"], row["tokens"]): row["tokens_per_second"]
        for row in rows
        if row["model"] == OURS
    }
    for row in rows:
        own, theirs = ours.get((row["batch"], row["tokens"])), row["tokens_per_second"]
        row["ours_is_faster"] = own / theirs if own and theirs else None
