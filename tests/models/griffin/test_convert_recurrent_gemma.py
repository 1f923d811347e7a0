"""Griffin against the two reference libraries, on checkpoints that they write themselves."""

import json
import sys

import numpy as np
import pytest
import reference_models as reference
from keras import ops
from reference_models import VOCABULARY, WIDTH, WINDOW

from keras_speechssm.compilation import compile_inference
from keras_speechssm.models import GriffinBackbone, SpeechSSM
from keras_speechssm.models.convert import convert_checkpoint
from keras_speechssm.presets import PRESETS

pytest.importorskip("torch", reason="torch, in which two of the forms come, is not installed")
pytest.importorskip("recurrentgemma", reason="recurrentgemma (extra parity) is not installed")
pytest.importorskip("transformers", reason="transformers (extra parity) is not installed")

LENGTHS = (WINDOW - 1, 4 * WINDOW)
"""Below and beyond the window; causal models show all lengths up to the longest in it."""


@pytest.fixture(scope="module")
def flax():
    return reference.make_flax()


@pytest.fixture(scope="module")
def flax_expected(flax):
    """The reference's logits by length."""
    return {length: reference.flax_logits(*flax, tokens(length)) for length in LENGTHS}


@pytest.fixture(scope="module")
def hugging_face():
    return reference.make_hugging_face()


@pytest.fixture(scope="module", params=["flax", "flax in a folder below", "torch"])
def reference_folder(request, flax, tmp_path_factory):
    """A folder of one of the reference's two forms, as Kaggle's archives unpack."""
    import torch

    folder = tmp_path_factory.mktemp("checkpoint")
    if request.param == "flax":
        reference.save_flax(flax[1], folder / "2b")
        return folder / "2b"
    (folder / "tokenizer.model").write_bytes(b"")
    if request.param.startswith("flax"):
        reference.save_flax(flax[1]["params"], folder / "2b")  # the other nesting
        return folder
    state = reference.torch_state(flax[1])
    torch.save(state, folder / "2b.pt")
    return folder


def tokens(length, batch=2, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, (batch, length)).astype("int32")


def logits(backbone, token_ids, reset_mask=None):
    def forward(token_ids, reset_mask):
        inputs = {"token_ids": token_ids, "padding_mask": None, "reset_mask": reset_mask}
        return backbone.token_embedding(backbone(inputs), reverse=True)

    if reset_mask is None:
        reset_mask = np.zeros(token_ids.shape, bool)
    arrays = ops.convert_to_tensor(token_ids), ops.convert_to_tensor(reset_mask)
    return ops.convert_to_numpy(compile_inference(backbone, forward)(*arrays))


def test_flax_and_torch_checkpoints_give_the_reference_s_logits(reference_folder, flax_expected):
    backbone = GriffinBackbone.from_preset(str(reference_folder), attention_window=WINDOW)
    for length, expected in flax_expected.items():
        assert expected.std() > 0.3
        np.testing.assert_allclose(logits(backbone, tokens(length)), expected, atol=1e-4)


def check_start(model, folder, seed):
    """`model` is the text model in `folder` with new embeddings and without positions."""
    assert model.backbone.vocabulary_size == 32768 and not model.backbone.use_rotary
    text = GriffinBackbone.from_preset(str(folder))
    for new, old in zip(model.backbone.weights, text.weights, strict=True):
        if "token_embedding" not in new.path:
            assert new.dtype == old.dtype
            np.testing.assert_array_equal(*map(ops.convert_to_numpy, (new, old)))
    drawn = ops.convert_to_numpy(model.backbone.token_embedding.embeddings)
    assert abs(drawn.std() * WIDTH**0.5 - 1) < 0.01
    again = GriffinBackbone.from_text_preset(str(folder), 32768, seed=seed).token_embedding
    other = GriffinBackbone.from_text_preset(str(folder), 32768, seed=seed + 1).token_embedding
    np.testing.assert_array_equal(drawn, ops.convert_to_numpy(again.embeddings))
    assert np.abs(drawn - ops.convert_to_numpy(other.embeddings)).max() > 0.1


def test_the_paper_s_preset_starts_from_kaggle_s_checkpoint(reference_folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "kagglehub.model_download", lambda name: asked.append(name) or str(reference_folder)
    )
    check_start(SpeechSSM.from_preset("speech_ssm_2b", seed=3), reference_folder, seed=3)
    assert asked == ["google/recurrentgemma/flax/2b-it"]


