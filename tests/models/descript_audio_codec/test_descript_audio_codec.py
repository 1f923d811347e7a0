import json

import keras
import numpy as np
import pytest
from keras import ops
from original_parts import make_base_dac, make_dac

from keras_speechssm.models import DescriptAudioCodec
from keras_speechssm.models.preset_mixin import load_part
from keras_speechssm.presets import has_weights

SIZES = {
    "strides": (2, 4, 5, 8),
    "encoder_channels": 4,
    "decoder_channels": 32,
    "num_quantizers": 3,
    "codebook_size": 16,
}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype("float32")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dac")
    return make_dac(folder), folder


@pytest.fixture(scope="module")
def converted(original):
    return DescriptAudioCodec.from_preset(str(original[1]))


@pytest.fixture(scope="module")
def codec():
    keras.utils.set_random_seed(0)
    model = DescriptAudioCodec(**SIZES)
    for weight in model.weights:  # Random weights at their full size saturate the output.
        if weight.path.endswith("kernel"):
            weight.assign(0.4 * weight)
    return model


def latents_of(codec, waveform):
    x = ops.convert_to_tensor(waveform[..., None])
    for layer in codec.encoder_layers:
        x = layer(x)
    return ops.convert_to_numpy(x)


def check_parity(model, codec, waveform, atol):
    import torch

    with torch.inference_mode():
        latents = model.encoder(torch.tensor(waveform)[:, None]).numpy().transpose(0, 2, 1)
        codes = model.quantizer(torch.tensor(latents.transpose(0, 2, 1)))[1]
        decoded = model.decode(audio_codes=codes).audio_values.numpy()
    codes = codes.numpy().transpose(0, 2, 1)
    np.testing.assert_allclose(latents_of(codec, waveform), latents, atol=atol)
    # The same latents: a code that is nearly as similar must not hide an error of the encoder.
    found = ops.convert_to_numpy(codec.quantizer.encode(ops.convert_to_tensor(latents)))
    assert (found == codes).mean() > 0.999
    assert len(np.unique(codes)) > 8
    whole = codec.decode(codes)
    missing = whole.shape[1] - decoded.shape[-1]
    assert missing == 8 and whole.shape == waveform.shape
    np.testing.assert_allclose(whole[:, :-8], decoded, atol=atol)
    assert not whole[:, -8:].any()
    assert (codec.encode(waveform) == codes).mean() > 0.99


def test_parity_with_transformers(original, converted):
    check_parity(original[0], converted, noise(2, 12 * 320), 1e-4)


@pytest.mark.slow
def test_parity_at_full_size(tmp_path):
    model = make_base_dac(tmp_path)
    codec = DescriptAudioCodec.from_preset(str(tmp_path))
    assert codec.count_params() == 74_141_697
    check_parity(model, codec, noise(1, 12 * 320), 1e-3)


@pytest.mark.slow_to_compile
def test_shapes_and_levels(codec):
    waveform = noise(1000)
    tokens = codec.encode(waveform)
    assert tokens.shape == (4, 3) and tokens.dtype == np.int32
    padded = np.pad(waveform, (0, 280))
    np.testing.assert_array_equal(codec.encode(np.stack([padded, padded]))[1], tokens)
    decoded = codec.decode(tokens)
    assert decoded.shape == (1280,) and decoded.dtype == np.float32
    assert np.abs(decoded - codec.decode(tokens[:, :1])).max() > 1e-4
    assert codec.codebooks.shape == (3, 16, 8)
    outputs = codec(padded[None])
    np.testing.assert_allclose(ops.convert_to_numpy(outputs)[0], decoded[:-8], atol=1e-5)


def test_saved_codec_loads_to_the_same_tokens(codec, tmp_path):
    codec.save_to_preset(str(tmp_path / "saved"))
    loaded = DescriptAudioCodec.from_preset(str(tmp_path / "saved"))
    waveform = noise(1280)
    np.testing.assert_array_equal(loaded.encode(waveform), codec.encode(waveform))
    assert loaded.strides == (2, 4, 5, 8) and loaded.samples_per_frame == 320


