import warnings

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_speechssm.models.semantic_tokenizer.phoneme_head import collapse
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.training.tokenizer import compile_tokenizer

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
    "masked_codebook_size": 8,
    "code_head": True,
    "seed": 0,
}


@pytest.fixture(scope="module")
def tokenizer():
    """Untrained, but with a front end and a codebook that tell noises apart."""
    keras.utils.set_random_seed(0)
    model = SemanticTokenizer(**SIZES)
    waveform = noise(1, 200 * 640, seed=1)
    model.log_mel.adapt(waveform)
    features = model.log_mel(ops.convert_to_tensor(waveform))
    latents = model.code_norm(model.code_dense(model._encode(features, None)))
    model.quantizer.codebook.assign(ops.convert_to_numpy(latents)[0, ::12][:16])
    return model


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
    assert 0 <= tokens.min() and tokens.max() < 16


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
    # The last window goes on with the beginning, the whole with zeros: compare before that.
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
    logits = tokenizer._recognize(tokenizer.decoder_dense(codes), None)
    classes = ops.convert_to_numpy(ops.argmax(logits, axis=-1))
    phonemes = tokenizer.phonemes(tokens)
    assert phonemes == [collapse(classes[0])]
    assert tokenizer.phonemes(tokens[0]) == phonemes[0]


def test_padding_holds_anything(tokenizer):
    waveform, mask = noise(1, 12 * 640), np.arange(12)[None] < 8
    spoiled = waveform.copy()
    # The analysis window of the last real step reaches 120 samples on.
    spoiled[0, 8 * 640 + 120 :] = np.nan
    outputs = [tokenizer({"waveform": w, "padding_mask": mask}) for w in (waveform, spoiled)]
    for name in ("phoneme_logits", "code_logits"):
        logits = [ops.convert_to_numpy(o[name]) for o in outputs]
        np.testing.assert_allclose(logits[1], logits[0], atol=1e-5)


def test_code_logits_know_their_token_only(tokenizer):
    outputs = tokenizer({"waveform": noise(1, 400 * 640), "padding_mask": np.ones((1, 400), bool)})
    tokens, alone, together = (
        ops.convert_to_numpy(outputs[name])[0]
        for name in ("tokens", "code_logits", "phoneme_logits")
    )
    often = np.bincount(tokens).argmax()
    assert np.ptp(alone[tokens == often], axis=0).max() < 1e-5
    assert np.ptp(together[tokens == often], axis=0).max() > 1e-3


def test_fit_lowers_the_loss_and_moves_the_codebook():
    keras.utils.set_random_seed(1)
    model = SemanticTokenizer(**SIZES)
    compile_tokenizer(model, 1e-2)
    x = {"waveform": noise(4, 20 * 640), "padding_mask": np.ones((4, 20), bool)}
    labels = np.zeros((4, 2, 20), "int32")  # for CTC, and for the steps whose phoneme is known
    labels[:, 0, :3] = [[1, 2, 3], [4, 4, 0], [0, 0, 0], [5, 0, 0]]
    y = {"phoneme_logits": labels, "code_logits": labels}
    before = ops.convert_to_numpy(model.quantizer.codebook)
    losses = model.fit(x, y, batch_size=4, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    assert not np.allclose(before, ops.convert_to_numpy(model.quantizer.codebook))


def test_training_adds_the_distance_of_the_pairs_before_they_are_quantized():
    labels = np.zeros((4, 2, 20), "int32")
    x = {"waveform": noise(4, 20 * 640), "padding_mask": np.ones((4, 20), bool)}

    def first_loss(weight):
        keras.utils.set_random_seed(1)
        model = SemanticTokenizer(**SIZES, mask_start_rate=0.0, agreement_weight=weight)
        compile_tokenizer(model)
        features = model.log_mel(ops.convert_to_tensor(x["waveform"]))
        latents = ops.convert_to_numpy(
            model.code_norm(model.code_dense(model._encode(features, None)))
        )
        loss = model.train_on_batch(x, {"phoneme_logits": labels, "code_logits": labels})
        return np.ravel(loss)[0], np.mean((latents[0::2] - latents[1::2]) ** 2)

    without, distance = first_loss(0.0)
    assert distance > 0.05
    np.testing.assert_allclose(first_loss(3.0)[0] - without, 3.0 * distance, rtol=1e-3)


def test_weights_of_before_there_was_a_code_head_find_their_places(tokenizer, tmp_path):
    """Keras stores equal layers by their order: the two heads must not be mixed up."""
    keras.utils.set_random_seed(3)
    plain = SemanticTokenizer(**{**SIZES, "code_head": False})
    plain.save_weights(tmp_path / "plain.weights.h5")
    keras.utils.set_random_seed(4)
    with_head = SemanticTokenizer(**SIZES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the head that the file does not have
        with_head.load_weights(tmp_path / "plain.weights.h5", skip_mismatch=True)
    for name in ("phoneme_head", "decoder_dense", "code_dense", "input_dense"):
        old, new = (getattr(model, name).get_weights()[0] for model in (plain, with_head))
        np.testing.assert_array_equal(new, old)


def test_preset_round_trip(tokenizer, tmp_path):
    tokenizer.save_to_preset(str(tmp_path / "preset"))
    waveform = noise(5000)
    expected = tokenizer.tokenize(waveform)
    for base in (SemanticTokenizer, keras_hub.models.Backbone):
        loaded = base.from_preset(str(tmp_path / "preset"))
        assert isinstance(loaded, SemanticTokenizer)
        np.testing.assert_array_equal(loaded.tokenize(waveform), expected)
    assert loaded.get_config() == tokenizer.get_config()


def test_bad_input_gets_one_clear_line(tokenizer):
    with pytest.raises(ValueError, match=r"holds 0.00 s of audio"):
        tokenizer.tokenize(np.zeros(0))
    with pytest.raises(ValueError, match="Divide 16-bit integers by 32768"):
        tokenizer.tokenize(np.zeros(640, "int16"))
    with pytest.raises(ValueError, match="NaN or infinite"):
        tokenizer.tokenize(np.full(640, np.nan))
    with pytest.raises(ValueError, match=r"0 .. 15, got 3 .. 16"):
        tokenizer.phonemes(np.array([3, 16]))
    with pytest.raises(ValueError, match="windows_per_batch must be at least 1, got 0"):
        tokenizer.tokenize(noise(640), windows_per_batch=0)
