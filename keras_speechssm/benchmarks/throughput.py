"""SpeechSSM against a Transformer under one budget of memory: `speechssm bench throughput`."""

import math
from collections.abc import Sequence
from pathlib import Path

from keras_speechssm.benchmarks.griffin import OURS, make_row, measure_in_subprocess
from keras_speechssm.benchmarks.measurement import check_output, publish
from keras_speechssm.benchmarks.peers import IMPLEMENTATIONS, GriffinSize

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
    """Tokens a second of the largest batch whose states fit into a budget, at several lengths.

    SpeechSSM's state has one size; a Transformer's keys and values grow with the length, so
    that fewer sequences fit, and each of them attends to more. The Transformer is this package's
    `SpeechTransformer`, of the same width, depth, heads and MLP. Both are timed at the end of a
    sequence; SpeechSSM, where that is beyond its attention window, just beyond it: from there on
    all its steps are alike.

    Prints a table and where the ratio comes from: `batch_ratio` is of the batches, the largest
    powers of two that fit, and `step_ratio` of the times a step. Source: the paper's figure 8.

    Args:
        lengths: tokens of a sequence at its end.
        state_gib: memory for all states of a batch.
        steps: tokens of one timed call.
        largest_batch: no more sequences than this, whatever fits.
        size: arguments of `GriffinSize`. Defaults to 21 M parameters.
        repeats: timed calls, of which the median counts.
        memory_gib: memory each measurement may have. Defaults to all there is.
        timeout: seconds each measurement may take.
        output: `.json` file to write the results to; a plot of the same name goes
            beside it. Defaults to neither.
    """
    check_output(output)
    if min(steps, largest_batch, repeats) < 1:
        raise ValueError("steps, largest_batch and repeats are numbers from 1 on.")
    if not 0.0 < state_gib < math.inf:
        raise ValueError(f"state_gib is a number above 0, got {state_gib}.")
    # The first call compiles; ours goes on from call to call, and is to end with the sequence.
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
    publish("throughput", rows, limits, output, "tokens", state_gib=state_gib)


def largest_fit(session_bytes: int, state_gib: float, largest_batch: int) -> int:
    """The largest power of two of sequences whose states fit; 0 where none does."""
    fitting = min(int(state_gib * 2**30) // session_bytes, largest_batch)
    return 1 << (fitting.bit_length() - 1) if fitting else 0


def _add_ratios(rows: list[dict]) -> None:
    """How many times as many tokens SpeechSSM makes, and its two factors."""
    ours = {row["tokens"]: row for row in rows if row["model"] == OURS}
    for row in rows:
        own = ours[row["tokens"]]
        for name in ("ours_is_faster", "batch_ratio", "step_ratio"):
            row[name] = None
        if row["tokens_per_second"] and own["tokens_per_second"]:
            row["ours_is_faster"] = own["tokens_per_second"] / row["tokens_per_second"]
            row["batch_ratio"] = own["batch"] / row["batch"]
            row["step_ratio"] = row["ours_is_faster"] / row["batch_ratio"]
