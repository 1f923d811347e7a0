import json

import keras
import numpy as np
import pytest
from gradient import gradients
from keras import ops

from keras_speechssm.models import SoundStorm
from keras_speechssm.models.soundstorm.masking import mask_for_training

SIZES = dict(
    semantic_vocabulary_size=11,
    num_levels=3,
    codebook_size=7,
    num_layers=2,
    hidden_dim=16,
    num_heads=2,
    intermediate_dim=32,
    kernel_size=3,
)
MASK = 7


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return SoundStorm(**SIZES)


def make_inputs(batch=2, time=6, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "semantic_tokens": rng.integers(0, 11, (batch, time)).astype("int32"),
        "acoustic_tokens": rng.integers(0, 8, (batch, 2 * time, 3)).astype("int32"),
        "level": np.arange(batch, dtype="int32") % 3,
        "padding_mask": np.ones((batch, 2 * time), dtype=bool),
    }


def logits_of(model, inputs):
    return ops.convert_to_numpy(
        model({name: ops.convert_to_tensor(array) for name, array in inputs.items()})
    )


@pytest.mark.slow_to_compile
def test_logits_are_of_the_level_asked_for(model):
    inputs = make_inputs(batch=3)
    logits = logits_of(model, inputs)
    assert logits.shape == (3, 12, 7) and logits.dtype == "float32"
    kernel = ops.convert_to_numpy(model.level_heads.kernel).copy()
    changed = kernel.copy()
    changed[1] = 0.0
    model.level_heads.kernel.assign(changed)
    try:
        after = logits_of(model, inputs)
    finally:
        model.level_heads.kernel.assign(kernel)
    np.testing.assert_array_equal(after[[0, 2]], logits[[0, 2]])
    assert np.abs(after[1]).max() == 0.0 < np.abs(logits[1]).max()


@pytest.mark.slow_to_compile
def test_padding_changes_nothing_whatever_ids_it_holds(model):
    inputs = make_inputs()
    expected = logits_of(model, inputs)
    padded = {
        "semantic_tokens": np.pad(inputs["semantic_tokens"], ((0, 0), (2, 3)), constant_values=999),
        "acoustic_tokens": np.pad(
            inputs["acoustic_tokens"], ((0, 0), (4, 6), (0, 0)), constant_values=-5
        ),
        "level": inputs["level"],
        "padding_mask": np.pad(inputs["padding_mask"], ((0, 0), (4, 6))),
    }
    np.testing.assert_allclose(logits_of(model, padded)[:, 4:-6], expected, atol=1e-5)


def test_every_frame_sees_past_and_future_but_no_padding(model):
    # Gradients by a float input: the frame vectors that the blocks receive.
    mask = ops.convert_to_tensor(np.array([[True] * 10 + [False] * 2]))

    def one_output(x):
        for block in model.conformer_blocks:
            x = block(x, padding_mask=mask)
        return ops.sum(model.level_heads(x, ops.convert_to_tensor(np.array([1], "int32")))[:, 4, 2])

    x = np.random.default_rng(0).normal(size=(1, 12, 16)).astype("float32")
    (gradient,), _ = gradients(one_output, [x])
    reach = np.abs(gradient[0]).max(axis=-1)
    assert (reach[:10] > 0).all()
    assert (reach[10:] == 0).all()


def test_a_frame_is_the_sum_of_its_tokens(model):
    inputs = make_inputs(batch=1)
    layer = model.frame_embedding
    x = ops.convert_to_numpy(
        layer(*(ops.convert_to_tensor(inputs[n]) for n in list(inputs)[:2] + ["padding_mask"]))
    )
    semantic = ops.convert_to_numpy(layer.semantic_embedding.embeddings)
    acoustic = ops.convert_to_numpy(layer.acoustic_embedding.embeddings)
    frame = 7
    expected = semantic[inputs["semantic_tokens"][0, 3]] + sum(
        acoustic[level * 8 + inputs["acoustic_tokens"][0, frame, level]] for level in range(3)
    )
    np.testing.assert_allclose(x[0, frame], expected, atol=1e-5)


@pytest.mark.slow_to_compile
def test_a_hidden_semantic_token_has_a_row_of_its_own(model):
    inputs = make_inputs()
    hidden = {**inputs, "semantic_tokens": np.full_like(inputs["semantic_tokens"], 11)}
    other = {**inputs, "semantic_tokens": np.full_like(inputs["semantic_tokens"], 10)}
    assert np.isfinite(logits_of(model, hidden)).all()
    assert (logits_of(model, hidden) != logits_of(model, other)).any()
    table = model.frame_embedding.semantic_embedding.embeddings
    before = np.array(ops.convert_to_numpy(table))
    expected = logits_of(model, hidden)
    table.assign(np.concatenate([np.zeros_like(before[:-1]), before[-1:]]))
    try:
        np.testing.assert_array_equal(logits_of(model, hidden), expected)
    finally:
        table.assign(before)


@pytest.mark.slow_to_compile
def test_fit_learns_a_mapping_that_generate_recovers():
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(0)
    # Each semantic token stands for two frames of three codes; level 0 depends on the
    # token alone, finer levels on the code above too.
    first, step = rng.integers(0, 7, (11, 2)), rng.integers(1, 3, (11,))

    def speak(semantic):
        coarse = first[semantic].reshape(len(semantic), -1)
        shift = np.repeat(step[semantic], 2, axis=1)
        return np.stack([coarse, (coarse + shift) % 7, (coarse + 2 * shift) % 7], axis=-1)

    semantic = rng.integers(0, 11, (960, 8))
    acoustic = speak(semantic)
    real = np.ones(acoustic.shape[:2], dtype=bool)
    masked, level, target, loss_mask = mask_for_training(acoustic, real, MASK, rng)
    inputs = {
        "semantic_tokens": semantic.astype("int32"),
        "acoustic_tokens": masked,
        "level": level,
        "padding_mask": real,
    }
    model = SoundStorm(**{**SIZES, "num_layers": 1, "hidden_dim": 32})
    model.compile(
        optimizer=keras.optimizers.Adam(1e-2),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    weight = loss_mask.astype("float32")
    model.fit(inputs, target, sample_weight=weight, batch_size=32, epochs=3, verbose=0)
    test = rng.integers(0, 11, (4, 9))
    generated = model.generate(test, semantic[0], acoustic[0], iterations=(4, 1, 1), seed=0)
    assert (generated == speak(test)).mean() > 0.85  # by chance 0.14


def test_preset_round_trip(model, tmp_path):
    model.save_to_preset(str(tmp_path / "preset"))
    config = json.loads((tmp_path / "preset" / "config.json").read_text())
    assert {name: config["config"][name] for name in SIZES} == SIZES
    again = SoundStorm.from_preset(str(tmp_path / "preset"))
    inputs = make_inputs()
    np.testing.assert_array_equal(logits_of(again, inputs), logits_of(model, inputs))
    tokens = inputs["semantic_tokens"]
    np.testing.assert_array_equal(
        *(one.generate(tokens, iterations=(2, 1, 1), seed=3) for one in (again, model))
    )
