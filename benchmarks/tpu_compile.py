"""Compile the models for TPUs without one, and report what they need of a chip.

python benchmarks/tpu_compile.py --parts decode train --output tpu.json

Requires the extra `tpu`. Libtpu compiles for a described topology without any chip. The result is
the program that would run, and the compiler refuses one that does not fit in the chip's memory.
The table has the numbers for one chip. The compiler counts the body of a loop once, so decoding
counts one token, and training lacks most of its attention and of its kernels' work. It also counts
moves within the chip as bytes. `seconds_at_least` is the time of the operations or of reading
weights and inputs once, whichever is longer, at the published speeds.
"""

import argparse
import functools
import importlib.util
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import keras
from jax.experimental.topologies import get_topology_desc
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from keras_speechssm.benchmarks.measurement import (
    check_output,
    describe_machine,
    format_table,
    run_in_subprocess,
)
from keras_speechssm.checks import first_line
from keras_speechssm.files import write_json
from keras_speechssm.models.generation import BLOCK_SIZE, make_prefill, make_sample_block
from keras_speechssm.models.griffin.griffin_backbone import GriffinBackbone
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer_pretraining import (
    SemanticTokenizerPretraining,
)
from keras_speechssm.models.soundstorm.decoding import make_decode_pass
from keras_speechssm.models.soundstorm.soundstorm import SoundStorm
from keras_speechssm.models.soundstream.soundstream import SoundStream
from keras_speechssm.models.speech_ssm.speech_ssm import SpeechSSM
from keras_speechssm.presets import resolve_preset
from keras_speechssm.shapes import FRAMES_PER_TOKEN, SAMPLE_RATE, SAMPLES_PER_TOKEN
from keras_speechssm.training.adversarial import AdversarialCodec, Discriminators
from keras_speechssm.training.codec import compile_codec
from keras_speechssm.training.soundstorm import compile_soundstorm
from keras_speechssm.training.tokenizer import compile_tokenizer
from keras_speechssm.windows import TOKENIZER_WINDOW


class Chip(NamedTuple):
    """A kind of TPU, with the published numbers for one chip.

    Attributes:
        topology: str. Name of the slice that libtpu describes.
        accelerator: str. The same slice as the value of `TPU_ACCELERATOR_TYPE`.
        hbm_gib: float. Memory.
        flops: float. Operations per second in bfloat16.
        bytes_per_second: float. Bandwidth of the memory.
    """

    topology: str
    accelerator: str
    hbm_gib: float
    flops: float
    bytes_per_second: float


V5E = Chip("v5e:2x2", "v5litepod-4", 16.0, 197e12, 819e9)
V5P = Chip("v5p:2x2x4", "v5p-32", 95.0, 459e12, 2765e9)
CHIPS = {
    "decode": (V5E, 1),
    "prefill": (V5E, 1),
    "soundstorm": (V5E, 1),
    "train": (V5P, 16),
    "train_soundstorm": (V5P, 16),
    "train_tokenizer": (V5P, 16),
    "train_codec": (V5P, 16),
}
"""The chip of each part, and the number of chips."""

_PARTITIONED = ("train_soundstorm", "train_tokenizer", "train_codec")
"""Parts that the compiler itself partitions over the chips."""

_REPLICATED, _SPLIT = PartitionSpec(), PartitionSpec("batch")

_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "KERAS_BACKEND": "jax",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    # The lock protects chips, which are not used here.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

_ITEM_BYTES = {"f64": 8, "i64": 8, "f32": 4, "i32": 4, "bf16": 2, "f16": 2}
_COLLECTIVE = re.compile(
    r"stablehlo\.(?:all_reduce|all_gather|reduce_scatter|all_to_all|collective_permute)\b"
    r"[\s\S]*? -> (.*)"
)


# === The programs: function of task and mesh -> jitted function, arguments, parameters ===


class UncompiledSpeechSSM(SpeechSSM):
    """A `SpeechSSM` without an optimizer, whose variables would have values."""

    def compile(self, *args, **kwargs):
        pass


def abstract() -> keras.StatelessScope:
    """Return a scope in which new variables are shapes only and take no memory."""
    return keras.StatelessScope(initialize_variables=False)


def read_sizes(preset: str) -> dict:
    """Read the config of a preset with one model."""
    path = Path(resolve_preset(preset)) / "config.json"
    return json.loads(path.read_text(encoding="utf-8"))["config"]


