"""What is compiled for TPUs, one part in a process: `python -m ...tpu_programs TASK`.

Libtpu compiles for a described topology without any chip. What comes out is the program that
would run; the compiler refuses one that does not fit into the chip's memory.
"""

import functools
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import keras
from jax.experimental.topologies import get_topology_desc
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from keras_speechssm.benchmarks import tpu_compile as tpu_programs
from keras_speechssm.benchmarks import tpu_compile as tpu_training
from keras_speechssm.benchmarks.measurement import check_output, describe_machine, format_table
from keras_speechssm.checks import first_line
from keras_speechssm.files import write_json
from keras_speechssm.models.generation import BLOCK_SIZE, make_prefill, make_sample_block
from keras_speechssm.models.griffin.griffin_backbone import GriffinBackbone
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.models.soundstorm.decoding import make_decode_pass
from keras_speechssm.models.soundstorm.soundstorm import SoundStorm
from keras_speechssm.models.soundstream.soundstream import SoundStream
from keras_speechssm.models.speech_ssm.speech_ssm import SpeechSSM
from keras_speechssm.presets import resolve_preset
from keras_speechssm.shapes import FRAMES_PER_TOKEN, SAMPLE_RATE, SAMPLES_PER_TOKEN
from keras_speechssm.training.adversarial import AdversarialCodec, Discriminators
from keras_speechssm.training.codec import compile_codec
from keras_speechssm.training.soundstorm import compile_soundstorm
from keras_speechssm.training.speech_lm import make_optimizer
from keras_speechssm.training.tokenizer import compile_tokenizer

WINDOW_TOKENS = 750
"""30 s at 25 Hz, SoundStorm's window."""

EACH, SPLIT = PartitionSpec(), PartitionSpec("batch")
"""On every chip whole, or shared out by its first dimension."""


def read_sizes(preset: str) -> dict:
    """The config of a preset that holds one model."""
    path = Path(resolve_preset(preset)) / "config.json"
    return json.loads(path.read_text(encoding="utf-8"))["config"]


def abstract() -> keras.StatelessScope:
    """A scope in which new variables are shapes only: 2 B parameters need not lie anywhere."""
    return keras.StatelessScope(initialize_variables=False)


class UncompiledSpeechSSM(SpeechSSM):
    """Without an optimizer, whose variables would have values."""

    def compile(self, *args, **kwargs):
        pass


def changed_sizes(task: dict, dtype: str) -> dict:
    config = read_sizes(task["preset"])
    changes = {name: value for name, value in task["size"].items() if name in config}
    return {**config, **changes, "dtype": dtype}


def placed(mesh, tree, spec=EACH):
    """The shapes of a nested structure on the chips: whole on each one, unless split."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype, sharding=sharding), tree
    )


def shape(*shape: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def speech_lm_program(task: dict, mesh):
    """Forward, loss, gradients and AdamW, the blocks computed again in the backward pass."""
    optimizer = make_optimizer()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sizes = changed_sizes(task, "mixed_bfloat16")
    blocks = [f"griffin_block_{number}" for number in range(sizes["num_layers"])]
    with abstract(), keras.RematScope("list_of_layers", layer_names=blocks):
        model = UncompiledSpeechSSM(GriffinBackbone(**sizes))
        optimizer.build(model.trainable_variables)

    # By hand: XLA does not partition the recurrence's kernel on TPU (jax-ml/jax#38196).
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(EACH, EACH, SPLIT, SPLIT),
        out_specs=EACH,
        check_vma=False,
    )
    def step(weights, moments, tokens, targets):
        def loss_of(weights):
            logits, _ = model.stateless_call(weights, [], {"token_ids": tokens}, training=True)
            return loss(targets, logits)

        with abstract():
            value, gradients = jax.lax.pmean(jax.value_and_grad(loss_of)(weights), "batch")
            return value, *optimizer.stateless_apply(moments, gradients, weights)

    state = placed(mesh, (model.trainable_variables, optimizer.variables))
    tokens = jax.ShapeDtypeStruct((task["batch_size"], task["length"]), "int32")
    tokens = placed(mesh, tokens, SPLIT)
    jitted = jax.jit(step, donate_argnums=(0, 1))
    return jitted, (*state, tokens, tokens), model.count_params()


def _fit_program(mesh, make_model: Callable, compile_model: Callable, data: tuple):
    """A step of Keras' own `fit`, its batch shared out over the chips."""
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
    arguments = placed(mesh, state), placed(mesh, data, SPLIT)
    return jitted, arguments, model.count_params()


