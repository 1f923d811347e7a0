import keras
import numpy as np
import pytest
from keras import ops

from keras_speechssm.models.griffin.griffin_backbone import GriffinBackbone
from keras_speechssm.models.speech_ssm.speech_ssm import SpeechSSM

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 13, (2, 20)).astype("int32")
QUANTIZED = {"linear_x", "linear_y", "linear_out", "query_dense", "key_dense", "value_dense"}
QUANTIZED |= {"output_dense", "gate_dense", "up_dense", "down_dense"}


def copy_of(model):
    """Another model with the same weights: these tests change theirs."""
    copy = SpeechSSM.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def logits_of(model):
    return ops.convert_to_numpy(model(TOKENS))


def logits_in_chunks(model):
    state, chunks = model.initial_state(2), []
    for start, stop in ((0, 12), (12, 13), (13, 20)):
        logits, state = model.advance(ops.convert_to_tensor(TOKENS[:, start:stop]), state)
        chunks.append(ops.convert_to_numpy(logits))
    return np.concatenate(chunks, axis=1)


def compiled_logits(model):
    """Those after the whole of TOKENS, by what `generate` compiles and keeps."""
    return ops.convert_to_numpy(model.start_generation(TOKENS, seed=0).logits)


def num_bytes(model):
    return sum(ops.convert_to_numpy(weight).nbytes for weight in model.weights)


def trained_with_lora(model):
    tuned = copy_of(model)
    compiled_logits(tuned)  # compiled before there is LoRA
    tuned.backbone.enable_lora(2)
    np.testing.assert_array_equal(logits_of(tuned), logits_of(model))
    tuned.compile(optimizer=keras.optimizers.Adam(0.05))
    history = tuned.fit(TOKENS[:, :-1], TOKENS[:, 1:], epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    return tuned


@pytest.mark.slow_to_compile
def test_lora_trains_its_matrices_alone_and_they_go_to_disk_and_back(model, tmp_path):
    tuned = trained_with_lora(model)
    found = {tuple(weight.path.split("/")[-2:]) for weight in tuned.trainable_variables}
    targets = ("linear_x", "linear_y", "linear_out", "query_dense", "value_dense")
    assert found == {(name, f"lora_kernel_{side}") for name in targets for side in "ab"}
    before = {weight.path: ops.convert_to_numpy(weight) for weight in model.weights}
    for weight in tuned.non_trainable_variables:
        if weight.path in before:
            np.testing.assert_array_equal(ops.convert_to_numpy(weight), before[weight.path])
    expected = logits_of(tuned)
    assert np.abs(expected - logits_of(model)).max() > 0.01

    tuned.backbone.save_lora_weights(str(tmp_path / "tuned.lora.h5"))
    loaded = copy_of(model)
    loaded.backbone.load_lora_weights(str(tmp_path / "tuned.lora.h5"))
    np.testing.assert_array_equal(logits_of(loaded), expected)

    tuned.save_to_preset(str(tmp_path / "merged"))
    merged = SpeechSSM.from_preset(str(tmp_path / "merged"))
    assert len(merged.weights) == len(model.weights)
    np.testing.assert_allclose(logits_of(merged), expected, atol=1e-5)


@pytest.mark.slow_to_compile
def test_generation_uses_lora(model):
    tuned = trained_with_lora(model)
    expected = logits_of(tuned)
    np.testing.assert_allclose(logits_in_chunks(tuned), expected, atol=1e-5)
    np.testing.assert_allclose(compiled_logits(tuned), expected[:, -1], atol=1e-5)


def test_lora_of_no_rank_is_refused(model):
    with pytest.raises(ValueError, match="rank=0"):
        model.backbone.enable_lora(0)


# Bounds for logits of standard deviation 1.1: int8 is a tenth of that away at most, int4 about one.
@pytest.mark.slow_to_compile
@pytest.mark.parametrize(
    ("mode", "largest", "mean"),
    [
        ("int8", 0.12, 0.02),
        pytest.param("int4", 1.0, 0.25, marks=pytest.mark.slow),
    ],
)
def test_quantized_model_stays_near_and_goes_to_disk_and_back(model, tmp_path, mode, largest, mean):
    quantized = copy_of(model)
    compiled_logits(quantized)  # compiled before it is quantized
    quantized.quantize(mode)
    dtypes = {}
    for weight in quantized.weights:
        dtypes.setdefault(keras.backend.standardize_dtype(weight.dtype), set()).add(weight.path)
    assert {path.split("/")[-2] for path in dtypes["int8"]} == QUANTIZED
    assert not any("rg_lru" in path or "embedding" in path for path in dtypes["int8"])
    assert num_bytes(quantized) < 0.6 * num_bytes(model)

    expected = logits_of(quantized)
    differences = np.abs(expected - logits_of(model))
    assert 0 < differences.max() < largest and differences.mean() < mean
    np.testing.assert_allclose(logits_in_chunks(quantized), expected, atol=1e-4)
    np.testing.assert_allclose(compiled_logits(quantized), expected[:, -1], atol=1e-4)

    for trip in ("once", "twice"):
        quantized.save_to_preset(str(tmp_path / trip))
        quantized = SpeechSSM.from_preset(str(tmp_path / trip))
        np.testing.assert_array_equal(logits_of(quantized), expected)
    assert quantized.generate(TOKENS, 5, seed=0).shape == (2, 5)


@pytest.mark.any_backend
@pytest.mark.slow
def test_quantized_backbone_keeps_its_other_dtypes(model, tmp_path):
    config = {**model.backbone.get_config(), "dtype": "bfloat16"}
    backbone = GriffinBackbone.from_config(config)
    backbone.quantize("int8")
    assert backbone.get_config() == backbone.get_config()
    policy = backbone.griffin_blocks[0].mlp_block.up_dense.dtype_policy
    assert policy.name == "int8_from_bfloat16"
    backbone.save_to_preset(str(tmp_path / "preset"))
    loaded = GriffinBackbone.from_preset(str(tmp_path / "preset"))
    assert loaded.get_config() == backbone.get_config()
    inputs = {"token_ids": TOKENS, "padding_mask": None, "reset_mask": None}
    outputs = [backbone(inputs), loaded(inputs)]
    assert {keras.backend.standardize_dtype(x.dtype) for x in outputs} == {"bfloat16"}
    expected, found = (ops.convert_to_numpy(ops.cast(x, "float32")) for x in outputs)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("filters", ["linear", ["linear_x", "linear_y", "linear_out"]])
def test_filters_leave_out_further_projections(model, filters):
    quantized = copy_of(model)
    quantized.quantize("int8", filters=filters)
    found = {
        weight.path.split("/")[-2]
        for weight in quantized.weights
        if keras.backend.standardize_dtype(weight.dtype) == "int8"
    }
    assert found == {"linear_x", "linear_y", "linear_out"}


@pytest.mark.any_backend
@pytest.mark.slow
def test_lora_on_a_quantized_model(model):
    tuned = copy_of(model)
    tuned.quantize("int8")
    tuned.backbone.enable_lora(2)
    tuned.compile(optimizer=keras.optimizers.Adam(0.05))
    history = tuned.fit(TOKENS[:, :-1], TOKENS[:, 1:], epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
