"""Time a Griffin language model: `speechssm bench {forward,train,decode}`.

`benchmarks/peers.py` of the repository measures other implementations in the same way.
"""

import dataclasses
import json
import os
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.benchmarks.measurement import (
    check_output,
    measure_limits,
    median_seconds,
    peak_memory_mib,
    run_in_subprocess,
    write_report,
)

OURS = "keras_speechssm"


@dataclasses.dataclass(frozen=True)
class GriffinSize:
    """Sizes of a Griffin model. The defaults give 21 M parameters.

    Args:
        num_layers: Number of layers.
        hidden_dim: Width of the model.
        intermediate_dim: Width of the MLP.
        num_heads: Number of attention heads.
        vocabulary_size: Number of token ids.
        attention_window: Length of the attention window.

    Raises:
        ValueError: A size is not a positive integer.
    """

    num_layers: int = 6
    hidden_dim: int = 512
    intermediate_dim: int = 1536
    num_heads: int = 4
    vocabulary_size: int = 4096
    attention_window: int = 2048

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{field.name} must be an integer of at least 1, got {value!r}.")

    @classmethod
    def from_config(cls, config: dict | None) -> "GriffinSize":
        """Create the size from a dict; raise `ValueError` for unknown names."""
        config = config or {}
        names = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(config) - set(names)):
            raise ValueError(f"A size has {', '.join(names)}; got {unknown[0]!r}.")
        return cls(**config)

    def tokens(self, batch: int, length: int) -> np.ndarray:
        """Draw random tokens, int32 (batch, length)."""
        rng = np.random.default_rng(0)
        return rng.integers(0, self.vocabulary_size, (batch, length), dtype="int32")


class DecodingSpeechSSM:
    """A `SpeechSSM` that generates tokens, optionally quantized.

    Args:
        size: Sizes of the model.
    """

    quantization: str | None = None

    def __init__(self, size: GriffinSize):
        from keras_speechssm.models.griffin.griffin_backbone import GriffinBackbone
        from keras_speechssm.models.speech_ssm.speech_ssm import SpeechSSM

        self.size = size
        self.model = SpeechSSM(GriffinBackbone(**dataclasses.asdict(size)))
        if self.quantization is not None:
            self.model.quantize(self.quantization)

    def num_parameters(self) -> int:
        """Count the parameters."""
        return self.model.count_params()

    def session_bytes(self, length: int) -> int:
        """Return the size of the state of one sequence, which does not depend on `length`."""
        return _state_bytes(self.model)

    def decode(self, batch: int, steps: int, context: int = 1) -> Callable[[], object]:
        """Return a function that generates the next `steps` tokens at each call."""
        state = self.model.start_generation(self.size.tokens(batch, context), seed=0)

        def decode_next():
            nonlocal state
            _, state = self.model.continue_generation(state, steps)

        return decode_next


class KerasSpeechSSM(DecodingSpeechSSM):
    """The `SpeechSSM` of this package on the current Keras backend."""

    def forward(self, batch: int, length: int) -> Callable[[], object]:
        """Return a function that runs a whole forward pass."""
        tokens = self.size.tokens(batch, length)
        return lambda: self.model.predict_on_batch(tokens)

    def train(self, batch: int, length: int) -> Callable[[], object]:
        """Return a function that runs a training step with Adam."""
        tokens = self.size.tokens(batch, length + 1)
        self.model.compile(optimizer="adam", weighted_metrics=[])
        return lambda: self.model.train_on_batch(tokens[:, :-1], tokens[:, 1:])


class Int8SpeechSSM(DecodingSpeechSSM):
    """The same model with int8 projections."""

    quantization = "int8"