def test_the_paper_s_preset_starts_from_hugging_face_s_checkpoint(
    hugging_face, tmp_path, monkeypatch
):
    hugging_face.save_pretrained(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name: str(tmp_path))
    monkeypatch.setitem(PRESETS["speech_ssm_9b"], "handle", "hf://google/recurrentgemma-9b-it")
    check_start(SpeechSSM.from_preset("speech_ssm_9b", seed=3), tmp_path, seed=3)
    with pytest.raises(ValueError, match="is a text model; .*SpeechSSM.from_text_preset"):
        SpeechSSM.from_preset("hf://google/recurrentgemma-9b-it")
    model = GriffinBackbone.from_preset("speech_ssm_9b", vocabulary_size=7, dtype="bfloat16")
    assert model.vocabulary_size == 7 and model.compute_dtype == "bfloat16"


def test_documents_start_where_the_reference_s_positions_do(reference_folder, flax):
    backbone = GriffinBackbone.from_preset(str(reference_folder), attention_window=WINDOW)
    positions = np.stack([np.r_[0:7, 0:1, 0:12], np.r_[0:20]])
    expected = reference.flax_logits(*flax, tokens(20), positions)
    np.testing.assert_allclose(logits(backbone, tokens(20), positions == 0), expected, atol=1e-4)


@pytest.mark.slow_to_compile
def test_hugging_face_shards_give_its_logits(hugging_face, tmp_path):
    hugging_face.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    backbone = GriffinBackbone.from_preset(str(tmp_path))
    for length in LENGTHS:
        # Its window counts the query itself; ours, the Flax reference's, does not.
        expected = reference.hugging_face_logits(hugging_face, tokens(length), WINDOW + 1)
        np.testing.assert_allclose(logits(backbone, tokens(length)), expected, atol=1e-4)
    shorter = reference.hugging_face_logits(hugging_face, tokens(20), WINDOW)
    assert np.abs(shorter - logits(backbone, tokens(20))).max() > 1e-2


@pytest.mark.slow_to_compile
def test_bfloat16_errs_no_more_than_the_reference_does(flax, tmp_path):
    """Against float32 logits of the same, rounded weights."""
    import jax
    import jax.numpy as jnp
    import torch

    model, params = flax
    rounded = jax.tree.map(lambda value: jnp.asarray(value, "bfloat16"), params)
    exact = reference.flax_logits(
        model, jax.tree.map(lambda value: value.astype("float32"), rounded), tokens(24)
    )
    torch.save(reference.torch_state(rounded), tmp_path / "2b.pt")
    backbone = GriffinBackbone.from_preset(str(tmp_path), attention_window=WINDOW)
    assert backbone.compute_dtype == backbone.variable_dtype == "bfloat16"
    theirs = np.abs(reference.flax_logits(model, rounded, tokens(24)) - exact)
    ours = np.abs(logits(backbone, tokens(24)).astype("float32") - exact)
    assert ours.mean() < 1.2 * theirs.mean() and ours.max() < 1.5 * theirs.max()
    wider = GriffinBackbone.from_preset(str(tmp_path), attention_window=WINDOW, dtype="float32")
    np.testing.assert_allclose(logits(wider, tokens(24)), exact, atol=1e-4)


def test_what_hugging_face_reads_back_gives_the_same_logits(hugging_face, tmp_path):
    from transformers import RecurrentGemmaForCausalLM

    from keras_speechssm.models.convert import convert_checkpoint

    hugging_face.save_pretrained(tmp_path / "theirs")
    convert_checkpoint(str(tmp_path / "theirs"), tmp_path / "keras")
    convert_checkpoint(str(tmp_path / "keras"), tmp_path / "back", to="hugging-face")
    convert_checkpoint(str(tmp_path / "theirs"), tmp_path / "straight", to="hugging-face")
    expected = reference.hugging_face_logits(hugging_face, tokens(20), WINDOW)
    for name in ("back", "straight"):
        model, report = RecurrentGemmaForCausalLM.from_pretrained(
            tmp_path / name, output_loading_info=True
        )
        assert not report["missing_keys"] and not report["unexpected_keys"]
        found = reference.hugging_face_logits(model.eval(), tokens(20), WINDOW)
        np.testing.assert_array_equal(found, expected)


def test_bfloat16_stays_bfloat16_through_every_form(tmp_path):
    import torch
    from transformers import RecurrentGemmaForCausalLM

    from keras_speechssm.models.convert import convert_checkpoint

    model = reference.make_hugging_face(dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "theirs")
    convert_checkpoint(str(tmp_path / "theirs"), tmp_path / "keras")
    backbone = GriffinBackbone.from_preset(str(tmp_path / "keras"), dtype="bfloat16")
    kept = {variable.path for variable in backbone.weights if variable.dtype != "bfloat16"}
    assert all("/rg_lru/" in path for path in kept)  # gates and decay are float32 always
    convert_checkpoint(str(tmp_path / "keras"), tmp_path / "back", to="hugging-face")
    back = RecurrentGemmaForCausalLM.from_pretrained(tmp_path / "back", dtype="auto")
    for (name, mine), theirs in zip(
        back.state_dict().items(), model.state_dict().values(), strict=True
    ):
        assert mine.dtype == torch.bfloat16, name
        assert torch.equal(mine, theirs), name


