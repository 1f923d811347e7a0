import inspect

import keras
import numpy as np
import pytest
from keras import ops
from original_s3_gen import (
    make_flow,
    make_speaker_encoder,
    make_vocoder,
    normal,
    save_original,
)

from keras_speechssm.compilation import compile_inference
from keras_speechssm.models import S3Gen
from keras_speechssm.models.preset_mixin import load_part
from keras_speechssm.models.s3_gen.hift_vocoder import source_sines
from keras_speechssm.models.s3_gen.s3_gen import GUIDANCE, _noise

SIZES = {
    "vocabulary_size": 9,
    "hidden_dim": 8,
    "intermediate_dim": 8,
    "num_heads": 2,
    "num_layers": 1,
    "num_upsampled_layers": 1,
    "flow_channels": 8,
    "flow_num_heads": 1,
    "flow_layers_per_stage": 1,
    "flow_num_stages": 1,
    "vocoder_channels": 8,
    "f0_channels": 4,
    "speaker_channels": 8,
    "speaker_growth": 1,
    "speaker_stack_sizes": (1, 1, 1),
}


def speech(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).normal(size=samples)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return S3Gen(**SIZES)


@pytest.fixture(scope="module")
def voice(model):
    return model.encode_voice(speech(16_000), np.arange(12) % 9)


@pytest.fixture(scope="module")
def originals():
    return make_flow(), make_vocoder(), make_speaker_encoder()


@pytest.fixture(scope="module")
def folder(originals, tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3_gen")
    save_original(folder / "s3gen.safetensors", *originals)
    return folder


def check_parity(originals, converted, num_prompt, length, steps, atol):
    """The mel spectra of the original and of ours, from the same noise."""
    import torch

    flow, _, _ = originals
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, converted.vocabulary_size, num_prompt + length)
    condition, noise = normal(2 * num_prompt, 80), normal(2 * (num_prompt + length), 80, seed=1)
    speaker = normal(converted.speaker_dim, seed=2)
    with torch.inference_mode():
        expected, _ = flow.inference(
            token=torch.tensor(tokens[None, num_prompt:]),
            token_len=torch.tensor([length]),
            prompt_token=torch.tensor(tokens[None, :num_prompt]),
            prompt_token_len=torch.tensor([num_prompt]),
            prompt_feat=torch.tensor(condition[None]),
            prompt_feat_len=None,
            embedding=torch.tensor(speaker),
            finalize=True,
            n_timesteps=steps,
            noised_mels=torch.tensor(noise.T[None]),
            meanflow=converted.mean_flow,
        )
    voice = (tokens[:num_prompt], condition, speaker)
    voice = type(converted).voice_class(*voice)
    mask = np.ones((1, length), bool)
    found = converted._generate_mel(
        tokens[None, num_prompt:], mask, voice, [noise], steps, GUIDANCE
    )
    expected = expected.numpy().transpose(0, 2, 1)
    assert expected.std() > 0.1
    np.testing.assert_allclose(found[:, 2 * num_prompt :], expected, atol=atol)


def test_parity_with_the_original(originals, folder):
    converted = S3Gen.from_preset(str(folder))
    assert converted.flow_num_stages == 2 and converted.speaker_stack_sizes == (2, 1, 1)
    check_parity(originals, converted, 5, 8, 3, 1e-4)


