"""One measurement in a process of its own: `python -m keras_speechssm.benchmarks.measurement`.

The measured process gets its task as JSON on the command line and prints its result as the
last line of standard output.
"""

import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys

from keras_speechssm.benchmarks.griffin_models import IMPLEMENTATIONS, GriffinSize
from keras_speechssm.benchmarks.machine import measure_limits, median_seconds
from keras_speechssm.process_memory import peak_memory_mib

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


def measure_apart(task: dict, memory_gib: float | None, timeout: float) -> dict:
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
