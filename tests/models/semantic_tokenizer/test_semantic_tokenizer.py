import json

import h5py
import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_speechssm.models.semantic_tokenizer.log_mel_frames import LogMelFrames
from keras_speechssm.models.semantic_tokenizer.phoneme_head import collapse
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer_pretraining import (
    SemanticTokenizerPretraining,
)
from keras_speechssm.models.semantic_tokenizer.whisper_frames import WhisperFrames
from keras_speechssm.training.tokenizer import PhonemeLoss, phoneme_outputs

SIZES = {
    "vocabulary_size": 16,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "hidden_dim": 8,
    "num_heads": 2,
    "intermediate_dim": 8,
    "num_phonemes": 5,
    "num_mels": 16,
    "attention_context": 8,
}
PRETRAINING = {"masked_codebook_size": 8, "code_head": True, "seed": 0}


def small_whisper():
    return WhisperFrames(1, 2, 8, 8, num_mels=16)


@pytest.fixture(scope="module")
def tokenizer():
    """Untrained, but with a front end and a codebook that tell noises apart."""
    keras.utils.set_random_seed(0)
    model = SemanticTokenizer(**SIZES)
    waveform = noise(1, 200 * 640, seed=1)
    model.front_end.adapt(waveform)
    model.quantizer.codebook.assign(latents_of(model, waveform)[0, ::12][:16])
    return model


@pytest.fixture(scope="module")
def whisper_tokenizer():
    keras.utils.set_random_seed(0)
    model = SemanticTokenizer(**SIZES, front_end=small_whisper())
    waveform = noise(1, 200 * 640, seed=1)
    model.quantizer.codebook.assign(latents_of(model, waveform)[0, ::12][:16])
    return model


def latents_of(model, waveform):
    features = model.front_end(ops.convert_to_tensor(waveform))
    return ops.convert_to_numpy(model.to_latents(model.encode(features)))


def compile_tokenizer(model, learning_rate=1e-3):
    model.compile(
        optimizer=keras.optimizers.AdamW(learning_rate),
        loss={name: PhonemeLoss() for name in phoneme_outputs(model)},
    )