class CachedSpeechTransformer:
    """The `SpeechTransformer` of this package, with a cache of the length of the sequence.

    Width, depth, heads, and MLP are those of the Griffin; attention is global and multi-query.

    Args:
        size: Sizes of the model.
    """

    def __init__(self, size: GriffinSize):
        import keras_hub

        self.size = size
        self.backbone = keras_hub.models.GemmaBackbone(
            vocabulary_size=size.vocabulary_size,
            num_layers=size.num_layers,
            num_query_heads=size.num_heads,
            num_key_value_heads=1,
            hidden_dim=size.hidden_dim,
            intermediate_dim=2 * size.intermediate_dim,  # Both branches of the MLP.
            head_dim=size.hidden_dim // size.num_heads,
        )

    def num_parameters(self) -> int:
        """Count the parameters."""
        return self.backbone.count_params()

    def session_bytes(self, length: int) -> int:
        """Return the size of the keys and values of one sequence of `length` tokens."""
        return _state_bytes(self._model(length))

    def decode(self, batch: int, steps: int, context: int = 1) -> Callable[[], object]:
        """Return a function that generates the same `steps` tokens at each call.

        The cache of the `context` tokens is all zeros.
        """
        from keras import ops

        model = self._model(context + steps)
        state = model.start_generation(self.size.tokens(batch, 1), seed=0)
        length = ops.full((batch,), context, dtype="int32")
        state = state._replace(model={**state.model, "length": length})
        return lambda: model.continue_generation(state, steps)

    def _model(self, max_length):
        from keras_speechssm.models.speech_transformer.speech_transformer import SpeechTransformer

        return SpeechTransformer(self.backbone, max_length=max_length)


IMPLEMENTATIONS = {
    OURS: KerasSpeechSSM,
    "keras_speechssm_int8": Int8SpeechSSM,
    "speech_transformer": CachedSpeechTransformer,
}
"""Name on the command line -> class with `forward`, `train`, or `decode`."""


def measure(
    implementation: type,
    work: str,
    batch: int,
    amount: int,
    size: dict,
    repeats: int,
    context: int | None = None,
) -> dict:
    """Time one implementation in this process.

    Args:
        implementation: Class such as `KerasSpeechSSM`.
        work: `forward`, `train`, or `decode`.
        batch: Number of sequences.
        amount: Length of each sequence, or number of decoded tokens.
        size: Arguments of `GriffinSize`.
        repeats: Number of timed calls; the median counts.
        context: Number of tokens before the decoded ones. Defaults to `None`.

    Returns:
        `seconds` per call; `parameters`; `peak_gib`, the largest resident memory up to the end of
        the first call; and `limit_gflops`, the mean rate of matrix products before and after,
        because the speed of shared machines varies.
    """
    model = implementation(GriffinSize.from_config(size))
    call = getattr(model, work)(batch, amount, *([] if context is None else [context]))
    call()
    peak_gib = peak_memory_mib() / 1024  # Before the matrices of `measure_limits` exist.
    before = measure_limits()["flops"]
    seconds = median_seconds(call, repeats, warm_up=0)
    after = measure_limits()["flops"]
    return {
        "seconds": seconds,
        "parameters": int(model.num_parameters()),
        "peak_gib": peak_gib,
        "limit_gflops": (before + after) / 2e9,
    }


def measure_in_subprocess(
    task: dict, memory_gib: float | None, timeout: float, command: Sequence[str] | None = None
) -> dict:
    """Run a task in a new process.

    Args:
        task: `{"work": "limits"}`, or the arguments of `measure` with an implementation's name.
        memory_gib: Memory limit of the process; `None` for no limit.
        timeout: Seconds after which it is stopped.
        command: Program that passes its last argument to `run_task`. Defaults to `None` (this
            module).

    Returns:
        The result of the task, or `{"failed": reason}`.
    """
    command = command or [sys.executable, "-m", "keras_speechssm.benchmarks.griffin"]
    return run_in_subprocess([*command, json.dumps({**task, "memory_gib": memory_gib})], timeout)


