import keras
import numpy as np
import pytest
from keras import ops
from original_parts import (
    make_s3_tokenizer,
    s3_latents,
    s3_tokenizer_module,
    save_s3_tokenizer,
    speech,
)

from keras_speechssm.models import S3Tokenizer
from keras_speechssm.models.windowed_inference import run_in_windows

SIZES = {
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 128,
    "intermediate_dim": 512,
    "num_mels": 128,
}


def original_outputs(model, mel, lengths):
    """The original's values before rounding, and its tokens."""
    import torch

    with torch.inference_mode():
        tokens, _ = model.quantize(torch.tensor(mel), torch.tensor(lengths))
    return s3_latents(model, mel, lengths), tokens.numpy()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    model = make_s3_tokenizer()
    folder = tmp_path_factory.mktemp("s3")
    save_s3_tokenizer(model, folder / "model.safetensors")
    return s3_tokenizer_module(), model, folder


@pytest.fixture(scope="module")
def converted(original):
    return S3Tokenizer.from_preset(str(original[2]))


@pytest.fixture(scope="module")
def tokenizer():
    keras.utils.set_random_seed(0)
    return S3Tokenizer(1, 2, 16, 32, num_mels=16, kernel_size=5)


def test_log_mel_is_the_original_s(original):
    import torch

    from keras_speechssm.audio.mel import slaney_mel_filters, whisper_log_mel

    waveform = speech(1, 40 * 640)
    expected = original[0].log_mel_spectrogram(torch.tensor(waveform[0])).numpy().T
    filters = slaney_mel_filters(128, 400)
    found = whisper_log_mel(ops.convert_to_tensor(waveform), filters, mirror_end=True)
    np.testing.assert_allclose(ops.convert_to_numpy(found)[0], expected, atol=2e-5)


def test_parity_with_the_original(original, converted):
    """Two rows of different lengths, compared before the rounding."""
    import torch

    s3tokenizer, model, _ = original
    waveform = speech(2, 100 * 640)
    mask = np.arange(100) < np.array([[100], [83]])
    mels = [
        s3tokenizer.log_mel_spectrogram(torch.tensor(row[: 640 * steps]))
        for row, steps in zip(waveform, mask.sum(axis=1), strict=True)
    ]
    mel = np.stack([np.pad(m.numpy(), ((0, 0), (0, 400 - m.shape[1]))) for m in mels])
    latents, tokens = original_outputs(model, mel, [400, 332])
    waveform[1, 83 * 640 :] = np.nan
    found = converted({"waveform": waveform, "padding_mask": mask})
    found = {name: ops.convert_to_numpy(value) for name, value in found.items()}
    np.testing.assert_allclose(found["latents"][mask], latents[mask], atol=1e-4)
    clear = (np.abs(np.abs(latents) - 0.5) > 1e-3).all(axis=-1) & mask
    assert clear.mean() > 0.8 and len(np.unique(tokens[clear])) > 50
    np.testing.assert_array_equal(found["tokens"][clear], tokens[clear])
    assert not found["tokens"][~mask].any() and not found["latents"][~mask].any()


@pytest.mark.slow
def test_parity_at_full_size(tmp_path):
    import torch

    model = make_s3_tokenizer(6, 20, 1280, scale=0.02)
    save_s3_tokenizer(model, tmp_path / "model.safetensors")
    converted = S3Tokenizer.from_preset(str(tmp_path))
    assert converted.count_params() == 123_714_568
    waveform = speech(1, 100 * 640)
    mel = s3_tokenizer_module().log_mel_spectrogram(torch.tensor(waveform[0])).numpy()[None]
    latents, tokens = original_outputs(model, mel, [400])
    found = converted({"waveform": waveform, "padding_mask": np.ones((1, 100), bool)})
    np.testing.assert_allclose(ops.convert_to_numpy(found["latents"]), latents, atol=1e-3)
    clear = (np.abs(np.abs(latents) - 0.5) > 1e-3).all(axis=-1)
    np.testing.assert_array_equal(ops.convert_to_numpy(found["tokens"])[clear], tokens[clear])


@pytest.mark.slow_to_compile
def test_padding_anywhere_changes_nothing(tokenizer):
    waveform = speech(1, 20 * 640)
    inputs = {"waveform": waveform, "padding_mask": np.ones((1, 20), bool)}
    alone = ops.convert_to_numpy(tokenizer(inputs)["latents"])
    padded = np.full((2, 30 * 640), np.nan, "float32")
    padded[0, 10 * 640 :], padded[1, : 20 * 640] = waveform, waveform
    mask = np.arange(30) >= np.array([[10], [0]])
    mask[1, 20:] = False
    found = ops.convert_to_numpy(tokenizer({"waveform": padded, "padding_mask": mask})["latents"])
    np.testing.assert_allclose(found[0, 10:], alone[0], atol=1e-5)
    np.testing.assert_allclose(found[1, :20], alone[0], atol=1e-5)
    assert not found[~mask].any()


def test_tokens_are_the_rows_of_the_codebook(tokenizer):
    codebook = tokenizer.codebook
    assert codebook.shape == (tokenizer.vocabulary_size, 8) == (6561, 8)
    tokens = ops.convert_to_numpy(tokenizer.to_tokens(ops.convert_to_tensor(codebook[None])))
    np.testing.assert_array_equal(tokens[0], np.arange(6561))
    # The first dimension is the lowest digit, with the value -1 as 0.
    np.testing.assert_array_equal(codebook[5], [1, 0, -1, -1, -1, -1, -1, -1])


