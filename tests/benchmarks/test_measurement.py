import itertools
import mmap
import sys
from pathlib import Path

import pytest

from keras_speechssm.benchmarks import measurement

pytestmark = pytest.mark.any_backend


def test_machine_names_cores_memory_and_versions():
    found = measurement.describe_machine()
    assert found["cores"] >= 1 and found["memory_gib"] > 0.1 and found["processor"]
    assert "jax" in found["versions"]


def test_median_leaves_out_the_warm_up(monkeypatch):
    durations = iter([1.0, 5.0, 2.0])
    clock = itertools.chain.from_iterable((0.0, duration) for duration in durations)
    monkeypatch.setattr(measurement.time, "perf_counter", lambda: next(clock))
    calls = []
    assert measurement.median_seconds(lambda: calls.append(1), repeats=3, warm_up=2) == 2.0
    assert len(calls) == 5


def test_limits_are_positive_and_finite():
    limits = measurement.measure_limits(repeats=1)
    assert 1e8 < limits["flops"] < 1e17 and 1e8 < limits["bytes_per_second"] < 1e14


def test_a_subprocess_gives_its_last_line_or_why_it_failed():
    def run(code, timeout=60.0):
        return measurement.run_in_subprocess([sys.executable, "-c", code], timeout)

    assert run("print('warming up'); print('{\"seconds\": 2}')") == {"seconds": 2}
    assert run("raise ValueError('no such size')") == {"failed": "ValueError: no such size"}
    assert run("raise MemoryError") == {"failed": "out of memory"}
    assert run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)") == {
        "failed": "out of memory"
    }
    assert run("raise SystemExit(3)") == {"failed": "exit status 3"}
    assert run("import time; time.sleep(9)", timeout=0.2) == {"failed": "not done in 0 s"}


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs /proc")
def test_memory_follows_allocations():
    # New pages: an array could reuse memory that the allocator kept from earlier tests.
    before = measurement.resident_memory_mib()
    size = 40 * 2**20
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, size, mmap.PAGESIZE):
        held[page] = 1
    with_pages = measurement.resident_memory_mib()
    held.close()
    assert 35 < with_pages - before < 60
    assert measurement.peak_memory_mib() >= 0.99 * with_pages
    assert with_pages - measurement.resident_memory_mib() > 35