def _changed_sizes(task: dict, dtype: str) -> dict:
    """Read the config of a task's preset, with the task's sizes and a dtype."""
    config = read_sizes(task["preset"])
    changes = {name: value for name, value in task["size"].items() if name in config}
    return {**config, **changes, "dtype": dtype}


def _placed(mesh, tree, spec=_REPLICATED):
    """Place the shapes of a nested structure on the chips."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype, sharding=sharding), tree
    )


def _shape(*shape: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _inference_program(mesh, model, function: Callable, arguments, donated: Sequence[int] = ()):
    """Make a program of `function`, as `keras_speechssm.compilation` compiles it."""

    def stateless(values, *arguments):
        mapping = list(zip(model.variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping, initialize_variables=False):
            return function(*arguments)

    jitted = jax.jit(stateless, donate_argnums=[position + 1 for position in donated])
    return jitted, _placed(mesh, (model.variables, *arguments)), model.count_params()


def _make_speech_lm(task: dict) -> tuple:
    """Make the model in bfloat16, and the shapes of its state and of the logits."""
    with abstract():
        model = UncompiledSpeechSSM(GriffinBackbone(**_changed_sizes(task, "bfloat16")))
    batch = task["batch_size"]
    logits = _shape(batch, model.backbone.vocabulary_size)
    return model, jax.eval_shape(lambda: model.initial_state(batch)), logits


def _decode_program(task: dict, mesh):
    model, state, logits = _make_speech_lm(task)
    uniforms = _shape(BLOCK_SIZE, task["batch_size"])
    count, number = _shape(dtype="int32"), _shape()
    arguments = (state, logits, uniforms, count, number, number)
    return _inference_program(mesh, model, make_sample_block(model, None, False), arguments, (0, 1))


def _prefill_program(task: dict, mesh):
    model, state, logits = _make_speech_lm(task)
    chunk = (task["batch_size"], BLOCK_SIZE)
    arguments = (state, logits, _shape(*chunk, dtype="int32"), _shape(*chunk, dtype="bool"))
    return _inference_program(mesh, model, make_prefill(model), arguments, (0, 1))


def _soundstorm_inputs(batch: int, num_levels: int) -> dict:
    frames = (batch, TOKENIZER_WINDOW * FRAMES_PER_TOKEN)
    return {
        "semantic_tokens": _shape(batch, TOKENIZER_WINDOW, dtype="int32"),
        "acoustic_tokens": _shape(*frames, num_levels, dtype="int32"),
        "level": _shape(batch, dtype="int32"),
        "padding_mask": _shape(*frames, dtype="bool"),
    }


def _soundstorm_program(task: dict, mesh):
    with abstract():
        model = SoundStorm(**_changed_sizes(task, "bfloat16"))
    batch = task["batch_size"]
    inputs = _soundstorm_inputs(batch, model.num_levels)
    frames = inputs["padding_mask"].shape
    masked, counts = _shape(*frames, dtype="bool"), _shape(batch, dtype="int32")
    arguments = (inputs, masked, counts, _shape(*frames), _shape())
    return _inference_program(mesh, model, make_decode_pass(model), arguments)


def _train_program(task: dict, mesh):
    """Make a training step with AdamW; the backward pass recomputes the blocks."""
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.1, global_clipnorm=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sizes = _changed_sizes(task, "mixed_bfloat16")
    blocks = [f"griffin_block_{index}" for index in range(sizes["num_layers"])]
    with abstract(), keras.RematScope("list_of_layers", layer_names=blocks):
        model = UncompiledSpeechSSM(GriffinBackbone(**sizes))
        optimizer.build(model.trainable_variables)

    # Partitioned by hand, because XLA does not partition the recurrence's kernel on TPU
    # (jax-ml/jax#38196).
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(_REPLICATED, _REPLICATED, _SPLIT, _SPLIT),
        out_specs=_REPLICATED,
        check_vma=False,
    )
    def step(weights, moments, tokens, targets):
        def loss_of(weights):
            logits, _ = model.stateless_call(weights, [], {"token_ids": tokens}, training=True)
            return loss(targets, logits)

        with abstract():
            value, gradients = jax.lax.pmean(jax.value_and_grad(loss_of)(weights), "batch")
            return value, *optimizer.stateless_apply(moments, gradients, weights)

    state = _placed(mesh, (model.trainable_variables, optimizer.variables))
    tokens = _placed(mesh, _shape(task["batch_size"], task["length"], dtype="int32"), _SPLIT)
    jitted = jax.jit(step, donate_argnums=(0, 1))
    return jitted, (*state, tokens, tokens), model.count_params()


def _fit_program(mesh, make_model: Callable, compile_model: Callable, data: tuple):
    """Make a step of Keras' own `fit`, its batch split over the chips."""
    with abstract():
        model = make_model()
    compile_model(model)
    with abstract():
        model.optimizer.build(model.trainable_variables)
    model._symbolic_build(data_batch=data)
    state = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    jitted = jax.jit(model.train_step, donate_argnums=0)
    arguments = _placed(mesh, state), _placed(mesh, data, _SPLIT)
    return jitted, arguments, model.count_params()


