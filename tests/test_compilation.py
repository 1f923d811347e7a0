"""Compiled functions see the weights that a model has, not those that it had."""

import copy

import keras
import numpy as np
import pytest

from keras_speechssm.compilation import CompiledFunctions, compile_inference


@pytest.mark.parametrize("change", ["values", "lora", "int8"])
def test_changed_weights_are_seen(change):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="dense")])
    compiled = compile_inference(model, model)
    x = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=(2, 8)), dtype="float32")
    before = keras.ops.convert_to_numpy(compiled(x))
    dense = model.get_layer("dense")
    if change == "values":
        dense.kernel.assign(2.0 * dense.kernel)
    elif change == "lora":
        dense.enable_lora(2)
        dense.lora_kernel_b.assign(np.ones(dense.lora_kernel_b.shape))
    else:
        dense.quantize("int8")
    expected = keras.ops.convert_to_numpy(model(x))
    assert np.abs(expected - before).max() > 1e-3
    np.testing.assert_allclose(keras.ops.convert_to_numpy(compiled(x)), expected, atol=1e-5)


def test_functions_are_made_once_per_key_and_never_copied():
    layer = keras.layers.Dense(3)
    layer.build((None, 2))
    functions, made = CompiledFunctions(layer), []

    def make():
        made.append(1)
        return layer.call

    x = keras.ops.ones((1, 2))
    expected = keras.ops.convert_to_numpy(layer(x))
    for key in ("a", "a", "b"):
        found = functions.get(key, make)(x)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(found), expected, atol=1e-6)
    assert len(made) == 2
    owner = object()
    functions.owner = owner
    copied = copy.deepcopy(functions, {id(owner): "the copied owner"})
    assert copied.owner == "the copied owner" and copied._functions == {}