def soundstorm_program(task: dict, mesh):
    config = changed_sizes(task, "mixed_bfloat16")
    frames = (task["batch_size"], WINDOW_TOKENS * FRAMES_PER_TOKEN)
    inputs = {
        "semantic_tokens": shape(task["batch_size"], WINDOW_TOKENS, dtype="int32"),
        "acoustic_tokens": shape(*frames, config["num_levels"], dtype="int32"),
        "level": shape(task["batch_size"], dtype="int32"),
        "padding_mask": shape(*frames, dtype="bool"),
    }
    data = inputs, shape(*frames, dtype="int32"), shape(*frames)
    return _fit_program(mesh, lambda: SoundStorm(**config), compile_soundstorm, data)


def tokenizer_program(task: dict, mesh):
    config, time = changed_sizes(task, "mixed_bfloat16"), (task["batch_size"], WINDOW_TOKENS)
    inputs = {
        "waveform": shape(time[0], time[1] * SAMPLES_PER_TOKEN),
        "padding_mask": shape(*time, dtype="bool"),
    }
    labels = {"phoneme_logits": shape(time[0], 2, time[1], dtype="int32")}
    model = functools.partial(SemanticTokenizer, **config)
    return _fit_program(mesh, model, compile_tokenizer, (inputs, labels))


def codec_program(task: dict, mesh):
    crops = shape(task["batch_size"], SAMPLE_RATE)

    def make_model():
        codec = SoundStream(**changed_sizes(task, "mixed_bfloat16"))
        model = AdversarialCodec(codec, Discriminators())
        model.build_on(SAMPLE_RATE)
        return model

    compile_model = functools.partial(compile_codec, has_pitch=False)
    return _fit_program(mesh, make_model, compile_model, (crops, crops))


class Chip(NamedTuple):
    """A kind of TPU, with what its maker publishes for one chip.

    Attributes:
        topology: str. Name of the slice that libtpu describes.
        accelerator: str. The same slice as `TPU_ACCELERATOR_TYPE` has it.
        hbm_gib: float.
        flops: float. Operations a second in bfloat16.
        bytes_per_second: float. From and to HBM.
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
"""Each part: the chip that it is compiled for, and how many."""

PARTITIONED = ("train_soundstorm", "train_tokenizer", "train_codec")
"""Parts that the compiler shares out over the chips by itself."""

_ITEM_BYTES = {"f64": 8, "i64": 8, "f32": 4, "i32": 4, "bf16": 2, "f16": 2}
_COLLECTIVE = re.compile(
    r"stablehlo\.(?:all_reduce|all_gather|reduce_scatter|all_to_all|collective_permute)\b"
    r"[\s\S]*? -> (.*)"
)


def compile_part(task: dict) -> dict:
    """Compiles one part in this process, which must have the environment of its topology.

    Args:
        task: `part`, a key of `CHIPS`; `batch_size`; `preset`; `size`, what overrides it;
            `length` in tokens for training.

    Returns:
        Numbers for one chip, or `failed` where the program does not fit.
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
        # Not of the compiled program, whose text an older jaxlib than libtpu cannot always read.
        # Where the compiler itself puts them in, they are not known.
        "collective_bytes": None if task["part"] in PARTITIONED else collective_bytes(program),
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
        # Negative where the compiler cannot tell, such as for loops and kernels.
        "compiler_seconds": seconds if seconds > 0 else None,
    }


