"""SpeechSSM and a Transformer with the same memory budget: `speechssm bench throughput`."""

import math
from collections.abc import Sequence
from pathlib import Path

from keras_speechssm.benchmarks.griffin import (
    IMPLEMENTATIONS,
    OURS,
    GriffinSize,
    make_row,
    measure_in_subprocess,
)
from keras_speechssm.benchmarks.measurement import check_output, write_report

TRANSFORMER = "speech_transformer"


def bench_throughput(
    lengths: Sequence[int] = (1024, 2048, 4096, 8192, 16384),
    state_gib: float = 0.5,
    steps: int = 64,
    largest_batch: int = 256,
    size: dict | None = None,
    repeats: int = 3,
    memory_gib: float | None = None,
    timeout: float = 900.0,
    output: str | Path | None = None,
) -> None:
    """Time the largest batch whose states fit into a memory budget, at several lengths.

    The state of a SpeechSSM has a constant size. The keys and values of a Transformer grow with
    the length, so fewer sequences fit, and each attends to more. The Transformer is the
    `SpeechTransformer` of this package with the same width, depth, heads, and MLP. Both are timed
    at the end of a sequence, but SpeechSSM just beyond its attention window if that is shorter,
    because all later steps are the same.

    Prints a table with the factors of the ratio: `batch_ratio` of the batches (the largest powers
    of two that fit), and `step_ratio` of the times per step. See the paper's figure 8.

    Args:
        lengths: Lengths of the sequences in tokens.
        state_gib: Memory for the states of a batch in GiB.
        steps: Number of tokens of one timed call.
        largest_batch: Maximum number of sequences.
        size: Arguments of `GriffinSize`. Defaults to 21 M parameters.
        repeats: Number of timed calls; the median counts.
        memory_gib: Memory limit of each measurement in GiB. Defaults to no limit.
        timeout: Time limit of each measurement in seconds.
        output: `.json` file for the results; a plot with the same name is written next to it.
            Defaults to neither.
    """
    check_output(output)
    if min(steps, largest_batch, repeats) < 1:
        raise ValueError("steps, largest_batch, and repeats must be at least 1.")
    if not 0.0 < state_gib < math.inf:
        raise ValueError(f"state_gib must be above 0, got {state_gib}.")
    # The first call compiles. Ours continues from call to call, up to the end of the sequence.
    counted = steps * (repeats + 1)
    if min(lengths, default=0) <= counted:
        raise ValueError(f"lengths must be above steps * (repeats + 1) = {counted}.")
    griffin_size = GriffinSize.from_config(size)
    models = {name: IMPLEMENTATIONS[name](griffin_size) for name in (OURS, TRANSFORMER)}
    budgets = {
        (name, length): largest_fit(model.session_bytes(length), state_gib, largest_batch)
        for name, model in models.items()
        for length in lengths
    }
    del models
    limits = measure_in_subprocess({"work": "limits"}, None, timeout)
    rows = []
    for (name, length), batch in sorted(budgets.items(), key=lambda item: item[0][1]):
        task = dict(implementation=name, work="decode", batch=batch, amount=steps)
        found = {"failed": "no sequence fits"}
        if batch:
            context = length - steps
            if name == OURS:
                context = min(length - counted, griffin_size.attention_window + 1)
            details = {"size": size or {}, "repeats": repeats, "context": context}
            found = measure_in_subprocess({**task, **details}, memory_gib, timeout)
        rows.append({**make_row(task, found), "tokens": length})
        print(f"{name}, {length} tokens: {rows[-1]}", flush=True)
    _add_ratios(rows)
    write_report("throughput", rows, limits, output, "tokens", state_gib=state_gib)


def largest_fit(session_bytes: int, state_gib: float, largest_batch: int) -> int:
    """Return the largest power of two of sequences whose states fit; 0 if none fits."""
    fitting = min(int(state_gib * 2**30) // session_bytes, largest_batch)
    return 1 << (fitting.bit_length() - 1) if fitting else 0


def _add_ratios(rows: list[dict]) -> None:
    """Add the ratio of the tokens per second to each row, and its two factors."""
    ours = {row["tokens"]: row for row in rows if row["model"] == OURS}
    for row in rows:
        own = ours[row["tokens"]]
        for name in ("ours_is_faster", "batch_ratio", "step_ratio"):
            row[name] = None
        if row["tokens_per_second"] and own["tokens_per_second"]:
            row["ours_is_faster"] = own["tokens_per_second"] / row["tokens_per_second"]
            row["batch_ratio"] = own["batch"] / row["batch"]
            row["step_ratio"] = row["ours_is_faster"] / row["batch_ratio"]