def break_tensor(folder, name, change):
    """Applies `change` to the tensors of the shard that holds `name`."""
    from safetensors.torch import load_file, save_file

    shard = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][name]
    tensors = load_file(folder / shard)
    change(tensors)
    save_file(tensors, folder / shard)


def test_a_wrong_tensor_is_named(hugging_face, tmp_path):
    name = "model.layers.1.temporal_block.rg_lru.recurrent_gate_bias"
    hugging_face.save_pretrained(tmp_path, max_shard_size="8KB")
    break_tensor(tmp_path, name, lambda tensors: tensors.update({name: tensors[name][:1].clone()}))
    with pytest.raises(ValueError, match=rf"{name}' has shape \(1, 16\).*needs \(2, 16\)"):
        GriffinBackbone.from_preset(str(tmp_path))
    break_tensor(tmp_path, name, lambda tensors: tensors.pop(name))
    with pytest.raises(ValueError, match=f"missing the tensor {name}"):
        GriffinBackbone.from_preset(str(tmp_path))
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    del content["weight_map"][name]
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"missing the tensor {name}"):
        GriffinBackbone.from_preset(str(tmp_path))


@pytest.mark.parametrize("damage", ["missing shard", "cut shard"])
def test_a_broken_shard_is_named(hugging_face, tmp_path, damage):
    hugging_face.save_pretrained(tmp_path, max_shard_size="8KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[2]
    if damage == "missing shard":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{shard.name}.*(missing|truncated)"):
        GriffinBackbone.from_preset(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_key_value_heads", 2), ("hidden_activation", "silu"), ("rms_norm_eps", 1e-5)],
)
def test_a_config_that_griffin_is_not_is_refused(hugging_face, tmp_path, name, value):
    hugging_face.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(ValueError, match=name):
        GriffinBackbone.from_preset(str(tmp_path))


@pytest.mark.parametrize(("module", "file"), [("orbax", "_METADATA"), ("torch", "2b.pt")])
def test_a_missing_reader_is_named(tmp_path, monkeypatch, module, file):
    (tmp_path / file).write_text("{}")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=f"needs {module}: pip install {module}"):
        GriffinBackbone.from_preset(str(tmp_path))


class Payload:
    """What a pickle may do while it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (self.mark, "w")


def test_code_in_a_torch_file_is_not_run(tmp_path):
    import torch

    (tmp_path / "checkpoint").mkdir()
    mark = tmp_path / "ran"
    torch.save({"embedder.input_embedding": Payload(str(mark))}, tmp_path / "checkpoint" / "2b.pt")
    with pytest.raises(ValueError, match="cannot be read as tensors alone"):
        GriffinBackbone.from_preset(str(tmp_path / "checkpoint"))
    assert not mark.exists()


@pytest.mark.parametrize("content", [{"epoch": 3, "state_dict": {}}, [1, 2]])
def test_a_torch_file_of_other_things_is_refused(tmp_path, content):
    import torch

    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="last.pt' is not a dictionary of tensors"):
        GriffinBackbone.from_preset(str(tmp_path))


def test_a_config_that_is_no_recurrent_gemma_s_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "recurrent_gemma"}')
    with pytest.raises(ValueError, match="config.json has no number hidden_size"):
        convert_checkpoint(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_handles_are_downloaded_and_read(hugging_face, flax, tmp_path, monkeypatch):
    hugging_face.save_pretrained(tmp_path / "hub")
    reference.save_flax(flax[1], tmp_path / "kaggle" / "2b")
    asked = []

    def give(folder):
        return lambda handle: asked.append(handle) or str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", give(tmp_path / "hub"))
    monkeypatch.setattr("kagglehub.model_download", give(tmp_path / "kaggle"))
    backbone = GriffinBackbone.from_preset("hf://google/recurrentgemma-2b-it")
    assert backbone.attention_window == WINDOW
    backbone = GriffinBackbone.from_preset("kaggle://google/recurrentgemma/flax/2b/1")
    assert backbone.attention_window == 2048
    assert asked == ["google/recurrentgemma-2b-it", "google/recurrentgemma/flax/2b/1"]
