import itertools

import pytest

from keras_speechssm.benchmarks import measurement as machine

pytestmark = pytest.mark.any_backend


def test_machine_names_cores_memory_and_versions():
    found = machine.describe_machine()
    assert found["cores"] >= 1 and found["memory_gib"] > 0.1 and found["processor"]
    assert "jax" in found["versions"]


def test_median_leaves_out_the_warm_up(monkeypatch):
    durations = iter([1.0, 5.0, 2.0])
    clock = itertools.chain.from_iterable((0.0, duration) for duration in durations)
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    calls = []
    assert machine.median_seconds(lambda: calls.append(1), repeats=3, warm_up=2) == 2.0
    assert len(calls) == 5


def test_limits_are_positive_and_finite():
    limits = machine.measure_limits(repeats=1)
    assert 1e8 < limits["flops"] < 1e17 and 1e8 < limits["bytes_per_second"] < 1e14
