"""What is compiled for TPUs, one part in a process: `python -m ...tpu_programs TASK`.

Libtpu compiles for a described topology without any chip. What comes out is the program that
would run; the compiler refuses one that does not fit into the chip's memory.
"""

import json
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import keras
from jax.experimental.topologies import get_topology_desc
from jax.sharding import Mesh

from keras_speechssm.benchmarks import tpu_training
from keras_speechssm.benchmarks.tpu_shapes import (
    WINDOW_TOKENS,
    UncompiledSpeechSSM,
    abstract,
    changed_sizes,
    placed,
)
from keras_speechssm.preset_files import first_line
from keras_speechssm.shapes import FRAMES_PER_TOKEN
from keras_speechssm.soundstorm.decoding import decode_pass_of
from keras_speechssm.soundstorm.soundstorm import SoundStorm
from keras_speechssm.speech_lm.generation import BLOCK_SIZE, block_sampler, prompt_reader
from keras_speechssm.speech_lm.griffin_backbone import GriffinBackbone


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
    return _inference_program(mesh, model, block_sampler(model, None, False), arguments, (0, 1))


def _prefill_program(task: dict, mesh):
    model, state, logits = _make_speech_lm(task)
    chunk = (task["batch_size"], BLOCK_SIZE)
    tokens, mask = (jax.ShapeDtypeStruct(chunk, dtype) for dtype in ("int32", "bool"))
    arguments = (state, logits, tokens, mask)
    return _inference_program(mesh, model, prompt_reader(model), arguments, (0, 1))


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
    return _inference_program(mesh, model, decode_pass_of(model), arguments)


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
