import json
import os

import keras
import numpy as np
import pytest
from keras import ops
from original_parts import hidden_states, make_base_hubert, make_hubert

from keras_speechssm.models import HubertTokenizer

SIZES = {
    "vocabulary_size": 10,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 24,
    "conv_channels": (8, 8, 8),
    "conv_kernels": (10, 8, 16),
    "conv_strides": (5, 8, 16),
    "position_kernel": 8,
    "position_groups": 2,
}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype("float32")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hubert")
    model = make_hubert(folder)
    features = hidden_states(model, noise(1, 640 * 40 + 5), 2)[0]
    np.save(folder / "km.npy", features[::4].astype("float64"))
    return model, folder


@pytest.fixture(scope="module")
def converted(original):
    folder = original[1]
    return HubertTokenizer.from_preset(str(folder), layer=2, kmeans=folder / "km.npy")


@pytest.fixture(scope="module")
def tokenizer():
    keras.utils.set_random_seed(0)
    return HubertTokenizer(**SIZES)


def test_parity_with_transformers(original, converted):
    """The features of each row alone, from a batch padded with anything."""
    model, _ = original
    extra = converted.encoder.extra_samples
    assert converted.samples_per_token == 640 and extra == 5
    lengths = [12, 9]
    rows = [noise(n * 640, seed=n) for n in lengths]
    expected = [hidden_states(model, np.pad(row, (0, extra))[None], 2)[0] for row in rows]
    mask = np.arange(14) < np.array(lengths)[:, None]
    mask[1] = mask[1][::-1]  # padding before the second row
    waveform = np.full((2, 14 * 640), np.nan, "float32")
    waveform[np.repeat(mask, 640, axis=1)] = np.concatenate(rows)
    found = converted({"waveform": waveform, "padding_mask": mask})
    features = ops.convert_to_numpy(found["features"])
    np.testing.assert_allclose(features[mask], np.concatenate(expected), atol=1e-4)
    assert not features[~mask].any()
    distances = np.linalg.norm(features[mask][:, None] - converted.codebook, axis=-1)
    tokens = ops.convert_to_numpy(found["tokens"])
    np.testing.assert_array_equal(tokens[mask], distances.argmin(axis=1))
    assert not tokens[~mask].any()


def test_whole_recordings_are_windows_without_zeros_at_the_end(original, converted):
    waveform = noise(30 * 640, seed=3)
    extra = converted.encoder.extra_samples
    window = waveform[np.arange(750 * 640 + extra) % len(waveform)][None]
    features = hidden_states(original[0], window, 2)[0]
    distances = np.sort(np.linalg.norm(features[:, None] - converted.codebook, axis=-1), axis=1)
    clear = (distances[:, 1] - distances[:, 0] > 1e-3)[:30]
    expected = np.linalg.norm(features[:30, None] - converted.codebook, axis=-1).argmin(axis=1)
    tokens = converted.tokenize(waveform)
    assert tokens.shape == (30,) and tokens.dtype == np.int32 and clear.mean() > 0.8
    np.testing.assert_array_equal(tokens[clear], expected[clear])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mhubert", "hubert"])
def test_parity_at_full_size(tmp_path, name):
    model = make_base_hubert(tmp_path, name)
    np.save(tmp_path / "km.npy", np.random.default_rng(0).normal(size=(500, 768)))
    layer = 11 if name == "mhubert" else 6
    converted = HubertTokenizer.from_preset(str(tmp_path), layer=layer, kmeans=tmp_path / "km.npy")
    assert converted.encoder.extra_samples == 80
    waveform = noise(1, 32000)
    expected = hidden_states(model, np.pad(waveform, ((0, 0), (0, 80))), layer)
    steps = 32000 // converted.samples_per_token
    mask = np.ones((1, steps), bool)
    found = converted({"waveform": waveform, "padding_mask": mask})["features"]
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-3)


@pytest.mark.slow_to_compile
def test_saved_tokenizer_loads_to_the_same_tokens(tokenizer, tmp_path):
    tokenizer.save_to_preset(str(tmp_path / "saved"))
    loaded = HubertTokenizer.from_preset(str(tmp_path / "saved"))
    inputs = {"waveform": noise(1, 640 * 5), "padding_mask": np.ones((1, 5), bool)}
    expected, found = tokenizer(inputs), loaded(inputs)
    for name in expected:
        np.testing.assert_array_equal(
            ops.convert_to_numpy(expected[name]), ops.convert_to_numpy(found[name])
        )
    assert loaded.vocabulary_size == 10 and loaded.codebook.shape == (10, 16)


