import json

import pytest

from keras_speechssm.benchmarks import throughput

pytestmark = pytest.mark.any_backend

TINY = dict(num_layers=3, hidden_dim=8, intermediate_dim=12, num_heads=2, vocabulary_size=16)


@pytest.mark.parametrize(
    ("session_bytes", "gib", "largest", "expected"),
    [(2**30, 1.0, 8, 1), (2**28, 1.0, 8, 4), (2**28, 1.9, 8, 4), (2**31, 1.0, 8, 0), (1, 1, 8, 8)],
)
def test_largest_power_of_two_that_fits(session_bytes, gib, largest, expected):
    assert throughput.largest_fit(session_bytes, gib, largest) == expected


@pytest.fixture
def tasks(monkeypatch):
    """Fake measurements: a step takes as many seconds as it has sequences, twice for the peer."""
    seen = []

    def measure_in_subprocess(task, memory_gib, timeout):
        if task["work"] == "limits":
            return {"flops": 1e11}
        seen.append(task)
        factor = 1 if task["implementation"] == "keras_speechssm" else 2
        seconds = factor * task["batch"] * task["amount"]
        return {"seconds": float(seconds), "parameters": 1000, "peak_gib": 1.0}

    monkeypatch.setattr(throughput, "measure_in_subprocess", measure_in_subprocess)
    return seen


def test_a_transformer_s_batch_shrinks_with_the_length(tasks, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    output = tmp_path / "throughput.json"
    throughput.bench_throughput(
        lengths=[64, 128], state_gib=2e-5, steps=4, size={**TINY, "attention_window": 15},
        output=output,
    )  # fmt: skip
    rows = {(r["model"], r["tokens"]): r for r in json.loads(output.read_text())["rows"]}
    # 21475 bytes: keys and values of 4 floats in 3 layers for each token are 96 bytes of them.
    assert [rows["speech_transformer", n]["batch"] for n in (64, 128)] == [2, 1]
    ours = rows["keras_speechssm", 64]["batch"]
    assert ours == rows["keras_speechssm", 128]["batch"] >= 8
    row = rows["speech_transformer", 128]
    assert (row["ours_is_faster"], row["batch_ratio"]) == (2.0, ours)
    assert row["step_ratio"] == pytest.approx(2 / ours)
    assert [task["context"] for task in tasks] == [16, 60, 16, 124]
    assert (tmp_path / "throughput.png").stat().st_size > 1000
    assert "batch_ratio" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "table.csv"}, r"must be a .json file"),
        ({"output": "nowhere/table.json"}, "nowhere is not a writable folder"),
        ({"lengths": [256]}, r"above steps \* \(repeats \+ 1\) = 256"),
        ({"steps": 0}, "must be at least 1"),
        ({"largest_batch": -3}, "must be at least 1"),
        ({"state_gib": -1.0}, "above 0, got -1.0"),
        ({"state_gib": float("nan")}, "above 0, got nan"),
        ({"size": {"hidden": 32}}, "A size has num_layers, .*; got 'hidden'"),
        ({"size": {"num_layers": "three"}}, "num_layers must be an integer .*, got 'three'"),
    ],
)
def test_bad_arguments(tasks, arguments, message):
    with pytest.raises(ValueError, match=message):
        throughput.bench_throughput(**arguments)
    assert not tasks


def test_where_nothing_could_be_measured_an_error_says_so(monkeypatch, capsys):
    monkeypatch.setattr(throughput, "measure_in_subprocess", lambda *_: {"failed": "out of memory"})
    with pytest.raises(ValueError, match="Nothing could be measured: out of memory"):
        throughput.bench_throughput(lengths=[64], steps=4, size=TINY)
    assert "| out of memory" in capsys.readouterr().out