def run_task(text: str, implementations: Mapping[str, type] = IMPLEMENTATIONS) -> None:
    """Run a task of `measure_in_subprocess` and print its result.

    Args:
        text: The task as JSON.
        implementations: The known implementations by name.
    """
    task = json.loads(text)
    memory_gib = task.pop("memory_gib")
    if memory_gib is not None:
        limit = int(memory_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    os.environ.setdefault("KERAS_BACKEND", "jax")
    if task["work"] == "limits":
        result = measure_limits()
    else:
        result = measure(**{**task, "implementation": implementations[task["implementation"]]})
    print(json.dumps(result))


def bench_forward(
    lengths: Sequence[int] = (1024, 4096),
    batch_size: int = 1,
    implementations: Sequence[str] = (OURS,),
    size: dict | None = None,
    repeats: int = 3,
    memory_gib: float | None = None,
    timeout: float = 900.0,
    output: str | Path | None = None,
) -> None:
    """Time whole forward passes (prefill) at several lengths.

    Prints a table and the limits of the machine, measured in the same run.

    Args:
        lengths: Lengths of the sequences in tokens.
        batch_size: Number of sequences.
        implementations: Only `keras_speechssm`.
        size: Arguments of `GriffinSize`. Defaults to 21 M parameters.
        repeats: Number of timed calls; the median counts.
        memory_gib: Memory limit of each measurement in GiB. Defaults to no limit.
        timeout: Time limit of each measurement in seconds.
        output: `.json` file for the results; a plot with the same name is written next to it.
            Defaults to neither.
    """
    grid = [(batch_size, length) for length in lengths]
    chosen = choose(implementations, "forward", IMPLEMENTATIONS)
    run_benchmark("forward", grid, chosen, size, repeats, memory_gib, timeout, output)


def bench_train(
    lengths: Sequence[int] = (1024, 4096),
    batch_size: int = 1,
    implementations: Sequence[str] = (OURS,),
    size: dict | None = None,
    repeats: int = 3,
    memory_gib: float | None = None,
    timeout: float = 900.0,
    output: str | Path | None = None,
) -> None:
    """Time training steps (forward, backward, Adam) at several lengths.

    Prints a table and the limits of the machine, measured in the same run.

    Args:
        lengths: Lengths of the sequences in tokens.
        batch_size: Number of sequences.
        implementations: Only `keras_speechssm`.
        size: Arguments of `GriffinSize`. Defaults to 21 M parameters.
        repeats: Number of timed calls; the median counts.
        memory_gib: Memory limit of each measurement in GiB. Defaults to no limit.
        timeout: Time limit of each measurement in seconds.
        output: `.json` file for the results; a plot with the same name is written next to it.
            Defaults to neither.
    """
    grid = [(batch_size, length) for length in lengths]
    chosen = choose(implementations, "train", IMPLEMENTATIONS)
    run_benchmark("train", grid, chosen, size, repeats, memory_gib, timeout, output)


def bench_decode(
    batch_sizes: Sequence[int] = (1, 8, 64),
    steps: int = 256,
    context: int = 1,
    implementations: Sequence[str] = (OURS,),
    size: dict | None = None,
    repeats: int = 3,
    memory_gib: float | None = None,
    timeout: float = 900.0,
    output: str | Path | None = None,
) -> None:
    """Time the generation of tokens one by one at several batch sizes.

    Prints a table and the limits of the machine, measured in the same run. The first `steps`
    tokens compile and are not counted. Each call continues the previous one, except that
    `speech_transformer` repeats the same steps.

    Args:
        batch_sizes: Numbers of sequences.
        steps: Number of tokens of one timed call.
        context: Number of tokens before them.
        implementations: Subset of `keras_speechssm`, `keras_speechssm_int8`, and
            `speech_transformer`.
        size: Arguments of `GriffinSize`. Defaults to 21 M parameters.
        repeats: Number of timed calls; the median counts.
        memory_gib: Memory limit of each measurement in GiB. Defaults to no limit.
        timeout: Time limit of each measurement in seconds.
        output: `.json` file for the results; a plot with the same name is written next to it.
            Defaults to neither.
    """
    grid = [(batch_size, steps) for batch_size in batch_sizes]
    chosen = choose(implementations, "decode", IMPLEMENTATIONS)
    run_benchmark("decode", grid, chosen, size, repeats, memory_gib, timeout, output, context)


def choose(names: Sequence[str], work: str, implementations: Mapping[str, type]) -> list[str]:
    """Check that implementations exist and support a kind of work, and return their names.

    Args:
        names: Names of implementations.
        work: `forward`, `train`, or `decode`.
        implementations: The known implementations by name.

    Raises:
        ValueError: A name is unknown, or the implementation does not support the work.
    """
    for name in names:
        if name not in implementations:
            raise ValueError(f"implementations are {', '.join(implementations)}; got {name}.")
        if not hasattr(implementations[name], work):
            raise ValueError(f"{name} does not support {work}; it is for `bench decode`.")
    return list(names)


def run_benchmark(
    work: str,
    grid: Sequence[tuple[int, int]],
    names: Sequence[str],
    size: dict | None,
    repeats: int,
    memory_gib: float | None,
    timeout: float,
    output: str | Path | None,
    context: int | None = None,
    command: Sequence[str] | None = None,
) -> None:
    """Measure implementations in subprocesses, and report the results.

    Args:
        work: `forward`, `train`, or `decode`.
        grid: Pairs of a batch size and a number of tokens.
        names: Names of the implementations.
        size: Arguments of `GriffinSize`.
        repeats: Number of timed calls.
        memory_gib: Memory limit of each measurement in GiB; `None` for no limit.
        timeout: Time limit of each measurement in seconds.
        output: `.json` file, or `None`.
        context: Number of tokens before the decoded ones; `None` for other work.
        command: See `measure_in_subprocess`.

    Raises:
        ValueError: An argument is out of range, or every measurement failed.
    """
    check_output(output)
    numbers = [repeats, 1 if context is None else context, *(n for pair in grid for n in pair)]
    if not grid or min(numbers) < 1:
        raise ValueError("repeats, context, batch sizes, lengths, and steps must be at least 1.")
    GriffinSize.from_config(size)
    limits = measure_in_subprocess({"work": "limits"}, None, timeout, command)
    rows = []
    for batch, amount in grid:
        for name in names:
            task = dict(implementation=name, work=work, batch=batch, amount=amount)
            details = {"size": size or {}, "repeats": repeats, "context": context}
            found = measure_in_subprocess({**task, **details}, memory_gib, timeout, command)
            rows.append(make_row(task, found))
            print(f"{name}, {batch} x {amount}: {rows[-1]}", flush=True)
    ours = {
        (row["batch"], row["tokens"]): row["tokens_per_second"]
        for row in rows
        if row["model"] == OURS
    }
    for row in rows:
        own, theirs = ours.get((row["batch"], row["tokens"])), row["tokens_per_second"]
        row["ours_is_faster"] = own / theirs if own and theirs else None
    write_report(work, rows, limits, output, "batch" if work == "decode" else "tokens")


def make_row(task: dict, found: dict) -> dict:
    """Make a row of the table.

    Args:
        task: Task of `measure_in_subprocess`.
        found: Its result.
    """
    seconds = found.get("seconds")
    batch, amount = task["batch"], task["amount"]
    return {
        "model": task["implementation"],
        "batch": batch,
        "tokens": amount,
        "tokens_per_second": seconds and batch * amount / seconds,
        "ms_per_step": seconds and 1e3 * seconds / (amount if task["work"] == "decode" else 1),
        "peak_gib": found.get("peak_gib"),
        "limit_gflops": found.get("limit_gflops"),
        "parameters_m": found.get("parameters") and found["parameters"] / 1e6,
        "failed": found.get("failed"),
    }


def _state_bytes(model) -> int:
    """Return the size of the state of one sequence."""
    import keras

    leaves = keras.tree.flatten(model.initial_state(1))
    return sum(keras.ops.convert_to_numpy(leaf).nbytes for leaf in leaves)


if __name__ == "__main__":
    run_task(sys.argv[1])