def test_low_precision_quantizes_in_float32(codec, tmp_path):
    codec.save_to_preset(str(tmp_path / "saved"))
    low = DescriptAudioCodec.from_preset(str(tmp_path / "saved"), dtype="bfloat16")
    assert low.codebooks.dtype == np.float32
    tokens = codec.encode(noise(1280))
    np.testing.assert_allclose(low.decode(tokens), codec.decode(tokens), atol=0.05)


def test_gradients_reach_the_encoder():
    """Straight through the quantizer, so that the codec can be fine-tuned."""
    keras.utils.set_random_seed(0)
    model = DescriptAudioCodec((2, 4), 2, 4, 2, 4)
    kernel = model.encoder_layers[0].kernel
    before = ops.convert_to_numpy(kernel).copy()
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    model.fit(noise(1, 64), noise(1, 64, seed=1), verbose=0)
    assert np.abs(ops.convert_to_numpy(kernel) - before).max() > 0


def test_bad_input_gets_one_clear_line(codec, original, tmp_path):
    with pytest.raises(ValueError, match="takes 1 to 3 levels; got 4"):
        codec.decode(np.zeros((5, 4), "int32"))
    with pytest.raises(ValueError, match="expected 0 to 15"):
        codec.decode(np.full((5, 3), 16))
    with pytest.raises(ValueError, match="decoder_channels must be a multiple of 16"):
        DescriptAudioCodec(decoder_channels=8)
    config = json.loads((original[1] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "sampling_rate": 44100}))
    with pytest.raises(ValueError, match="is a DAC of 44100 Hz; expected 16000 Hz"):
        DescriptAudioCodec.from_preset(str(tmp_path))
    del config["n_codebooks"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not have the entry 'n_codebooks'"):
        DescriptAudioCodec.from_preset(str(tmp_path))


def spoil(folder, target, change):
    """Copies a checkpoint with changed tensors."""
    from safetensors.numpy import load_file, save_file

    for path in folder.glob("*.json"):
        (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors")


def test_bad_tensors_are_named(original, tmp_path):
    name = "decoder.block.1.conv_t1.weight"
    for change, message in (
        (lambda t: t.pop(name), f"missing tensor {name}"),
        (lambda t: t.update({"encoder.ln": np.ones(2)}), "unexpected tensor encoder.ln"),
        (lambda t: t.update({name: np.ones((2, 3))}), f"{name}' has shape \\(2, 3\\); expected"),
    ):
        spoil(original[1], tmp_path, change)
        with pytest.raises(ValueError, match=message) as error:
            DescriptAudioCodec.from_preset(str(tmp_path))
        assert "\n" not in str(error.value)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="model.safetensors' is missing; download"):
        DescriptAudioCodec.from_preset(str(tmp_path))


def test_parts_of_a_pipeline_can_be_checkpoints_of_transformers(original, tmp_path, caplog):
    spoil(original[1], tmp_path, lambda tensors: None)
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# A codec\n")
    assert has_weights(DescriptAudioCodec, tmp_path)
    codec = load_part(str(tmp_path), "soundstream", load_weights=False)
    assert type(codec) is DescriptAudioCodec and codec.num_quantizers == 3
    assert "has the license cc-by-nc-4.0, which forbids commercial use" in caplog.text
    with pytest.raises(ValueError, match="holds a"):
        load_part(str(tmp_path), "semantic_tokenizer", load_weights=False)


def test_a_gated_repository_says_what_to_do(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    class GatedRepoError(Exception):
        pass

    def refuse(name):
        raise GatedRepoError("401 Client Error.\nCannot access gated repo")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match="access is refused; accept the license on the page"):
        DescriptAudioCodec.from_preset("hf://somebody/something")