@pytest.mark.slow_to_compile
def test_parity_of_mean_flow(originals, tmp_path):
    flow = make_flow(mean_flow=True)
    save_original(tmp_path / "s3gen_meanflow.safetensors", flow, *originals[1:])
    converted = load_part(str(tmp_path), "s3_gen")
    assert isinstance(converted, S3Gen) and converted.mean_flow
    check_parity((flow, None, None), converted, 5, 8, 2, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mean_flow", [False, True])
def test_parity_at_full_size(mean_flow, tmp_path):
    flow = make_flow(6561, 512, 2048, 8, 6, 4, 256, 8, 4, 12, mean_flow=mean_flow)
    originals = flow, make_vocoder(512, 512), make_speaker_encoder(32, 128, (12, 24, 16))
    name = "s3gen_meanflow.safetensors" if mean_flow else "s3gen.safetensors"
    save_original(tmp_path / name, *originals)
    converted = S3Gen.from_preset(str(tmp_path))
    arguments = inspect.signature(S3Gen.__init__).parameters
    for argument in list(arguments)[1:-2]:  # without `self`, `dtype`, and `kwargs`
        if argument != "mean_flow":
            assert getattr(converted, argument) == arguments[argument].default, argument
    mixer = 2048 * 1024 if mean_flow else 0
    assert converted.count_params() == 140_286_637 + mixer
    check_parity(originals, converted, 25, 50, 2, 2e-3)


def test_bad_tensors_are_named(folder, tmp_path):
    from safetensors.numpy import load_file, save_file

    good = load_file(folder / "s3gen.safetensors")
    kernel = "mel2wav.ups.1.parametrizations.weight.original1"
    mean = "speaker_encoder.xvector.tdnn.nonlinear.batchnorm.running_mean"
    for changes, message in (
        ({mean: None}, f"missing tensor {mean}"),
        ({"flow.input_embedding.weight": None}, "missing tensor flow.input_embedding.weight"),
        ({"mel2wav.extra": np.ones(2)}, "unexpected tensor mel2wav.extra"),
        ({kernel: np.ones((2, 3))}, f"{kernel}' has shape \\(2, 3\\); expected"),
    ):
        tensors = {k: v for k, v in {**good, **changes}.items() if v is not None}
        save_file(tensors, tmp_path / "s3gen.safetensors")
        with pytest.raises(ValueError, match=message) as error:
            S3Gen.from_preset(str(tmp_path))
        assert "\n" not in str(error.value)
    (tmp_path / "s3gen.safetensors").write_bytes(b"truncated")
    with pytest.raises(ValueError, match="is damaged or truncated"):
        S3Gen.from_preset(str(tmp_path))


def test_noise_depends_on_the_absolute_position():
    whole = _noise(3, 1, 0, 400, 5)
    np.testing.assert_array_equal(_noise(3, 1, 70, 100, 5), whole[140:240])
    assert np.abs(whole[:50] - whole[50:100]).min() > 0  # Each second has its own.
    assert np.abs(_noise(4, 1, 0, 400, 5) - whole).min() > 0
    before = _noise(3, 1, -10, 40, 5)  # The context of the first window.
    np.testing.assert_array_equal(before[20:], whole[:20])


def test_phases_agree_at_seams():
    """The beginning of a window and the end of the one before it, cut in the middle."""
    f0 = np.random.default_rng(0).uniform(80, 300, (2, 200))
    f0[1, :100] = f0[0, 100:]
    phases, noise = np.random.default_rng(1).uniform(0, 6, 9), np.zeros((2, 96000, 9), "float32")
    seams = np.array([[2400, 72000], [24000, 90000]])  # both 150 frames into the first row
    first, second = source_sines(f0, phases, noise, seams)
    np.testing.assert_allclose(first[72000:72480], second[24000:24480], atol=1e-5)
    free = source_sines(f0, phases, noise)
    assert np.abs(free[0, 72000:72480] - free[1, 24000:24480]).max() > 0.05
    steps = np.diff(np.unwrap(np.arcsin(np.clip(first[:, 0] * 10, -1, 1))))
    assert np.abs(steps).max() < 0.1  # No jump within a window.


def test_voice(model, voice):
    assert voice.mel.shape == (24, 80) and voice.speaker.shape == (192,)
    other = model.encode_voice(speech(16_000, seed=1), np.arange(12) % 9)
    assert np.abs(other.mel - voice.mel).max() > 0.1
    with pytest.raises(ValueError, match="at least 640 samples for 1 tokens|holds 0.03 s"):
        model.encode_voice(speech(500), [1])


@pytest.mark.slow_to_compile
def test_rows_with_padding_are_the_rows_alone(model, voice):
    tokens = np.random.default_rng(0).integers(0, 9, (2, 9))
    mask = np.arange(9) < np.array([[6], [9]])
    both = model.generate(tokens, voice, seed=1, padding_mask=mask, starts=[4, 7], pad_to=24)
    assert both.shape == (2, 9 * 960) and both.dtype == np.float32
    alone = model.generate(tokens[0, :6], voice, seed=1, starts=4)
    np.testing.assert_allclose(both[0, : 6 * 960], alone, atol=1e-4)
    assert not both[0, 6 * 960 :].any() and np.abs(alone).max() > 1e-3
    again = model.generate(tokens[0, :6], voice, seed=2, starts=4)
    assert np.abs(again - alone).max() > 1e-3


@pytest.mark.slow_to_compile
def test_saved_model_loads_to_the_same_speech(model, voice, tmp_path):
    model.save_to_preset(str(tmp_path / "saved"))
    loaded = S3Gen.from_preset(str(tmp_path / "saved"))
    tokens = np.arange(6)
    expected, found = (m.generate(tokens, voice, starts=4) for m in (model, loaded))
    np.testing.assert_array_equal(expected, found)
    for old, new in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(old), ops.convert_to_numpy(new))


@pytest.mark.slow_to_compile
def test_called_as_a_model(model):
    inputs = {
        "token_ids": np.arange(4, dtype="int32")[None],
        "padding_mask": np.ones((1, 8), bool),
        "speaker_log_mel": normal(1, 20, 80),
        "mel": normal(1, 8, 80),
        "condition": np.zeros((1, 8, 80), "float32"),
        "time": np.array([[0.2, 0.6]], "float32"),
        "sines": normal(1, 4 * 960, 9),
    }
    outputs = compile_inference(model, lambda x: model(x))(inputs)
    assert outputs["velocity"].shape == (1, 8, 80)
    assert outputs["waveform"].shape == (1, 4 * 960)


@pytest.mark.slow_to_compile
def test_low_precision_stays_close(model, voice, tmp_path):
    model.save_to_preset(str(tmp_path / "saved"))
    low = S3Gen.from_preset(str(tmp_path / "saved"), dtype="bfloat16")
    found = low.generate(np.arange(6), voice, starts=4)
    assert found.dtype == np.float32 and np.isfinite(found).all()
