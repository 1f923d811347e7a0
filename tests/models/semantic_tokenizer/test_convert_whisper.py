import struct

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_speechssm.models.semantic_tokenizer.convert_whisper import (
    arrays_of_backbone,
    load_whisper_frames,
    read_ctranslate2,
)


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(0)
    model = keras_hub.models.WhisperBackbone(
        vocabulary_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=128,
        intermediate_dim=32,
        num_mels=8,
        max_encoder_sequence_length=80,
        max_decoder_sequence_length=4,
    )
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(scale=0.1, size=weight.shape))
    return model


def encode(backbone, log_mel):
    """The encoder's part of KerasHub's graph."""
    keras_model = keras.Model(
        backbone.input["encoder_features"], backbone.output["encoder_sequence_output"]
    )
    return ops.convert_to_numpy(keras_model(log_mel))


def write_ctranslate2(path, arrays, kind=0):
    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    content = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<I", 3)
    arrays = {"decoder/other/weight": np.zeros((2, 2), "float32"), **arrays}
    content += struct.pack("<I", len(arrays))
    for name, array in arrays.items():
        array = array.astype({0: "float32", 1: "int8", 4: "float16"}[kind])
        content += text(name) + struct.pack("<B", array.ndim)
        content += b"".join(struct.pack("<I", size) for size in array.shape)
        content += struct.pack("<B", kind) + struct.pack("<I", array.nbytes) + array.tobytes()
    path.write_bytes(content)


@pytest.mark.slow_to_compile
def test_keras_hub_and_ctranslate2_give_the_same_features(backbone, tmp_path):
    log_mel = np.random.default_rng(1).normal(size=(1, 80, 8)).astype("float32")
    expected = encode(backbone, log_mel)
    arrays = arrays_of_backbone(backbone)
    named = {f"encoder/{name}": array for name, array in arrays.items()}
    write_ctranslate2(tmp_path / "model.bin", named)
    for source in (tmp_path, tmp_path / "model.bin"):
        front_end = load_whisper_frames(source)
        assert front_end.num_heads == 2 and front_end.max_length == 40
        found = ops.convert_to_numpy(front_end.encoder(log_mel))
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_keras_hub_preset_loads(backbone, tmp_path):
    backbone.save_to_preset(str(tmp_path / "whisper"))
    log_mel = np.random.default_rng(1).normal(size=(1, 80, 8)).astype("float32")
    front_end = load_whisper_frames(tmp_path / "whisper", train_encoder=True)
    found = ops.convert_to_numpy(front_end.encoder(log_mel))
    np.testing.assert_allclose(found, encode(backbone, log_mel), atol=1e-4)
    assert front_end.encoder.trainable


def test_float16_is_read_and_int8_is_refused(backbone, tmp_path):
    arrays = {"encoder/conv1/weight": np.ones((4, 2, 3))}
    write_ctranslate2(tmp_path / "half.bin", arrays, kind=4)
    assert read_ctranslate2(tmp_path / "half.bin")["conv1/weight"].dtype == np.float32
    write_ctranslate2(tmp_path / "int8.bin", {**arrays}, kind=1)
    with pytest.raises(ValueError, match="quantized weights; convert Whisper with float16"):
        read_ctranslate2(tmp_path / "int8.bin")


def test_other_files_get_one_clear_line(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"no model")
    with pytest.raises(ValueError, match="is not a CTranslate2 model, or it is truncated"):
        load_whisper_frames(tmp_path)
    write_ctranslate2(tmp_path / "model.bin", {})
    with pytest.raises(ValueError, match="has no encoder of Whisper"):
        load_whisper_frames(tmp_path)
    with pytest.raises(ValueError, match="neither a CTranslate2 folder of Whisper nor a KerasHub"):
        load_whisper_frames(tmp_path / "absent")
