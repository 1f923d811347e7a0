"""h_t = a_t * h_{t-1} + b_t as a Pallas kernel that reads or writes every array once.

On TPU the blocks of time follow one another, and the state stays on the chip between them. On
GPU each program processes the whole sequence of a few channels. Batch and channels may be sharded
over devices, time may not. Over several TPUs the kernel works inside `jax.shard_map` only, because
XLA cannot partition it there (jax-ml/jax#38196).
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu

_TIME_BLOCK = 256
_TPU_CHANNELS = 512
_GPU_CHANNELS = 128
_ROWS = 8
"""Number of unrolled steps: the rows of a tile of TPU memory."""


def recurrence_kernel(a, b, initial_state, reverse=False, platform="tpu", interpret=False):
    """Computes all states of the recurrence.

    Args:
        a: float32 (batch, time, dim), the decays.
        b: float32 (batch, time, dim), the inputs.
        initial_state: float32 (batch, dim), the state before the first step.
        reverse: Runs from the last step to the first. Defaults to `False`.
        platform: Form of the kernel, `"tpu"` or `"gpu"`. Defaults to `"tpu"`.
        interpret: Lets JAX interpret the kernel, slowly, on any device, for tests. Defaults to
            `False`.

    Returns:
        The states, float32 (batch, time, dim).
    """
    return _partitioned(a, b, initial_state, reverse, platform, interpret)


def _unpartitioned(a, b, initial_state, reverse, platform, interpret):
    _, time, dim = a.shape
    if platform == "gpu":
        time_block, channels = 1, _GPU_CHANNELS
        run = _on_gpu
    else:
        time_block = min(_TIME_BLOCK, -(-time // _ROWS) * _ROWS)
        channels = min(_TPU_CHANNELS, -(-dim // 128) * 128)
        run = functools.partial(_on_tpu, time_block=time_block)
    fill = ((0, 0), (0, -time % time_block), (0, -dim % channels))
    # a = 1 and b = 0 keep the state in the padding, which comes first in reverse.
    a = jnp.pad(a, fill, constant_values=1.0)
    b = jnp.pad(b, fill)
    initial_state = jnp.pad(initial_state, (fill[0], fill[2]))[:, None]
    states = run(a, b, initial_state, reverse, channels, interpret)
    return states[:, :time, :dim]


def _on_tpu(a, b, initial_state, reverse, channels, interpret, time_block):
    batch, time, dim = a.shape
    num_blocks = time // time_block

    def kernel(a_ref, b_ref, initial_ref, states_ref, carry_ref):
        @pl.when(pl.program_id(2) == 0)
        def _():
            carry_ref[...] = initial_ref[0]

        def step(number, state):
            row = pl.ds(time_block - 1 - number if reverse else number, 1)
            state = a_ref[0, row, :] * state + b_ref[0, row, :]
            states_ref[0, row, :] = state
            return state

        carry_ref[...] = jax.lax.fori_loop(0, time_block, step, carry_ref[...], unroll=_ROWS)

    def place(row, channel, block):
        return row, num_blocks - 1 - block if reverse else block, channel

    sequence = pl.BlockSpec((1, time_block, channels), place)
    return pl.pallas_call(
        kernel,
        grid=(batch, dim // channels, num_blocks),
        in_specs=[
            sequence,
            sequence,
            pl.BlockSpec((1, 1, channels), lambda row, channel, block: (row, 0, channel)),
        ],
        out_specs=sequence,
        out_shape=jax.ShapeDtypeStruct(a.shape, "float32"),
        scratch_shapes=[pltpu.VMEM((1, channels), "float32")],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        interpret=interpret,
        name="linear_recurrence",
    )(a, b, initial_state)


def _on_gpu(a, b, initial_state, reverse, channels, interpret):
    batch, time, dim = a.shape

    def kernel(a_ref, b_ref, initial_ref, states_ref):
        row = pl.program_id(0)
        some = pl.ds(pl.program_id(1) * channels, channels)

        def step(number, state):
            t = time - 1 - number if reverse else number
            state = a_ref[row, t, some] * state + b_ref[row, t, some]
            states_ref[row, t, some] = state
            return state

        jax.lax.fori_loop(0, time, step, initial_ref[row, 0, some])

    return pl.pallas_call(
        kernel,
        grid=(batch, dim // channels),
        out_shape=jax.ShapeDtypeStruct(a.shape, "float32"),
        compiler_params=plgpu.CompilerParams(num_warps=channels // 32),
        interpret=interpret,
        name="linear_recurrence",
    )(a, b, initial_state)


def _partition(reverse, platform, interpret, mesh, arguments, result):
    shardings = tuple(argument.sharding for argument in arguments)
    options = {"reverse": reverse, "platform": platform, "interpret": interpret}
    run = functools.partial(_unpartitioned, **options)
    return mesh, run, result.sharding, shardings


_partitioned = custom_partitioning(_unpartitioned, static_argnums=(3, 4, 5))
_partitioned.def_partition(
    partition=_partition,
    sharding_rule="b t d, b t d, b d -> b t d",
    need_replication_factors=("t",),
)
