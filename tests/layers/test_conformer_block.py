import keras
import numpy as np
import pytest
from contract import verify_sequence_contract
from keras import ops

from keras_speechssm.layers.conformer_block import ConformerBlock, ConvolutionModule, SelfAttention


def make_block(**kwargs):
    keras.utils.set_random_seed(0)
    return ConformerBlock(8, num_heads=2, intermediate_dim=16, **kwargs)


@pytest.mark.slow_to_compile
@pytest.mark.parametrize("attention_context", [None, 2])
def test_contract(attention_context):
    block = make_block(attention_context=attention_context)
    verify_sequence_contract(block, 8, causal=False)


def test_padding_comes_out_as_zeros():
    mask = np.array([[True] * 4 + [False] * 2, [False] * 6])
    x = np.random.default_rng(0).normal(size=(2, 6, 8)).astype("float32")
    y = ops.convert_to_numpy(make_block()(x, padding_mask=ops.convert_to_tensor(mask)))
    assert not y[~mask].any() and np.abs(y[mask]).min() > 0


def test_depthwise_convolution_is_centred():
    module = ConvolutionModule(3, kernel_size=5)
    module.build((1, 9, 3))
    x = np.random.default_rng(1).normal(size=(1, 9, 3)).astype("float32")
    kernel = ops.convert_to_numpy(module.depthwise)
    found = ops.convert_to_numpy(module._convolve(ops.convert_to_tensor(x)))
    for channel in range(3):
        expected = np.convolve(x[0, :, channel], kernel[::-1, channel], mode="same")
        np.testing.assert_allclose(found[0, :, channel], expected, atol=1e-5)


def test_attention_context_bounds_what_is_seen():
    keras.utils.set_random_seed(0)
    attention = SelfAttention(8, num_heads=2, context=2)
    x = np.random.default_rng(2).normal(size=(1, 10, 8)).astype("float32")
    changed = x.copy()
    changed[0, 7] += 1.0
    difference = np.abs(
        ops.convert_to_numpy(attention(changed)) - ops.convert_to_numpy(attention(x))
    )[0].max(axis=-1)
    assert (difference[5:10] > 1e-4).all() and (difference[:5] < 1e-6).all()


@pytest.mark.slow_to_compile
def test_bfloat16_stays_close_to_float32():
    x = np.random.default_rng(3).normal(size=(2, 7, 8)).astype("float32")
    exact, rough = make_block(), make_block(dtype="mixed_bfloat16")
    expected = ops.convert_to_numpy(exact(x))
    rough.build(x.shape)
    rough.set_weights(exact.get_weights())
    y = rough(x)
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    found = ops.convert_to_numpy(ops.cast(y, "float32"))
    np.testing.assert_allclose(found, expected, atol=0.15)


def test_config_round_trip():
    block = make_block(kernel_size=3, attention_context=4, dropout=0.1)
    copy = ConformerBlock.from_config(block.get_config())
    assert copy.get_config() == block.get_config()


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"hidden_dim is 6 and num_heads 2; .* of 2 \* num_heads"):
        ConformerBlock(6, num_heads=2, intermediate_dim=8)
    with pytest.raises(ValueError, match="kernel_size is 0; expected at least 1"):
        make_block(kernel_size=0)
    with pytest.raises(ValueError, match="has width 5"):
        make_block()(np.zeros((1, 2, 5), "float32"))
