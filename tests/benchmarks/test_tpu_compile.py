import importlib.util
import json

import pytest

from benchmarks import tpu_compile as tpu

pytestmark = pytest.mark.any_backend

TINY = dict(
    num_layers=3,
    hidden_dim=256,
    intermediate_dim=256,
    num_heads=2,
    lru_width=256,
    vocabulary_size=512,
    attention_window=64,
)
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra tpu)"
)


@pytest.fixture
def with_libtpu(monkeypatch):
    """Arguments are checked as if libtpu were installed."""
    monkeypatch.setattr(tpu.importlib.util, "find_spec", lambda name: object())


@needs_libtpu
def test_decoding_compiles_and_fits(tmp_path, capsys):
    output = tmp_path / "tpu.json"
    tpu.bench_tpu(parts=["decode"], size=TINY, output=output)
    (row,) = json.loads(output.read_text())["rows"]
    assert row["failed"] is None and (row["chip"], row["chips"]) == ("v5e", 1)
    assert row["arguments_gib"] < row["hbm_needed_gib"] < 0.1 < row["hbm_gib"]
    assert row["flops"] > 2e6 and row["bytes_accessed"] > 2e6
    assert row["seconds_at_least"] == pytest.approx(
        row["arguments_gib"] * 2**30 / 819e9
    )  # decoding waits for its weights
    assert row["collective_bytes"] == 0 and row["compile_seconds"] > 0.0
    assert "| decode | v5e " in capsys.readouterr().out


@needs_libtpu
@pytest.mark.slow
def test_training_compiles_with_the_kernel_and_sums_gradients(tmp_path):
    output = tmp_path / "tpu.json"
    tpu.bench_tpu(parts=["train"], size=TINY, train_batch_size=16, train_length=64, output=output)
    (row,) = json.loads(output.read_text())["rows"]
    assert row["pallas"] and row["chips"] == 16
    # The gradients in float32, and little besides.
    assert row["collective_bytes"] == pytest.approx(4e6 * row["parameters_m"], rel=0.01)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("part", ["train_soundstorm", "train_tokenizer"])
def test_the_other_models_steps_compile(tmp_path, part):
    size = {"num_layers": 1, "num_decoder_layers": 1, "hidden_dim": 64, "num_heads": 2}
    size |= {"intermediate_dim": 64, "vocabulary_size": 64, "codebook_size": 16}
    output = tmp_path / "tpu.json"
    tpu.bench_tpu(parts=[part], size=size, train_batch_size=16, output=output)
    (row,) = json.loads(output.read_text())["rows"]
    assert row["failed"] is None and row["chips"] == 16 and row["collective_bytes"] is None
    # Weights and two moments each, in float32.
    assert row["arguments_gib"] * 2**30 > 12e6 * row["parameters_m"]


@needs_libtpu
@pytest.mark.slow
def test_what_does_not_fit_fails_in_one_line(capsys):
    # The embeddings alone have 32 GiB.
    size = {**TINY, "vocabulary_size": 2**23, "hidden_dim": 2048}
    with pytest.raises(ValueError, match=r"prefill \(RESOURCE_EXHAUSTED") as error:
        tpu.bench_tpu(parts=["prefill"], size=size)
    assert "\n" not in str(error.value)
    assert "| prefill | v5e " in capsys.readouterr().out


def test_without_libtpu_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tpu.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="libtpu is not installed; install the extra"):
        tpu.bench_tpu()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(parts=["dekode"]), "got dekode"),
        (dict(output="table.csv"), r"must be a .json file, got 'table.csv'"),
        (dict(train_batch_size=10), "is 10; expected a multiple of 16"),
        (dict(size={"num_layer": 1}), "size names num_layer"),
    ],
)
def test_bad_arguments(with_libtpu, arguments, message):
    with pytest.raises(ValueError, match=message):
        tpu.bench_tpu(**arguments)


def test_every_part_is_tried_before_a_failure_is_raised(with_libtpu, monkeypatch):
    tried = []

    def compile_in_subprocess(task, timeout):
        tried.append(task["part"])
        return {"failed": "too large"} if task["part"] == "prefill" else {}

    monkeypatch.setattr(tpu, "compile_in_subprocess", compile_in_subprocess)
    with pytest.raises(ValueError, match=r"^Not compiled for its TPU: prefill \(too large\)$"):
        tpu.bench_tpu()
    assert tried == list(tpu.CHIPS)


def test_collectives_are_summed():
    program = """
      %5 = "stablehlo.all_reduce"(%4) <{replica_groups = dense<0> : tensor<1x1xi64>}> ({
      ^bb0(%arg0: tensor<f32>, %arg1: tensor<f32>):
        %7 = stablehlo.add %arg0, %arg1 : tensor<f32>
        stablehlo.return %7 : tensor<f32>
      }) : (tensor<8x128xf32>) -> tensor<8x128xf32>
      %6:2 = "stablehlo.all_gather"(%1, %2) : (...) -> (tensor<4xbf16>, tensor<f32>)
      %8 = stablehlo.add %6, %6 : tensor<64xf32>
    """
    assert tpu.collective_bytes(program) == 4 * 8 * 128 + 2 * 4 + 4


def test_the_command_checks_its_arguments(capsys):
    with pytest.raises(SystemExit) as stopped:
        tpu.main(["--parts", "dekode"])
    assert stopped.value.code == 2
    assert "got dekode" in capsys.readouterr().err
