"""What is compiled for TPUs, one part in a process: `python -m ...tpu_programs TASK`.

Libtpu compiles for a described topology without any chip. What comes out is the program that
would run; the compiler refuses one that does not fit into the chip's memory.
"""

import functools
import json
import math
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

from keras_speechssm.preset_files import first_line
from keras_speechssm.preset_registry import resolve_preset
from keras_speechssm.shapes import FRAMES_PER_TOKEN
from keras_speechssm.soundstorm.decoding import decode_pass_of
from keras_speechssm.soundstorm.soundstorm import SoundStorm
from keras_speechssm.speech_lm.generation import BLOCK_SIZE, block_sampler, prompt_reader
from keras_speechssm.speech_lm.griffin_backbone import GriffinBackbone
from keras_speechssm.speech_lm.speech_ssm import SpeechSSM
from keras_speechssm.training.speech_lm import make_optimizer


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
CHIPS = {"decode": (V5E, 1), "prefill": (V5E, 1), "soundstorm": (V5E, 1), "train": (V5P, 16)}
"""Each part: the chip that it is compiled for, and how many."""

WINDOW_TOKENS = 750
"""30 s at 25 Hz, SoundStorm's window."""

_EACH, _SPLIT = PartitionSpec(), PartitionSpec("batch")
_ITEM_BYTES = {"f64": 8, "i64": 8, "f32": 4, "i32": 4, "bf16": 2, "f16": 2}
_COLLECTIVE = re.compile(
    r"stablehlo\.(?:all_reduce|all_gather|reduce_scatter|all_to_all|collective_permute)\b"
    r"[\s\S]*? -> (.*)"
)


def read_sizes(preset: str) -> dict:
    """The config of a preset that holds one model."""
    path = Path(resolve_preset(preset)) / "config.json"
    return json.loads(path.read_text(encoding="utf-8"))["config"]


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
        "collective_bytes": collective_bytes(program),
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


def _abstract() -> keras.StatelessScope:
    """A scope in which new variables are shapes only: 2 B parameters need not lie anywhere."""
    return keras.StatelessScope(initialize_variables=False)


class _UncompiledSpeechSSM(SpeechSSM):
    """Without an optimizer, whose variables would have values."""

    def compile(self, *args, **kwargs):
        pass


def _changed_sizes(task: dict, dtype: str) -> dict:
    config = read_sizes(task["preset"])
    changes = {name: value for name, value in task["size"].items() if name in config}
    return {**config, **changes, "dtype": dtype}


def _placed(mesh, tree, spec=_EACH):
    """The shapes of a nested structure on the chips: whole on each one, unless split."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype, sharding=sharding), tree
    )


def _inference_program(mesh, model, function: Callable, arguments, donated: Sequence[int] = ()):
    """`function` of `arguments` and of the model's weights, as `compile_inference` has it."""

    def stateless(values, *arguments):
        mapping = list(zip(model.variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping, initialize_variables=False):
            return function(*arguments)

    jitted = jax.jit(stateless, donate_argnums=[position + 1 for position in donated])
    return jitted, _placed(mesh, (model.variables, *arguments)), model.count_params()


def _make_speech_lm(task: dict) -> tuple:
    """The model in bfloat16, the shapes of its state and of the logits."""
    with _abstract():
        model = _UncompiledSpeechSSM(GriffinBackbone(**_changed_sizes(task, "bfloat16")))
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
    with _abstract():
        model = SoundStorm(**_changed_sizes(task, "bfloat16"))
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


def _train_program(task: dict, mesh):
    """Forward, loss, gradients and AdamW, the blocks computed again in the backward pass."""
    optimizer = make_optimizer()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sizes = _changed_sizes(task, "mixed_bfloat16")
    blocks = [f"griffin_block_{number}" for number in range(sizes["num_layers"])]
    with _abstract(), keras.RematScope("list_of_layers", layer_names=blocks):
        model = _UncompiledSpeechSSM(GriffinBackbone(**sizes))
        optimizer.build(model.trainable_variables)

    # By hand: XLA does not partition the recurrence's kernel on TPU (jax-ml/jax#38196).
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(_EACH, _EACH, _SPLIT, _SPLIT),
        out_specs=_EACH,
        check_vma=False,
    )
    def step(weights, moments, tokens, targets):
        def loss_of(weights):
            logits, _ = model.stateless_call(weights, [], {"token_ids": tokens}, training=True)
            return loss(targets, logits)

        with _abstract():
            value, gradients = jax.lax.pmean(jax.value_and_grad(loss_of)(weights), "batch")
            return value, *optimizer.stateless_apply(moments, gradients, weights)

    state = _placed(mesh, (model.trainable_variables, optimizer.variables))
    tokens = jax.ShapeDtypeStruct((task["batch_size"], task["length"]), "int32")
    tokens = _placed(mesh, tokens, _SPLIT)
    jitted = jax.jit(step, donate_argnums=(0, 1))
    return jitted, (*state, tokens, tokens), model.count_params()


PROGRAMS = {
    "decode": _decode_program,
    "prefill": _prefill_program,
    "soundstorm": _soundstorm_program,
    "train": _train_program,
}
"""Each part: function of task and mesh -> jitted function, its arguments, parameters."""


if __name__ == "__main__":
    print(json.dumps(compile_part(json.loads(sys.argv[1]))))
