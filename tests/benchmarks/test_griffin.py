import json

import pytest

from benchmarks import peers
from keras_speechssm.benchmarks import griffin
from keras_speechssm.benchmarks.measurement import format_table, plot_rates

LIMITS = {"flops": 1e11, "bytes_per_second": 1e10}


@pytest.fixture
def speeds(monkeypatch):
    """Fake measurements: the peer takes twice the time, and fails at 4096 tokens."""
    tasks = []

    def measure_in_subprocess(task, memory_gib, timeout, command):
        tasks.append((task, memory_gib, command))
        if task["work"] == "limits":
            return LIMITS
        if task["implementation"] == "flax" and task["amount"] == 4096:
            return {"failed": "out of memory"}
        seconds = 2.0 if task["implementation"] == "flax" else 1.0
        return {"seconds": seconds, "parameters": 21_000_000, "peak_gib": 1.5}

    monkeypatch.setattr(griffin, "measure_in_subprocess", measure_in_subprocess)
    monkeypatch.setattr(peers, "is_installed", lambda name: name != "hugging_face")
    return tasks


def test_rows_have_rates_ratios_and_failures(speeds, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    output = tmp_path / "train.json"
    options = ["--lengths", "1024", "4096", "--batch-size", "2", "--memory-gib", "12"]
    peers.main(["train", *options, "--output", str(output)])
    content = json.loads(output.read_text())
    rows = {(row["model"], row["tokens"]): row for row in content["rows"]}
    assert set(rows) == {(m, t) for m in ("keras_speechssm", "flax") for t in (1024, 4096)}
    assert rows["keras_speechssm", 1024]["tokens_per_second"] == 2048.0
    assert rows["flax", 1024]["ours_is_faster"] == 2.0
    assert rows["flax", 4096]["failed"] == "out of memory"
    assert rows["flax", 4096]["ours_is_faster"] is None
    assert content["limits"] == LIMITS and content["machine"]["cores"] >= 1
    assert (tmp_path / "train.png").stat().st_size > 1000
    assert [limit for _, limit, _ in speeds] == [None, 12, 12, 12, 12]
    assert all(command[1:] == [peers.__file__, "--task"] for *_, command in speeds)
    assert "| flax " in capsys.readouterr().out


def test_decoding_counts_milliseconds_per_step(speeds, capsys):
    griffin.bench_decode(batch_sizes=[8], steps=100)
    assert "| keras_speechssm | 8     | 100    | 800 " in capsys.readouterr().out
    assert speeds[1][0]["work"] == "decode" and speeds[1][0]["batch"] == 8


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(implementations=["vllm"]), "got vllm"),
        (dict(implementations=["flax"]), "got flax"),
        (dict(implementations=["speech_transformer"]), "does not support forward"),
        (dict(lengths=[]), "must be at least 1"),
        (dict(output="table.csv"), r"must be a .json file, got 'table.csv'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        griffin.bench_forward(**arguments)


def test_table_keeps_three_digits_and_leaves_gaps():
    rows = [
        {"model": "a", "ms": 1.23456, "failed": None},
        {"model": "bc", "ms": 1234.5, "failed": "x"},
    ]
    assert format_table(rows).splitlines() == [
        "| model | ms   | failed |",
        "| ----- | ---- | ------ |",
        "| a     | 1.23 |        |",
        "| bc    | 1234 | x      |",
    ]


def test_plot_leaves_out_what_failed(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        {"model": "a", "tokens": 1, "tokens_per_second": 1.0},
        {"model": "b", "tokens": 1, "tokens_per_second": None},
    ]
    plot_rates(tmp_path / "p.png", rows, "tokens")
    assert (tmp_path / "p.png").exists()


@pytest.mark.slow
def test_a_subprocess_reports_and_fails_in_one_line():
    task = dict(implementation="keras_speechssm", work="forward", batch=1, amount=8, repeats=1)
    size = dict(num_layers=1, hidden_dim=16, intermediate_dim=16, num_heads=2, vocabulary_size=8)
    found = griffin.measure_in_subprocess({**task, "size": size}, None, 300)
    assert found["seconds"] > 0.0 and found["peak_gib"] < 8.0
    failed = griffin.measure_in_subprocess({**task, "size": {**size, "num_heads": 3}}, None, 300)
    assert set(failed) == {"failed"} and "num_heads" in failed["failed"]
    late = griffin.measure_in_subprocess({**task, "size": size}, None, 0.1)
    assert late == {"failed": "not done in 0 s"}


def test_no_installed_peer_is_an_error_before_anything_is_measured(speeds, monkeypatch, capsys):
    monkeypatch.setattr(peers, "is_installed", lambda name: False)
    with pytest.raises(SystemExit) as stopped:
        peers.main(["forward"])
    assert stopped.value.code == 2 and not speeds
    assert "None of the implementations is installed" in capsys.readouterr().err