@pytest.mark.slow_to_compile
def test_tokenize_is_the_model_on_windows_that_wrap_around(tokenizer):
    waveform = speech(1, 26 * 640)[0, :-100]
    tokens = tokenizer.tokenize(waveform)
    window = waveform[np.arange(750 * 640) % len(waveform)][None]
    whole = tokenizer({"waveform": window, "padding_mask": np.ones((1, 750), bool)})
    np.testing.assert_array_equal(tokens, ops.convert_to_numpy(whole["tokens"])[0, :26])
    assert tokens.dtype == np.int32


def test_windows_overlap_and_continue_with_extra_values():
    seen = []

    def run(batch):
        seen.append(batch)
        return ops.convert_to_tensor(batch[:, :20:2])

    signal = np.arange(33)
    merged = run_in_windows(run, signal, 17, 2, windows_per_batch=2, extra=1, window=10, overlap=4)
    np.testing.assert_array_equal(merged, [*range(0, 33, 2)])
    assert [batch.shape for batch in seen] == [(2, 21), (1, 21)]
    # The last window starts at token 12, and is filled with the beginning.
    np.testing.assert_array_equal(seen[1][0], [*range(24, 33), *range(12)])
    with pytest.raises(ValueError, match="windows_per_batch must be at least 1, got 0"):
        run_in_windows(run, signal, 17, 2, windows_per_batch=0)


@pytest.mark.slow_to_compile
def test_saved_tokenizer_loads_to_the_same_latents(tokenizer, tmp_path):
    tokenizer.save_to_preset(str(tmp_path / "saved"))
    loaded = S3Tokenizer.from_preset(str(tmp_path / "saved"))
    inputs = {"waveform": speech(1, 20 * 640), "padding_mask": np.ones((1, 20), bool)}
    expected, found = tokenizer(inputs)["latents"], loaded(inputs)["latents"]
    np.testing.assert_array_equal(ops.convert_to_numpy(expected), ops.convert_to_numpy(found))
    assert loaded.get_config()["kernel_size"] == 5


@pytest.mark.slow_to_compile
def test_low_precision_stays_close(tokenizer, tmp_path):
    tokenizer.save_to_preset(str(tmp_path / "saved"))
    low = S3Tokenizer.from_preset(str(tmp_path / "saved"), dtype="bfloat16")
    inputs = {"waveform": speech(1, 20 * 640), "padding_mask": np.ones((1, 20), bool)}
    latents = low(inputs)["latents"]
    assert keras.backend.standardize_dtype(latents.dtype) == "float32"
    expected = ops.convert_to_numpy(tokenizer(inputs)["latents"])
    # Values are in (-1, 1), where bfloat16 has steps of up to 0.004; the mean of the errors was
    # 0.005 to 0.007 with three seeds, the largest 0.03 to 0.053.
    errors = np.abs(ops.convert_to_numpy(latents) - expected)
    assert errors.mean() < 0.01 and errors.max() < 0.1


def test_bad_input_gets_one_clear_line(tokenizer):
    with pytest.raises(ValueError, match="must hold whole steps of 640 samples, got 650"):
        tokenizer.encoder(np.zeros((1, 650), "float32"))
    with pytest.raises(ValueError, match="expected floats of shape"):
        tokenizer.tokenize(np.zeros(640, "int16"))
    with pytest.raises(ValueError, match="hidden_dim must be a multiple of 2 \\* num_heads"):
        S3Tokenizer(1, 3, 16, 32)


def spoil(folder, target, change):
    """Copies a checkpoint with changed tensors."""
    from safetensors.numpy import load_file, save_file

    for path in folder.glob("*.json"):
        (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors")


def test_chatterbox_s_file(original, converted, tmp_path):
    import torch
    from safetensors.torch import save_file

    state = {f"tokenizer.{k}": v.contiguous() for k, v in original[1].state_dict().items()}
    others = {"tokenizer.window": torch.zeros(400), "flow.encoder.bias": torch.zeros(3)}
    save_file({**state, **others}, tmp_path / "s3gen.safetensors")
    loaded = S3Tokenizer.from_preset(str(tmp_path))
    for expected, found in zip(converted.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(expected, found)
    random = S3Tokenizer.from_preset(str(tmp_path), load_weights=False, dtype="bfloat16")
    assert random.num_layers == 2 and random.compute_dtype == "bfloat16"


def test_bad_tensors_are_named(original, tmp_path):
    name = "encoder.blocks.1.attn.key.weight"
    for change, message in (
        (lambda t: t.pop(name), f"missing tensor {name}"),
        (lambda t: t.update({"encoder.ln.bias": np.ones(2)}), "unexpected tensor encoder.ln.bias"),
        (lambda t: t.update({name: np.ones((2, 3))}), f"{name}' has shape \\(2, 3\\); expected"),
    ):
        spoil(original[2], tmp_path, change)
        with pytest.raises(ValueError, match=message) as error:
            S3Tokenizer.from_preset(str(tmp_path))
        assert "\n" not in str(error.value)


def test_what_is_not_tensors_is_refused(tmp_path):
    (tmp_path / "speech_tokenizer_v2.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match="is an ONNX graph.*hf://ResembleAI/s3tokenizer-v2"):
        S3Tokenizer.from_preset(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"truncated")
    with pytest.raises(ValueError, match="is damaged or truncated"):
        S3Tokenizer.from_preset(str(tmp_path))
