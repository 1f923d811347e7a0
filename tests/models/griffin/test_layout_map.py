"""Model parallelism on eight simulated devices, in a separate process: JAX counts them once."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from keras_speechssm.models.griffin.griffin_backbone import GriffinBackbone

pytestmark = pytest.mark.any_backend

EXPECTED = {
    "token_embedding/embeddings": ("model", "data"),
    "linear_x/kernel": ("data", "model"),
    "linear_y/kernel": ("data", "model"),
    "linear_x/bias": ("model",),
    "linear_y/bias": ("model",),
    "linear_out/kernel": ("model", "data"),
    "conv_1d/kernel": (None, "model"),
    "conv_1d/bias": ("model",),
    "rg_lru/a_param": ("model",),
    "query_dense/kernel": ("data", "model"),
    "key_dense/kernel": ("data", None),
    "value_dense/kernel": ("data", None),
    "output_dense/kernel": ("model", "data"),
    "gate_dense/kernel": ("data", "model"),
    "up_dense/kernel": ("data", "model"),
    "gate_dense/bias": ("model",),
    "up_dense/bias": ("model",),
    "down_dense/kernel": ("model", "data"),
}
REPLICATED = {
    "temporal_pre_norm/scale",
    "channel_pre_norm/scale",
    "final_norm/scale",
    "input_gate/kernel",
    "input_gate/bias",
    "a_gate/kernel",
    "a_gate/bias",
    "linear_out/bias",
    "output_dense/bias",
    "down_dense/bias",
}

ON_EIGHT_DEVICES = """
import keras
import numpy as np
from test_layout_map import EXPECTED, REPLICATED
from keras_speechssm.speech_lm import GriffinBackbone, SpeechSSM

SIZES = dict(
    vocabulary_size=12, num_layers=2, hidden_dim=8, intermediate_dim=12, num_heads=2,
    attention_window=4, block_pattern=("recurrent", "attention"),
)
tokens = np.random.default_rng(0).integers(0, 12, (4, 9)).astype("int32")
plain = SpeechSSM(GriffinBackbone(**SIZES))
expected, weights = plain.predict(tokens, verbose=0), plain.get_weights()

mesh = keras.distribution.DeviceMesh((2, 4), ("data", "model"))
layout_map = GriffinBackbone.get_layout_map(mesh)
parallel = keras.distribution.ModelParallel(layout_map=layout_map, batch_dim_name="data")
with parallel.scope():
    model = SpeechSSM(GriffinBackbone(**SIZES))
    model.set_weights(weights)
    kinds = set()
    for weight in model.weights:
        kind = "/".join(weight.path.split("/")[-2:])
        kinds.add(kind)
        found = tuple(weight.value.sharding.spec)
        axes = EXPECTED.get(kind, ())
        assert kind in EXPECTED or kind in REPLICATED, kind
        pad = (None,) * len(weight.shape)
        assert (found + pad)[:len(pad)] == (axes + pad)[:len(pad)], (kind, found, axes)
    assert kinds == set(EXPECTED) | REPLICATED, kinds ^ (set(EXPECTED) | REPLICATED)
    np.testing.assert_allclose(model.predict(tokens, verbose=0), expected, atol=1e-5)
    model.compile()
    model.fit(tokens[:, :-1], tokens[:, 1:], batch_size=4, verbose=0)
    model.backbone.enable_lora(2)
    for weight in model.backbone.trainable_variables:
        assert layout_map[weight.path] is None, weight.path
print("parallel")
"""


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras distributes on JAX")
def test_weights_lie_as_planned_on_eight_devices_and_outputs_stay():
    tests = Path(__file__).parents[2]
    search = os.pathsep.join([str(tests.parent.parent), str(tests)])
    result = subprocess.run(
        [sys.executable, "-c", ON_EIGHT_DEVICES],
        env={
            **os.environ,
            "PYTHONPATH": search,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            "JAX_PLATFORMS": "cpu",
        },
        capture_output=True,
        text=True,
    )
    assert result.stdout == "parallel\n", result.stderr


def test_no_mesh_or_another_axis_is_refused():
    with pytest.raises(ValueError, match="DeviceMesh"):
        GriffinBackbone.get_layout_map("mesh")
    mesh = keras.distribution.DeviceMesh((1, 1), ("data", "model"), devices=["cpu:0"])
    with pytest.raises(ValueError, match="not 'tensor'"):
        GriffinBackbone.get_layout_map(mesh, model_parallel_dim_name="tensor")


def test_each_pattern_means_one_kind_of_variable():
    mesh = keras.distribution.DeviceMesh((1, 1), ("data", "model"), devices=["cpu:0"])
    layout_map = GriffinBackbone.get_layout_map(mesh)
    block, stray = "griffin_block_12/temporal_block", "soundstorm/"
    named = layout_map[f"{block}/linear_x/kernel"]
    assert named.axes == ("data", "model")
    for path in (f"{stray}{block}/linear_x/kernel", f"{block}/linear_x/kernel_scale"):
        assert layout_map[path] is None
    assert layout_map[f"{block}/linear_x/lora_kernel_a"] is None
