"""Python processes that tests start, on JAX and simulated devices."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

STARTED = []


def start_python(script, *arguments, devices=1):
    """Runs a script that can import the package and the helpers of tests."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests.parent), str(tests)])
    env = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**env, "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def kill_what_is_left():
    """For modules that give it their own name."""
    yield
    while STARTED:
        STARTED.pop().kill()


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"
