"""The paper's models compiled for TPUs, on a machine that has none: `speechssm bench tpu`."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_speechssm.benchmarks import tpu_programs
from keras_speechssm.benchmarks.machine import describe_machine
from keras_speechssm.benchmarks.report import check_output, format_table
from keras_speechssm.benchmarks.tpu_programs import CHIPS
from keras_speechssm.benchmarks.tpu_shapes import read_sizes
from keras_speechssm.whole_files import write_json

FIXED_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "KERAS_BACKEND": "jax",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    # The lock keeps processes off one another's chips, which nobody touches here.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def bench_tpu(
    parts: Sequence[str] = tuple(CHIPS),
    batch_size: int = 1,
    train_batch_size: int = 128,
    train_length: int = 6000,
    speech_lm: str = "speech_ssm_2b",
    soundstorm: str = "soundstorm_600m",
    tokenizer: str = "semantic_tokenizer_600m",
    codec: str = "soundstream_16khz",
    size: dict | None = None,
    timeout: float = 3600.0,
    output: str | Path | None = None,
) -> None:
    """Compiles the models for TPUs, without one, and says what they need of a chip.

    Prints a table, all its numbers for one chip. The compiler counts the body of a loop once:
    so decoding is one token, and training lacks most of its attention and of its kernels'
    work. It counts moves within the chip as bytes, too; `seconds_at_least` is the time of the
    operations, or that of reading weights and inputs once, at the speeds that are published.

    Args:
        parts: of `decode` (a block of 256 tokens), `prefill` (256 tokens of a prompt),
            `soundstorm` (one of the passes over a window of 30 s), each in bfloat16 on one
            v5e; `train` (a step of the language model in mixed precision with AdamW, on 16
            v5p), and the steps of `train_soundstorm` and `train_tokenizer` (30 s each) and
            `train_codec` (1 s each, with discriminators), as `fit` has them.
        batch_size: sequences at once in all parts that do not train.
        train_batch_size: sequences of a training batch, shared out over the chips.
        train_length: tokens of each for the language model.
        speech_lm: preset of a `GriffinBackbone`; only its sizes count.
        soundstorm, tokenizer, codec: presets of the others; only their sizes count.
        size: sizes other than the presets', by name; each model takes those that it has.
        timeout: seconds each part may take.
        output: `.json` file to write the results to. Defaults to none.

    Raises:
        ValueError: libtpu is missing, an argument is wrong, or a part did not compile, such
            as one that does not fit into the memory of its chip.
    """
    _check_arguments(parts, train_batch_size, output)
    presets = (speech_lm, soundstorm, tokenizer, codec)
    unknown = set(size or {}).difference(*map(read_sizes, presets))
    if unknown:
        raise ValueError(f"size names {', '.join(sorted(unknown))}, which no model has.")
    speech = dict(batch_size=batch_size, preset=speech_lm, size=size or {})
    tasks = {
        "decode": speech,
        "prefill": speech,
        "soundstorm": {**speech, "preset": soundstorm},
        "train": {**speech, "batch_size": train_batch_size, "length": train_length},
    }
    for part, preset in zip(
        ("train_soundstorm", "train_tokenizer", "train_codec"), presets[1:], strict=True
    ):
        tasks[part] = {**speech, "batch_size": train_batch_size, "preset": preset}
    rows = []
    for part in parts:
        rows.append(_row(part, compile_apart({"part": part, **tasks[part]}, timeout)))
        print(f"{part}: {rows[-1]}", flush=True)
    print(format_table(rows))
    if output is not None:
        write_json(Path(output), {"machine": describe_machine(), "tasks": tasks, "rows": rows})
    failed = [f"{row['part']} ({row['failed']})" for row in rows if row["failed"]]
    if failed:
        raise ValueError(f"Not compiled for its TPU: {'; '.join(failed)}")


def _check_arguments(parts, train_batch_size: int, output) -> None:
    unknown = [part for part in parts if part not in CHIPS]
    if unknown:
        raise ValueError(f"parts are {', '.join(CHIPS)}; got {unknown[0]}.")
    check_output(output, plotted=False)
    chips = CHIPS["train"][1]
    training = [part for part in parts if part.startswith("train")]
    if training and train_batch_size % chips:
        raise ValueError(f"train_batch_size is {train_batch_size}; give a multiple of {chips}.")
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("libtpu is not installed: it comes with the extra tpu.")


def compile_apart(task: dict, timeout: float) -> dict:
    """Compiles one part in a new process, since libtpu reads its environment once.

    Args:
        task: `part` and what its program in `tpu_programs` takes.
        timeout: seconds after which it is stopped.

    Returns:
        What `tpu_programs.compile_part` gave, or `{"failed": why}`.
    """
    chip = CHIPS[task["part"]][0]
    environment = {**os.environ, **FIXED_ENVIRONMENT, "TPU_ACCELERATOR_TYPE": chip.accelerator}
    command = [sys.executable, "-m", tpu_programs.__name__, json.dumps(task)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {timeout:.0f} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    errors = re.findall(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*", done.stderr, re.MULTILINE)
    return {"failed": errors[-1] if errors else f"exit status {done.returncode}"}


def _row(part: str, found: dict) -> dict:
    """One line of the table."""
    chip, chips = CHIPS[part]
    at_least = None
    if found.get("flops") is not None:
        reading = found["arguments_gib"] * 2**30 / chip.bytes_per_second
        at_least = max(found["flops"] / chip.flops, reading)
    return {
        "part": part,
        "chip": chip.topology.partition(":")[0],
        "chips": chips,
        "parameters_m": found.get("parameters_m"),
        "arguments_gib": found.get("arguments_gib"),
        "hbm_needed_gib": found.get("hbm_needed_gib"),
        "hbm_gib": chip.hbm_gib,
        "flops": found.get("flops"),
        "bytes_accessed": found.get("bytes_accessed"),
        "compiler_seconds": found.get("compiler_seconds"),
        "seconds_at_least": at_least,
        "collective_bytes": found.get("collective_bytes"),
        "pallas": found.get("pallas"),
        "compile_seconds": found.get("compile_seconds"),
        "failed": found.get("failed"),
    }