def _train_soundstorm_program(task: dict, mesh):
    config = _changed_sizes(task, "mixed_bfloat16")
    inputs = _soundstorm_inputs(task["batch_size"], config["num_levels"])
    frames = inputs["padding_mask"].shape
    data = inputs, _shape(*frames, dtype="int32"), _shape(*frames)
    return _fit_program(mesh, lambda: SoundStorm(**config), compile_soundstorm, data)


def _train_tokenizer_program(task: dict, mesh):
    batch = task["batch_size"]
    inputs = {
        "waveform": _shape(batch, TOKENIZER_WINDOW * SAMPLES_PER_TOKEN),
        "padding_mask": _shape(batch, TOKENIZER_WINDOW, dtype="bool"),
    }
    labels = {"phoneme_logits": _shape(batch, 2, TOKENIZER_WINDOW, dtype="int32")}

    def make_model():
        config = _changed_sizes(task, "mixed_bfloat16")
        return SemanticTokenizerPretraining(SemanticTokenizer.from_config(config))

    return _fit_program(mesh, make_model, compile_tokenizer, (inputs, labels))


def _train_codec_program(task: dict, mesh):
    crops = _shape(task["batch_size"], SAMPLE_RATE)

    def make_model():
        codec = SoundStream.from_config(_changed_sizes(task, "mixed_bfloat16"))
        model = AdversarialCodec(codec, Discriminators())
        model.build((None, SAMPLE_RATE))
        return model

    compile_model = functools.partial(compile_codec, has_pitch=False)
    return _fit_program(mesh, make_model, compile_model, (crops, crops))


PROGRAMS = {
    "decode": _decode_program,
    "prefill": _prefill_program,
    "soundstorm": _soundstorm_program,
    "train": _train_program,
    "train_soundstorm": _train_soundstorm_program,
    "train_tokenizer": _train_tokenizer_program,
    "train_codec": _train_codec_program,
}


# === Compilation ===


def compile_part(task: dict) -> dict:
    """Compile one part in this process, which must have the environment of its topology.

    Args:
        task: `part` (a key of `CHIPS`), `batch_size`, `preset`, `size` (sizes that override the
            preset's), and for the part `train` its `length` in tokens.

    Returns:
        The numbers for one chip, or `failed` if the program does not fit.
    """
    chip, chips = CHIPS[task["part"]]
    topology = get_topology_desc(platform="tpu", topology_name=chip.topology)
    mesh = Mesh(topology.devices[:chips], ("batch",))
    start = time.perf_counter()
    function, arguments, parameters = PROGRAMS[task["part"]](task, mesh)
    lowered = function.lower(*arguments)
    program = lowered.as_text()
    found = {
        "parameters_m": parameters / 1e6,
        "pallas": "tpu_custom_call" in program,
        # Of the lowered program: a jaxlib older than libtpu cannot always read the compiled one.
        # They are unknown if the compiler itself inserts the collectives.
        "collective_bytes": None if task["part"] in _PARTITIONED else collective_bytes(program),
    }
    try:
        found.update(_costs(lowered.compile()))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        found["failed"] = first_line(error)
    return {**found, "compile_seconds": time.perf_counter() - start}


