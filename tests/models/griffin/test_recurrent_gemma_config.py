"""Fields of a RecurrentGemma config that would change the model are refused, not ignored."""

import json

import pytest

from keras_speechssm.models.griffin.convert_recurrent_gemma import open_recurrent_gemma

pytestmark = pytest.mark.any_backend

CONFIG = {
    "model_type": "recurrent_gemma",
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 32,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "attention_window_size": 8,
    "hidden_activation": "gelu_pytorch_tanh",
    "block_types": ["recurrent", "recurrent", "attention"],
    "partial_rotary_factor": 0.5,
    "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"},
    "rope_scaling": None,
}


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"partial_rotary_factor": 1.0},
        {"rope_theta": 500_000.0},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0}},
        {"rope_parameters": {"type": "yarn"}},
        {"rope_parameters": {"rope_theta": 10_000.0, "partial_rotary_factor": 0.25}},
        {"rope_parameters": {"rope_theta": 1.0}},
        {"rope_parameters": {"sliding_attention": {"rope_theta": 10_000.0}}},
        {"embeddings_scale_by_sqrt_dim": False},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
    ],
)
def test_a_field_that_changes_the_model_is_refused(tmp_path, fields):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **fields}))
    with pytest.raises(ValueError, match=next(iter(fields))) as caught:
        open_recurrent_gemma(tmp_path)
    assert "GriffinBackbone supports" in str(caught.value) and "\n" not in str(caught.value)


def test_the_plain_config_passes_these_checks(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ValueError, match="safetensors"):  # the weights are missing
        open_recurrent_gemma(tmp_path)
