import contextlib

import keras
import numpy as np
import pytest
from contract import verify_sequence_contract
from gradient import gradients
from keras import ops

from keras_speechssm.models.griffin.griffin_backbone import GriffinBackbone

SIZES = {
    "vocabulary_size": 11,
    "num_layers": 3,
    "hidden_dim": 8,
    "intermediate_dim": 12,
    "num_heads": 2,
    "attention_window": 4,
}
MASKS = ("padding_mask", "reset_mask")
KINDS = ("recurrent", "attention")


def call(backbone):
    def whole(x, padding_mask=None, reset_mask=None):
        inputs = {"token_ids": x, "padding_mask": padding_mask, "reset_mask": reset_mask}
        return backbone(inputs)

    return whole


@pytest.mark.slow_to_compile
def test_sequence_contract():
    keras.utils.set_random_seed(0)
    backbone = GriffinBackbone(**{**SIZES, "num_layers": 2, "block_pattern": KINDS})
    verify_sequence_contract(
        backbone,
        lambda rng, batch, time: rng.integers(0, 11, (batch, time)).astype("int32"),
        call=call(backbone),
        time=8,
        block_sizes=((3, 2),),
        tolerance=2e-5,
    )


def test_layer_kinds_follow_the_pattern_over_the_depth():
    backbone = GriffinBackbone(
        **{**SIZES, "num_layers": 5}, block_pattern=("attention", "recurrent")
    )
    kinds = [block.block_type for block in backbone.griffin_blocks]
    assert kinds == ["attention", "recurrent", "attention", "recurrent", "attention"]


def test_embeddings_are_scaled_by_the_root_of_the_width():
    backbone = GriffinBackbone(**{**SIZES, "num_layers": 1})
    seen = []
    block = backbone.griffin_blocks[0]
    advance, block.advance = (
        block.advance,
        lambda x, *args, **kwargs: (
            seen.append(ops.convert_to_numpy(x)) or advance(x, *args, **kwargs)
        ),
    )
    backbone.advance(np.array([[3]]), backbone.initial_state(1))
    row = ops.convert_to_numpy(backbone.token_embedding.embeddings)[3]
    np.testing.assert_allclose(seen[0][0, 0], row * np.sqrt(8), rtol=1e-6)


def test_padding_may_hold_ids_out_of_range():
    backbone = GriffinBackbone(**SIZES)
    mask = np.array([[False, True, True]])
    outputs = [
        ops.convert_to_numpy(
            backbone(
                {"token_ids": np.array([[filler, 4, 2]]), "padding_mask": mask, "reset_mask": None}
            )
        )[:, 1:]
        for filler in (0, -1, 10**6)
    ]
    assert np.isfinite(outputs[0]).all()
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])


@pytest.mark.slow_to_compile
def test_bfloat16_keeps_the_recurrent_state_in_float32():
    backbone = GriffinBackbone(**SIZES, dtype="bfloat16")
    hidden, state = backbone.advance(np.array([[1, 2, 3]]), backbone.initial_state(1))
    assert keras.backend.standardize_dtype(hidden.dtype) == "bfloat16"
    recurrent = state[0]["rg_lru"]["recurrent"]
    assert keras.backend.standardize_dtype(recurrent.dtype) == "float32"
    logits = backbone.token_embedding(hidden, reverse=True)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"


@pytest.mark.parametrize("way", ["argument", "scope"])
def test_rematerialized_gradients_are_equal(way):
    tokens = np.arange(18).reshape(2, 9) % 11
    masks = {"padding_mask": tokens % 4 > 0, "reset_mask": tokens == 5} if way == "scope" else {}
    names = ["griffin_block_0", "griffin_block_1"]
    scope = keras.RematScope("list_of_layers", layer_names=names)
    found = []
    for wanted in (False, True):
        keras.utils.set_random_seed(0)
        with scope if wanted and way == "scope" else contextlib.nullcontext():
            backbone = GriffinBackbone(
                **{**SIZES, "num_layers": 2},
                block_pattern=KINDS,
                rematerialize=wanted and way == "argument",
            )

        def loss(backbone=backbone):
            outputs = call(backbone)(
                ops.convert_to_tensor(tokens),
                **{name: ops.convert_to_tensor(mask) for name, mask in masks.items()},
            )
            return ops.sum(ops.sin(outputs))

        found.append(gradients(loss, [], backbone.trainable_variables)[1])
    for plain, rematerialized in zip(*found, strict=True):
        assert np.any(plain)
        np.testing.assert_allclose(rematerialized, plain, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX says what it would keep")
def test_rematerialize_stores_little_more_than_the_inputs_of_the_blocks():
    import jax

    def stored_bytes(rematerialize, time):
        backbone = GriffinBackbone(**SIZES, rematerialize=rematerialize)
        values = [variable.value for variable in backbone.trainable_variables]
        inputs = {"token_ids": np.zeros((1, time), "int32"), **dict.fromkeys(MASKS)}
        # What the backward pass needs is in the closure that jax.vjp returns.
        backward = jax.eval_shape(
            lambda values: jax.vjp(lambda v: backbone.stateless_call(v, [], inputs)[0], values)[1],
            values,
        )
        leaves = jax.tree.leaves(backward)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    assert stored_bytes(True, 512) < 0.15 * stored_bytes(False, 512)


def test_rematerialize_changes_no_path_of_a_weight():
    plain, rematerialized = GriffinBackbone(**SIZES), GriffinBackbone(**SIZES, rematerialize=True)
    assert [v.path for v in rematerialized.weights] == [v.path for v in plain.weights]
    again = GriffinBackbone.from_config(rematerialized.get_config())
    assert again.rematerialize and not plain.rematerialize
    del (config := plain.get_config())["rematerialize"]  # as presets of before have it
    assert not GriffinBackbone.from_config(config).rematerialize


def test_summary_names_each_block_once():
    backbone = GriffinBackbone(**SIZES)
    lines = []
    backbone.summary(line_length=100, print_fn=lambda text: lines.extend(text.splitlines()))
    text = "\n".join(lines)
    for number in range(3):
        assert text.count(f"griffin_block_{number} ") == 1
    assert f"Total params: {backbone.count_params():,}" in text
    assert len(lines) < 50


def test_preset_round_trip(tmp_path):
    backbone = GriffinBackbone(**SIZES, lru_width=16, block_pattern=KINDS)
    backbone.save_to_preset(str(tmp_path / "preset"))
    loaded = GriffinBackbone.from_preset(str(tmp_path / "preset"))
    assert loaded.get_config() == backbone.get_config()
    tokens = np.arange(10)[None]
    np.testing.assert_array_equal(
        ops.convert_to_numpy(call(loaded)(tokens)), ops.convert_to_numpy(call(backbone)(tokens))
    )


def test_unknown_layer_kind_is_refused():
    with pytest.raises(ValueError, match="block_pattern"):
        GriffinBackbone(**SIZES, block_pattern=("recurrent", "convolution"))