def collective_bytes(program: str) -> int:
    """Bytes of the results of all collective operations in a StableHLO text."""
    total = 0
    for results in _COLLECTIVE.findall(program):
        for sizes, kind in re.findall(r"tensor<((?:\d+x)*)(\w+)>", results):
            total += _ITEM_BYTES.get(kind, 1) * math.prod(int(n) for n in sizes.split("x") if n)
    return total


def _inference_program(mesh, model, function: Callable, arguments, donated: Sequence[int] = ()):
    """`function` of `arguments` and of the model's weights, as `compile_inference` has it."""

    def stateless(values, *arguments):
        mapping = list(zip(model.variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping, initialize_variables=False):
            return function(*arguments)

    jitted = jax.jit(stateless, donate_argnums=[position + 1 for position in donated])
    return jitted, placed(mesh, (model.variables, *arguments)), model.count_params()


def _make_speech_lm(task: dict) -> tuple:
    """The model in bfloat16, the shapes of its state and of the logits."""
    with abstract():
        model = UncompiledSpeechSSM(GriffinBackbone(**changed_sizes(task, "bfloat16")))
    batch = task["batch_size"]
    logits = jax.ShapeDtypeStruct((batch, model.backbone.vocabulary_size), "float32")
    return model, jax.eval_shape(lambda: model.initial_state(batch)), logits


def _decode_program(task: dict, mesh):
    model, state, logits = _make_speech_lm(task)
    number, count = (jax.ShapeDtypeStruct((), dtype) for dtype in ("float32", "int32"))
    uniforms = jax.ShapeDtypeStruct((BLOCK_SIZE, task["batch_size"]), "float32")
    arguments = (state, logits, uniforms, count, number, number)
    return _inference_program(mesh, model, make_sample_block(model, None, False), arguments, (0, 1))


def _prefill_program(task: dict, mesh):
    model, state, logits = _make_speech_lm(task)
    chunk = (task["batch_size"], BLOCK_SIZE)
    tokens, mask = (jax.ShapeDtypeStruct(chunk, dtype) for dtype in ("int32", "bool"))
    arguments = (state, logits, tokens, mask)
    return _inference_program(mesh, model, make_prefill(model), arguments, (0, 1))


def _soundstorm_program(task: dict, mesh):
    with abstract():
        model = SoundStorm(**changed_sizes(task, "bfloat16"))
    batch, frames = task["batch_size"], WINDOW_TOKENS * FRAMES_PER_TOKEN
    arguments = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in [
            ((batch, WINDOW_TOKENS), "int32"),
            ((batch, frames), "bool"),
            ((batch, frames, model.num_levels), "int32"),
            ((batch, frames), "bool"),
            ((batch,), "int32"),
            ((batch,), "int32"),
            ((batch, frames), "float32"),
            ((), "float32"),
        ]
    ]
    return _inference_program(mesh, model, make_decode_pass(model), arguments)


PROGRAMS = {
    "decode": _decode_program,
    "prefill": _prefill_program,
    "soundstorm": _soundstorm_program,
    "train": tpu_training.speech_lm_program,
    "train_soundstorm": tpu_training.soundstorm_program,
    "train_tokenizer": tpu_training.tokenizer_program,
    "train_codec": tpu_training.codec_program,
}
"""Each part: function of task and mesh -> jitted function, its arguments, parameters."""


if __name__ == "__main__":
    print(json.dumps(compile_part(json.loads(sys.argv[1]))))

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
        raise ValueError(f"train_batch_size is {train_batch_size}; give a multiple of {chips}.")
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("libtpu is not installed: it comes with the extra tpu.")


def compile_in_subprocess(task: dict, timeout: float) -> dict:
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