@pytest.mark.slow_to_compile
def test_low_precision_stays_close(tmp_path):
    # oneDNN 3 errs by several standard deviations in bfloat16 convolutions of few channels whose
    # stride is 8 or more, on processors with AMX. The strides of HuBERT are at most 5.
    strides = {"conv_kernels": (10, 4, 4, 4, 2), "conv_strides": (5, 4, 4, 4, 2)}
    keras.utils.set_random_seed(0)
    tokenizer = HubertTokenizer(**SIZES | strides | {"conv_channels": (8,) * 5})
    tokenizer.save_to_preset(str(tmp_path / "saved"))
    low = HubertTokenizer.from_preset(str(tmp_path / "saved"), dtype="bfloat16")
    inputs = {"waveform": noise(1, 640 * 5), "padding_mask": np.ones((1, 5), bool)}
    found = ops.convert_to_numpy(ops.cast(low(inputs)["features"], "float32"))
    errors = np.abs(found - ops.convert_to_numpy(tokenizer(inputs)["features"]))
    # With three seeds the mean was 0.01 on JAX, 0.04 to 0.06 on TensorFlow and PyTorch, the
    # largest 0.29; with the wrong convolutions the mean is 0.9 or more.
    assert errors.mean() < 0.1 and errors.max() < 0.3


def test_the_file_of_a_task_and_the_old_weight_norm(original, converted, tmp_path):
    import torch

    state = original[0].state_dict()
    old = {
        f"hubert.{name}".replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in state.items()
    }
    torch.save({**old, "lm_head.weight": torch.zeros(3, 16)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((original[1] / "config.json").read_text())
    loaded = HubertTokenizer.from_preset(str(tmp_path), layer=2, kmeans=original[1] / "km.npy")
    for expected, found in zip(converted.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(expected, found)


def test_what_does_not_fit_gets_one_clear_line(original, tmp_path):
    folder = original[1]
    load = HubertTokenizer.from_preset
    with pytest.raises(ValueError, match="needs layer= and kmeans="):
        load(str(folder))
    with pytest.raises(ValueError, match="layer is 4; expected 1 to 3"):
        load(str(folder), layer=4, kmeans=folder / "km.npy")
    np.save(tmp_path / "other.npy", np.ones((4, 5)))
    with pytest.raises(ValueError, match="has centers of 5 dimensions; this HuBERT has 16"):
        load(str(folder), layer=2, kmeans=tmp_path / "other.npy")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "feat_extract_norm": "layer"}))
    with pytest.raises(ValueError, match="feat_extract_norm='layer'; only HuBERT base"):
        load(str(tmp_path), layer=2, kmeans=folder / "km.npy")


def spoil(folder, target, change):
    """Copies a checkpoint with changed tensors."""
    from safetensors.numpy import load_file, save_file

    for path in folder.glob("*.json"):
        (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors")


def test_bad_tensors_are_named(original, tmp_path):
    name, center = "encoder.layers.1.attention.k_proj.weight", original[1] / "km.npy"
    for change, message in (
        (lambda t: t.pop(name), f"missing tensor {name}"),
        (lambda t: t.update({"encoder.ln": np.ones(2)}), "unexpected tensor encoder.ln"),
        (lambda t: t.update({name: np.ones((2, 3))}), f"{name}' has shape \\(2, 3\\); expected"),
    ):
        spoil(original[1], tmp_path, change)
        with pytest.raises(ValueError, match=message) as error:
            HubertTokenizer.from_preset(str(tmp_path), layer=2, kmeans=center)
        assert "\n" not in str(error.value)


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_read_as_tensors_alone(original, tmp_path):
    import torch

    (tmp_path / "config.json").write_text((original[1] / "config.json").read_text())
    torch.save({"a": Attack(tmp_path / "made")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read as tensors alone"):
        HubertTokenizer.from_preset(str(tmp_path), layer=2, kmeans=original[1] / "km.npy")
    assert not (tmp_path / "made").exists()