def _costs(compiled) -> dict:
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    seconds = costs.get("optimal_seconds", -1.0)
    return {
        "arguments_gib": memory.argument_size_in_bytes / 2**30,
        "hbm_needed_gib": needed / 2**30,
        "flops": costs.get("flops"),
        "bytes_accessed": costs.get("bytes accessed"),
        # Negative if the compiler has no estimate, such as for loops and kernels.
        "compiler_seconds": seconds if seconds > 0 else None,
    }


def collective_bytes(program: str) -> int:
    """Sum the bytes of the results of all collective operations in a StableHLO text."""
    total = 0
    for results in _COLLECTIVE.findall(program):
        for sizes, kind in re.findall(r"tensor<((?:\d+x)*)(\w+)>", results):
            total += _ITEM_BYTES.get(kind, 1) * math.prod(int(n) for n in sizes.split("x") if n)
    return total


def compile_in_subprocess(task: dict, timeout: float) -> dict:
    """Compile one part in a new process, because libtpu reads its environment only once.

    Args:
        task: Argument of `compile_part`.
        timeout: Time limit in seconds.

    Returns:
        The result of `compile_part`, or `{"failed": reason}`.
    """
    accelerator = CHIPS[task["part"]][0].accelerator
    environment = {**os.environ, **_ENVIRONMENT, "TPU_ACCELERATOR_TYPE": accelerator}
    command = [sys.executable, __file__, "--task", json.dumps(task)]
    return run_in_subprocess(command, timeout, environment)


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
    """Compile the models for TPUs, and print a table of what they need; see the module.

    Args:
        parts: Subset of `decode` (a block of 256 tokens), `prefill` (256 tokens of a prompt), and
            `soundstorm` (one pass over a window of 30 s), each in bfloat16 on one v5e; `train` (a
            step of the language model in mixed precision with AdamW on 16 v5p); and the steps of
            `train_soundstorm` and `train_tokenizer` (30 s each) and `train_codec` (1 s each, with
            discriminators), as `fit` runs them.
        batch_size: Number of sequences of all parts that do not train.
        train_batch_size: Number of sequences of a training batch on all chips.
        train_length: Length of a training sequence of the language model in tokens.
        speech_lm: Preset of a `GriffinBackbone`; only its sizes matter.
        soundstorm: Preset of a `SoundStorm`; only its sizes matter.
        tokenizer: Preset of a `SemanticTokenizer`; only its sizes matter.
        codec: Preset of a `SoundStream`; only its sizes matter.
        size: Sizes that override those of the presets, by name.
        timeout: Time limit of each part in seconds.
        output: `.json` file for the results. Defaults to `None` (none).

    Raises:
        ValueError: Libtpu is missing, an argument is invalid, or a part did not compile, for
            example because it does not fit in the memory of its chip.
    """
    _check_arguments(parts, train_batch_size, output)
    presets = (speech_lm, soundstorm, tokenizer, codec)
    unknown = set(size or {}).difference(*map(read_sizes, presets))
    if unknown:
        raise ValueError(
            f"size names {', '.join(sorted(unknown))}, which are not sizes of a model."
        )
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
        rows.append(_row(part, compile_in_subprocess({"part": part, **tasks[part]}, timeout)))
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
        raise ValueError(f"train_batch_size is {train_batch_size}; expected a multiple of {chips}.")
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("libtpu is not installed; install the extra `tpu`.")


def _row(part: str, found: dict) -> dict:
    """Make a row of the table."""
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


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", default=list(CHIPS), help=", ".join(CHIPS))
    parser.add_argument("--batch-size", type=int, default=1, help="of parts that do not train")
    parser.add_argument("--train-batch-size", type=int, default=128, help="on all chips")
    parser.add_argument("--train-length", type=int, default=6000, help="tokens of a sequence")
    for name, default in (
        ("speech-lm", "speech_ssm_2b"),
        ("soundstorm", "soundstorm_600m"),
        ("tokenizer", "semantic_tokenizer_600m"),
        ("codec", "soundstream_16khz"),
    ):
        parser.add_argument(f"--{name}", default=default, help="preset; only its sizes matter")
    parser.add_argument("--size", type=json.loads, help="sizes that override the presets', as JSON")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds per part")
    parser.add_argument("--output", help=".json file for the results")
    arguments = parser.parse_args(argv)
    try:
        bench_tpu(**vars(arguments))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--task"]:  # A subprocess of `bench_tpu`.
        print(json.dumps(compile_part(json.loads(sys.argv[2]))))
    else:
        main()