def noise(*shape, seed=0):
    """Noise whose loudness and color change every 0.2 s."""
    rng = np.random.default_rng(seed)
    waveform = rng.normal(size=shape)
    blocks = (*shape[:-1], -(-shape[-1] // 3200))
    loudness, color = (
        np.repeat(values, 3200, axis=-1)[..., : shape[-1]]
        for values in (10 ** rng.uniform(-3, -0.5, blocks), rng.uniform(-1, 1, blocks))
    )
    return (loudness * (waveform + color * np.roll(waveform, 1, axis=-1))).astype("float32")


def direct(tokenizer, waveform):
    """Tokens of whole steps, without windows."""
    return ops.convert_to_numpy(tokenizer._tokens(ops.convert_to_tensor(waveform[None])))[0]


def test_one_token_for_640_samples_rounded_up(tokenizer):
    for samples, expected in ((1, 1), (640, 1), (641, 2), (16000, 25)):
        tokens = tokenizer.tokenize(noise(samples))
        assert tokens.shape == (expected,) and tokens.dtype == np.int32
    assert tokens.min() >= 0 and tokens.max() < 16


def test_the_gap_is_filled_with_the_beginning(tokenizer):
    waveform = noise(1000)
    wrapped = np.resize(waveform, 750 * 640)
    np.testing.assert_array_equal(tokenizer.tokenize(waveform), direct(tokenizer, wrapped)[:2])


def test_windows_give_what_the_whole_gives(tokenizer):
    # Contexts of this model are far below half an overlap, so the cuts leave no trace.
    waveform = noise(1600 * 640)
    tokens = tokenizer.tokenize(waveform)
    whole = direct(tokenizer, waveform)
    assert len(np.unique(whole)) > 8
    # The last window continues with the beginning, the whole with zeros: compare before that.
    assert np.mean(tokens[:1500] == whole[:1500]) > 0.995  # sums may round differently


def test_a_batch_gives_what_each_gives_alone(tokenizer):
    batch = noise(2, 800 * 640)
    together = tokenizer.tokenize(batch)
    assert together.shape == (2, 800)
    for row in range(2):
        alone = tokenizer.tokenize(batch[row], windows_per_batch=1)
        assert np.mean(together[row] == alone) > 0.99  # sums may round differently


def test_model_agrees_with_tokenize_and_phonemes(tokenizer):
    waveform = noise(1, 750 * 640)
    mask = np.ones((1, 750), bool)
    outputs = tokenizer.predict({"waveform": waveform, "padding_mask": mask}, verbose=0)
    tokens = tokenizer.tokenize(waveform)
    assert np.mean(outputs["tokens"] == tokens) > 0.99
    codes = tokenizer.quantizer.decode(ops.convert_to_tensor(tokens))
    logits = tokenizer.recognize(tokenizer.decoder_dense(codes))
    classes = ops.convert_to_numpy(ops.argmax(logits, axis=-1))
    phonemes = tokenizer.phonemes(tokens)
    assert phonemes == [collapse(classes[0])]
    assert tokenizer.phonemes(tokens[0]) == phonemes[0]


@pytest.mark.slow_to_compile
def test_padding_holds_anything(tokenizer):
    waveform, mask = noise(1, 12 * 640), np.arange(12)[None] < 8
    spoiled = waveform.copy()
    # The analysis window of the last real step reaches 120 samples on.
    spoiled[0, 8 * 640 + 120 :] = np.nan
    training = SemanticTokenizerPretraining(tokenizer, **PRETRAINING)
    outputs = [training({"waveform": w, "padding_mask": mask}) for w in (waveform, spoiled)]
    for name in ("phoneme_logits", "code_logits"):
        logits = [ops.convert_to_numpy(o[name]) for o in outputs]
        np.testing.assert_allclose(logits[1], logits[0], atol=1e-5)


@pytest.mark.slow
def test_padding_changes_nothing_behind_a_whisper_encoder(whisper_tokenizer):
    model = whisper_tokenizer
    waveform = noise(2, 12 * 640)
    real = np.arange(12)[None] < np.array([[8], [12]])
    padded = np.where(np.repeat(real, 640, axis=1), waveform, np.nan)
    for mask, row in ((real, padded), (real[:, ::-1], padded.reshape(2, 12, 640)[:, ::-1])):
        # Reversed, the padding comes first, and the steps come in another order.
        row, mask = np.ascontiguousarray(row.reshape(2, -1)), np.ascontiguousarray(mask)
        together = model({"waveform": row, "padding_mask": mask})
        alone = row[0].reshape(12, 640)[mask[0]].reshape(1, -1)
        alone = model({"waveform": alone, "padding_mask": np.ones((1, 8), bool)})
        np.testing.assert_allclose(
            ops.convert_to_numpy(together["phoneme_logits"])[0][mask[0]],
            ops.convert_to_numpy(alone["phoneme_logits"])[0],
            atol=1e-5,
        )


@pytest.mark.slow_to_compile
def test_code_logits_know_their_token_only(tokenizer):
    training = SemanticTokenizerPretraining(tokenizer, **PRETRAINING)
    outputs = training({"waveform": noise(1, 400 * 640), "padding_mask": np.ones((1, 400), bool)})
    tokens, alone, together = (
        ops.convert_to_numpy(outputs[name])[0]
        for name in ("tokens", "code_logits", "phoneme_logits")
    )
    often = np.bincount(tokens).argmax()
    assert np.ptp(alone[tokens == often], axis=0).max() < 1e-5
    assert np.ptp(together[tokens == often], axis=0).max() > 1e-3


@pytest.mark.slow_to_compile
@pytest.mark.parametrize("front_end", [None, small_whisper])
def test_pretraining_lowers_the_loss_and_moves_the_codebook(front_end):
    keras.utils.set_random_seed(1)
    model = SemanticTokenizer(**SIZES, front_end=front_end and front_end())
    training = SemanticTokenizerPretraining(model, **PRETRAINING)
    compile_tokenizer(training, 1e-2)
    x = {"waveform": noise(4, 20 * 640), "padding_mask": np.ones((4, 20), bool)}
    labels = np.zeros((4, 2, 20), "int32")  # for CTC, and for the steps whose phoneme is known
    labels[:, 0, :3] = [[1, 2, 3], [4, 4, 0], [0, 0, 0], [5, 0, 0]]
    y = {"phoneme_logits": labels, "code_logits": labels}
    codes = ops.convert_to_numpy(model.quantizer.codebook)
    fixed = front_end and [w.copy() for w in model.front_end.encoder.get_weights()]
    losses = training.fit(x, y, batch_size=4, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.85 * losses[0]
    assert not np.allclose(codes, ops.convert_to_numpy(model.quantizer.codebook))
    if fixed:  # the encoder is kept as it was trained
        for before, after in zip(fixed, model.front_end.encoder.get_weights(), strict=True):
            np.testing.assert_array_equal(after, before)


@pytest.mark.slow_to_compile
def test_the_tokenizer_itself_works_in_fit():
    keras.utils.set_random_seed(1)
    model = SemanticTokenizer(**SIZES)
    compile_tokenizer(model, 1e-2)
    x = {"waveform": noise(4, 20 * 640), "padding_mask": np.ones((4, 20), bool)}
    labels = np.zeros((4, 2, 20), "int32")
    labels[:, 0, :2] = [[1, 2], [4, 4], [3, 0], [5, 0]]
    losses = model.fit(x, {"phoneme_logits": labels}, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.85 * losses[0]


@pytest.mark.slow_to_compile
def test_training_adds_the_distance_of_the_pairs_before_they_are_quantized():
    labels = np.zeros((4, 2, 20), "int32")
    x = {"waveform": noise(4, 20 * 640), "padding_mask": np.ones((4, 20), bool)}

    def first_loss(weight):
        keras.utils.set_random_seed(1)
        model = SemanticTokenizer(**SIZES)
        training = SemanticTokenizerPretraining(
            model, **PRETRAINING, mask_start_rate=0.0, agreement_weight=weight
        )
        compile_tokenizer(training)
        latents = latents_of(model, x["waveform"])
        loss = training.train_on_batch(x, {"phoneme_logits": labels, "code_logits": labels})
        return np.ravel(loss)[0], np.mean((latents[0::2] - latents[1::2]) ** 2)

    without, distance = first_loss(0.0)
    assert distance > 0.05
    np.testing.assert_allclose(first_loss(3.0)[0] - without, 3.0 * distance, rtol=1e-3)


@pytest.mark.slow_to_compile
def test_pretraining_counts_each_loss_and_each_weight_once():
    model = SemanticTokenizer(**SIZES)
    training = SemanticTokenizerPretraining(model, **PRETRAINING, mask_start_rate=0.5)
    training({"waveform": noise(1, 6400), "padding_mask": np.ones((1, 10), bool)}, training=True)
    if keras.backend.backend() != "jax":  # there, losses live in the scope of a step
        assert len(training.losses) == 2  # masked prediction and commitment
    weights = training.weights
    assert len({id(weight) for weight in weights}) == len(weights)
    copy = SemanticTokenizerPretraining.from_config(training.get_config())
    assert copy.get_config() == training.get_config()
    assert [w.shape for w in copy.weights] == [w.shape for w in weights]


def test_a_whisper_encoder_has_no_spectrum_to_perturb(whisper_tokenizer):
    with pytest.raises(ValueError, match="max_warp and coloration need a LogMelFrames front end"):
        SemanticTokenizerPretraining(whisper_tokenizer, max_warp=0.1)
    with pytest.raises(ValueError, match="front_end must be a LogMelFrames or a WhisperFrames"):
        SemanticTokenizer(**SIZES, front_end=keras.layers.Dense(4))


@pytest.mark.parametrize("kind", ["tokenizer", "whisper_tokenizer"])
def test_preset_round_trip(kind, request, tmp_path):
    model = request.getfixturevalue(kind)
    model.save_to_preset(str(tmp_path / "preset"))
    waveform = noise(5000)
    expected = model.tokenize(waveform)
    for base in (SemanticTokenizer, keras_hub.models.Backbone):
        loaded = base.from_preset(str(tmp_path / "preset"))
        assert isinstance(loaded, SemanticTokenizer)
        np.testing.assert_array_equal(loaded.tokenize(waveform), expected)
    assert loaded.get_config() == model.get_config()


def test_presets_of_version_0_1_load_with_equal_tokens(tokenizer, tmp_path):
    """There the quantizer was a separate class, and training's arguments were in the config."""
    folder = tmp_path / "preset"
    tokenizer.save_to_preset(str(folder))
    config = json.loads((folder / "config.json").read_text())
    del config["config"]["front_end"]
    config["config"] |= {
        "max_warp": 0.18,
        "coloration": 0.3,
        "mask_start_rate": 0.0,
        "mask_span": 10,
        "masked_codebook_size": 8,
        "masked_loss_weight": 0.1,
        "commitment_weight": 0.1,
        "agreement_weight": 1.0,
        "code_head": True,
        "seed": 6,
    }
    (folder / "config.json").write_text(json.dumps(config))
    with h5py.File(folder / "model.weights.h5", "a") as file:
        layers = file["layers"]
        layers.move("vector_quantizer", "gradual_vector_quantizer")
        layers["gradual_vector_quantizer/vars"].create_dataset("3", data=np.float32(1))
        layers.create_group("masked_prediction/vars")
        layers.create_group("code_head/dense/vars")
    loaded = SemanticTokenizer.from_preset(str(folder))
    waveform = noise(5000)
    np.testing.assert_array_equal(loaded.tokenize(waveform), tokenizer.tokenize(waveform))
    assert isinstance(loaded.front_end, LogMelFrames) and loaded.num_mels == 16


def test_the_bundled_preset_loads():
    tokenizer = SemanticTokenizer.from_preset("speech_ssm_demo_en")
    assert tokenizer.tokenize(noise(16000)).shape == (25,)


def test_bad_input_gets_one_clear_line(tokenizer):
    with pytest.raises(ValueError, match=r"holds 0.00 s of audio"):
        tokenizer.tokenize(np.zeros(0))
    with pytest.raises(ValueError, match="Divide 16-bit integers by 32768"):
        tokenizer.tokenize(np.zeros(640, "int16"))
    with pytest.raises(ValueError, match="NaN or infinite"):
        tokenizer.tokenize(np.full(640, np.nan))
    with pytest.raises(ValueError, match=r"ids from 3 to 16; expected 0 to 15"):
        tokenizer.phonemes(np.array([3, 16]))
    with pytest.raises(ValueError, match="windows_per_batch must be at least 1, got 0"):
        tokenizer.tokenize(noise(640), windows_per_batch=0)
