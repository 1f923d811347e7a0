import keras
import numpy as np
import pytest
from contract import verify_sequence_contract

from keras_speechssm.layers.causal_conv import CausalConv1D, CausalConv1DTranspose


@pytest.mark.parametrize(
    "arguments",
    [
        dict(filters=3, kernel_size=7),
        dict(filters=3, kernel_size=3, dilation=3),
        dict(filters=4, kernel_size=3, dilation=2, depthwise=True),
    ],
)
def test_conv_keeps_the_contract(arguments):
    verify_sequence_contract(CausalConv1D(**arguments), 4)


def test_strided_conv_keeps_the_contract():
    verify_sequence_contract(CausalConv1D(3, 10, strides=5), 4, input_multiple=5)


def test_transposed_conv_keeps_the_contract():
    verify_sequence_contract(CausalConv1DTranspose(3, 8, strides=4), 4, output_multiple=4)


def test_conv_by_hand():
    layer = CausalConv1D(1, 2, strides=2)
    layer.build((None, None, 1))
    layer.kernel.assign([[[10.0]], [[1.0]]])
    x = np.array([[[1.0], [2.0], [3.0], [4.0]]], "float32")
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(x))[0, :, 0], [12.0, 34.0])


def test_depthwise_equals_full_conv_with_a_diagonal_kernel():
    depthwise = CausalConv1D(3, 3, dilation=2, depthwise=True)
    full = CausalConv1D(3, 3, dilation=2)
    x = np.random.default_rng(0).normal(size=(2, 9, 3)).astype("float32")
    depthwise.build(x.shape), full.build(x.shape)
    taps = keras.ops.convert_to_numpy(depthwise.kernel)
    full.kernel.assign(np.stack([np.diag(tap) for tap in taps]))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(depthwise(x)), keras.ops.convert_to_numpy(full(x)), atol=1e-5
    )


def test_transposed_conv_by_hand():
    layer = CausalConv1DTranspose(1, 4, strides=2)
    layer.build((None, None, 1))
    layer.kernel.assign([[1.0, 10.0, 100.0, 1000.0]])
    x = np.array([[[1.0], [2.0]]], "float32")
    expected = [1.0, 10.0, 2.0 + 100.0, 20.0 + 1000.0]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(x))[0, :, 0], expected)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: CausalConv1D(4, 2, strides=4), "kernel_size is 2; expected at least strides, 4"),
        (lambda: CausalConv1D(4, 4, strides=2, depthwise=True), "strides is 2; a depthwise"),
        (lambda: CausalConv1D(4, 3, depthwise=True).build((None, None, 3)), "the input has 3"),
        (lambda: CausalConv1DTranspose(4, 5, strides=2), "expected a multiple of strides, 2"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
