"""Compiled functions see the weights that a model has, not those that it had."""

import keras
import numpy as np
import pytest

from keras_speechssm.compilation import compile_inference


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
