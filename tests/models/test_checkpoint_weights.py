"""Speech models that begin with the weights of text models."""

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_speechssm.models import GriffinBackbone, SpeechSSM, SpeechTransformer
from keras_speechssm.models.griffin.convert_recurrent_gemma import (
    save_as_hugging_face,
    weight_reader,
    write_recurrent_gemma,
)

TEXT, AUDIO = 17, 9


@pytest.fixture(scope="module")
def text():
    keras.utils.set_random_seed(0)
    return GriffinBackbone(TEXT, 3, 16, 24, 2, lru_width=32, attention_window=6)


def values(variable):
    return ops.convert_to_numpy(variable)


def check_all_but_embeddings(text, backbone):
    assert backbone.vocabulary_size == AUDIO
    for old, new in zip(text.weights, backbone.weights, strict=True):
        if "token_embedding" in new.path:
            assert AUDIO in new.shape
        else:
            np.testing.assert_array_equal(values(new), values(old), err_msg=new.path)


@pytest.mark.parametrize("form", ["ours", "hugging-face"])
def test_speech_ssm_takes_all_but_embeddings_and_positions(text, tmp_path, form):
    if form == "ours":
        text.save_to_preset(str(tmp_path / "text"))
    else:
        save_as_hugging_face(text, tmp_path / "text", max_shard_bytes=4000)
        assert len(list((tmp_path / "text").glob("*-of-*.safetensors"))) > 3
    model = SpeechSSM.from_text_preset(str(tmp_path / "text"), vocabulary_size=AUDIO)
    check_all_but_embeddings(text, model.backbone)
    assert not model.backbone.use_rotary
    assert {**model.backbone.get_config(), "name": 0, "vocabulary_size": 0, "use_rotary": 0} == {
        **text.get_config(),
        "name": 0,
        "vocabulary_size": 0,
        "use_rotary": 0,
    }
    rotary = SpeechSSM.from_text_preset(str(tmp_path / "text"), AUDIO, use_rotary=True)
    assert rotary.backbone.use_rotary
    fresh = SpeechSSM.from_text_preset(str(tmp_path / "text"), AUDIO, load_weights=False)
    kernel = "griffin_block_0/mlp_block/up_dense/kernel"
    first, second = (
        next(values(v) for v in m.backbone.weights if v.path == kernel) for m in (model, fresh)
    )
    assert np.abs(first - second).max() > 0.1
    assert model.generate(np.array([[1, 2, 3]]), num_tokens=4, seed=0).max() < AUDIO


def test_nothing_is_drawn_that_a_checkpoint_overwrites(text, tmp_path, monkeypatch):
    save_as_hugging_face(text, tmp_path / "text")
    drawn = []
    draw = keras.initializers.RandomNormal.__call__

    def record(self, shape, dtype=None):
        drawn.append(tuple(shape))
        return draw(self, shape, dtype)

    for kind in ("RandomNormal", "VarianceScaling"):
        monkeypatch.setattr(getattr(keras.initializers, kind), "__call__", record)
    GriffinBackbone.from_preset(str(tmp_path / "text"))
    assert drawn == []
    model = SpeechSSM.from_text_preset(str(tmp_path / "text"), AUDIO)
    assert drawn == [(AUDIO, 16)]
    spread = values(model.backbone.token_embedding.embeddings).std()
    np.testing.assert_allclose(spread, 16**-0.5, rtol=0.3)


def test_the_vocabulary_of_the_paper_is_the_default(text, tmp_path):
    save_as_hugging_face(text, tmp_path / "text")
    model = SpeechSSM.from_text_preset(str(tmp_path / "text"))
    assert model.backbone.vocabulary_size == 32768


def decoder(name):
    if name == "gemma":
        return keras_hub.models.GemmaBackbone(TEXT, 2, 2, 1, 16, 32, 8)
    if name == "llama":
        return keras_hub.models.LlamaBackbone(TEXT, 2, 2, 16, 24, 1, tie_word_embeddings=False)
    return keras_hub.models.OPTBackbone(TEXT, 2, 2, 16, 24, max_sequence_length=32)


@pytest.mark.slow_to_compile
@pytest.mark.parametrize("name", ["gemma", "llama", "opt"])
def test_speech_transformer_takes_all_but_embeddings(tmp_path, name):
    keras.utils.set_random_seed(0)
    text = decoder(name)
    text.save_to_preset(str(tmp_path / "text"))
    model = SpeechTransformer.from_text_preset(
        str(tmp_path / "text"), vocabulary_size=AUDIO, max_length=12
    )
    check_all_but_embeddings(text, model.backbone)
    assert model.max_length == 12
    logits = ops.convert_to_numpy(model(np.array([[1, 2, 3]])))
    assert logits.shape == (1, 3, AUDIO)
    assert model.generate(np.array([[1, 2, 3]]), num_tokens=4, seed=0).shape == (1, 4)


def test_what_hugging_face_cannot_express_is_refused(text, tmp_path):
    config = {**text.get_config(), "use_rotary": False}
    with pytest.raises(ValueError, match="always has rotary positions"):
        write_recurrent_gemma(tmp_path / "out", config, weight_reader(text), "float32")
    assert not (tmp_path / "out").exists()
