import keras
import numpy as np
import pytest
from contract import verify_sequence_contract
from keras import ops

from keras_speechssm.layers import GriffinBlock


def make_layer(block_type, **kwargs):
    keras.utils.set_random_seed(0)
    settings = {"hidden_dim": 8, "intermediate_dim": 12, "num_heads": 2, "attention_window": 5}
    return GriffinBlock(block_type, **{**settings, **kwargs})


@pytest.mark.slow_to_compile
@pytest.mark.parametrize("block_type", ["recurrent", "attention"])
def test_contract(block_type):
    layer = make_layer(block_type)
    verify_sequence_contract(layer, 8, block_sizes=(1, (3, 7)))


def test_parameters_of_the_recurrent_block():
    layer = make_layer("recurrent", lru_width=16)
    layer.build((None, None, 8))
    shapes = {w.path.split("/", 1)[1]: tuple(w.shape) for w in layer.weights}
    block = "temporal_block"
    assert shapes == {
        "temporal_pre_norm/scale": (8,),
        f"{block}/linear_x/kernel": (8, 16),
        f"{block}/linear_x/bias": (16,),
        f"{block}/linear_y/kernel": (8, 16),
        f"{block}/linear_y/bias": (16,),
        f"{block}/conv_1d/kernel": (4, 16),
        f"{block}/conv_1d/bias": (16,),
        f"{block}/rg_lru/a_param": (16,),
        f"{block}/rg_lru/input_gate/kernel": (2, 8, 8),
        f"{block}/rg_lru/input_gate/bias": (2, 8),
        f"{block}/rg_lru/a_gate/kernel": (2, 8, 8),
        f"{block}/rg_lru/a_gate/bias": (2, 8),
        f"{block}/linear_out/kernel": (16, 8),
        f"{block}/linear_out/bias": (8,),
        "channel_pre_norm/scale": (8,),
        "mlp_block/gate_dense/kernel": (8, 12),
        "mlp_block/gate_dense/bias": (12,),
        "mlp_block/up_dense/kernel": (8, 12),
        "mlp_block/up_dense/bias": (12,),
        "mlp_block/down_dense/kernel": (12, 8),
        "mlp_block/down_dense/bias": (8,),
    }


def test_parameters_of_the_attention_block():
    layer = make_layer("attention")
    layer.build((None, None, 8))
    names = [w.path.split("/", 1)[1] for w in layer.temporal_block.weights]
    assert names == [
        f"temporal_block/{name}"
        for name in (
            "query_dense/kernel",
            "key_dense/kernel",
            "value_dense/kernel",
            "output_dense/kernel",
            "output_dense/bias",
        )
    ]


def test_residual_projections_start_small_in_deep_models():
    layer = make_layer("recurrent", hidden_dim=128, intermediate_dim=128, num_layers=8)
    layer.build((None, None, 128))
    for dense in (layer.temporal_block.linear_out, layer.mlp_block.down_dense):
        deviation = np.std(ops.convert_to_numpy(dense.kernel))
        assert deviation == pytest.approx((2 / 8 / 128) ** 0.5, rel=0.05)


@pytest.mark.slow_to_compile
def test_computes_in_bfloat16():
    layer = make_layer("attention", dtype="mixed_bfloat16")
    x = np.random.default_rng(0).normal(size=(1, 9, 8)).astype("float32")
    exact = make_layer("attention")
    exact.build(x.shape)
    expected = ops.convert_to_numpy(exact(x))
    layer.build(x.shape)
    layer.set_weights(exact.get_weights())
    y, state = layer.advance(ops.convert_to_tensor(x), layer.initial_state(1))
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(state["keys"].dtype) == "bfloat16"
    np.testing.assert_allclose(
        ops.convert_to_numpy(ops.cast(y, "float32")), expected, rtol=0.05, atol=0.1
    )


@pytest.mark.parametrize("block_type", ["recurrent", "attention"])
def test_save_and_load(block_type, tmp_path):
    inputs = keras.Input((None, 8))
    model = keras.Model(inputs, make_layer(block_type)(inputs))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(2, 9, 8)).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(again(x)), ops.convert_to_numpy(model(x)))


def test_unknown_block_type():
    with pytest.raises(ValueError, match="block_type"):
        make_layer("convolution")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a mode of TensorFlow")
@pytest.mark.parametrize("block_type", ["recurrent", "attention"])
def test_length_unknown_to_a_tensorflow_graph(block_type):
    import tensorflow as tf

    layer = make_layer(block_type)
    x = np.random.default_rng(0).normal(size=(2, 9, 8)).astype("float32")
    expected = ops.convert_to_numpy(layer(x))
    graph = tf.function(layer, input_signature=[tf.TensorSpec((None, None, 8))])
    np.testing.assert_allclose(graph(x).numpy(), expected, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="graphs of TensorFlow")
@pytest.mark.parametrize("block_type", ["recurrent", "attention"])
@pytest.mark.parametrize("chunk", [1, 3, 6])
def test_a_chunk_s_length_unknown_to_a_tensorflow_graph(block_type, chunk):
    import tensorflow as tf

    layer = make_layer(block_type)
    x = np.random.default_rng(0).normal(size=(2, 18, 8)).astype("float32")
    expected = ops.convert_to_numpy(layer(x))
    state = layer.initial_state(2)

    @tf.function(input_signature=[tf.TensorSpec((None, None, 8))])
    def advance(part):
        outputs, new = layer.advance(
            part, keras.tree.pack_sequence_as(state, [tf.identity(leaf) for leaf in memory])
        )
        for variable, value in zip(memory, keras.tree.flatten(new), strict=True):
            variable.assign(value)
        return outputs

    memory = [tf.Variable(leaf) for leaf in keras.tree.flatten(state)]
    found = [advance(x[:, start : start + chunk]).numpy() for start in range(0, 18, chunk)]
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, atol=1e-5)
