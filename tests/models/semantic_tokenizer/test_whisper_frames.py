import keras
import numpy as np
import pytest
from contract import verify_sequence_contract
from keras import ops

from keras_speechssm.models.semantic_tokenizer.whisper_encoder import WhisperEncoder
from keras_speechssm.models.semantic_tokenizer.whisper_frames import (
    WhisperFrames,
    slaney_mel_filters,
)

SIZES = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 24}


def speech(*shape, seed=0):
    """Noise whose loudness changes, so that the range of 80 dB below the loudest matters."""
    rng = np.random.default_rng(seed)
    loudness = 10 ** rng.uniform(-5, -0.5, (*shape[:-1], shape[-1] // 320))
    return (np.repeat(loudness, 320, axis=-1) * rng.normal(size=shape)).astype("float32")


@pytest.fixture(scope="module")
def front_end():
    keras.utils.set_random_seed(0)
    layer = WhisperFrames(**SIZES)
    layer.build((None, None))
    return layer


def test_filters_by_their_definition():
    filters = slaney_mel_filters(80, 400)
    assert filters.shape == (201, 80) and filters.min() == 0
    centers = (np.arange(201) * 40.0) @ filters / filters.sum(axis=0)
    # Evenly spaced below 1 kHz, and by a constant factor above.
    low, high = centers[centers < 900], centers[centers > 1500]
    assert np.ptp(np.diff(low)[1:-1]) < 15
    ratios = high[1:-1] / high[:-2]
    assert np.ptp(ratios) < 0.02 and 1.03 < ratios.mean() < 1.05


def test_log_mel_is_whispers(front_end):
    transformers = pytest.importorskip("transformers")
    waveform = speech(1, 16 * 6400)
    # Whisper's extractor pads with zeros to 30 s and mirrors at both ends.
    extractor = transformers.WhisperFeatureExtractor(feature_size=80)
    expected = extractor(waveform[0], sampling_rate=16000, return_tensors="np")["input_features"]
    padded = np.pad(waveform, ((0, 0), (0, 480000 - waveform.shape[1])))
    found = ops.convert_to_numpy(front_end.log_mel(ops.convert_to_tensor(padded)))
    assert found.shape == (1, 3000, 80)
    np.testing.assert_allclose(found[0].T, expected[0], atol=1e-4)


def test_encoder_is_that_of_transformers():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from keras_speechssm.models.semantic_tokenizer.convert_whisper import assign_whisper_encoder

    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=8,
        max_source_positions=20,
        vocab_size=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    reference = transformers.WhisperModel(config).encoder.eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    encoder = WhisperEncoder(**SIZES, max_length=20)
    encoder.build((None, None, 80))
    state = {name: value.numpy() for name, value in reference.state_dict().items()}
    assign_whisper_encoder(encoder, _as_ctranslate2(state))
    log_mel = np.random.default_rng(0).normal(size=(2, 40, 80)).astype("float32")
    with torch.no_grad():
        expected = reference(torch.tensor(log_mel.transpose(0, 2, 1))).last_hidden_state.numpy()
    np.testing.assert_allclose(ops.convert_to_numpy(encoder(log_mel)), expected, atol=2e-5)


def _as_ctranslate2(state):
    arrays = {"position_encodings/encodings": state["embed_positions.weight"]}

    def copy(name, source, ending="bias", plain="bias"):
        arrays[f"{name}/{ending}"] = state[f"{source}.{plain}"]

    for number in (1, 2):
        copy(f"conv{number}", f"conv{number}", "weight", "weight")
        copy(f"conv{number}", f"conv{number}")
    norms = {"layer_norm": "layer_norm"}
    for i in range(2):
        source, attention = f"layers.{i}", f"layer_{i}/self_attention"
        parts = [state[f"{source}.self_attn.{p}_proj.weight"] for p in "qkv"]
        arrays[f"{attention}/linear_0/weight"] = np.concatenate(parts)
        query, value = (state[f"{source}.self_attn.{p}_proj.bias"] for p in "qv")
        arrays[f"{attention}/linear_0/bias"] = np.concatenate([query, np.zeros(16), value])
        denses = {
            f"{attention}/linear_1": "self_attn.out_proj",
            f"layer_{i}/ffn/linear_0": "fc1",
            f"layer_{i}/ffn/linear_1": "fc2",
        }
        for name, place in denses.items():
            copy(name, f"{source}.{place}", "weight", "weight")
            copy(name, f"{source}.{place}")
        norms[f"{attention}/layer_norm"] = f"{source}.self_attn_layer_norm"
        norms[f"layer_{i}/ffn/layer_norm"] = f"{source}.final_layer_norm"
    for name, source in norms.items():
        copy(name, source, "gamma", "weight")
        copy(name, source, "beta")
    return arrays


@pytest.mark.slow_to_compile
def test_sequence_contract(front_end):
    def make_input(rng, batch, time):
        return (0.1 * rng.normal(size=(batch, time, 640))).astype("float32")

    def call(x, padding_mask=None):
        return front_end(ops.reshape(x, (ops.shape(x)[0], -1)), padding_mask=padding_mask)

    verify_sequence_contract(
        front_end, make_input, call=call, causal=False, streaming=False, padding=True, resets=False
    )


def test_two_frames_of_20_ms_are_one_step(front_end):
    waveform = ops.convert_to_tensor(speech(1, 6400))
    frames = front_end.encoder(front_end.log_mel(waveform))
    assert frames.shape == (1, 20, 16)
    pairs = ops.convert_to_numpy(frames).reshape(1, 10, 32)
    expected = (pairs - pairs.mean(-1, keepdims=True)) / pairs.std(-1, keepdims=True)
    np.testing.assert_allclose(ops.convert_to_numpy(front_end(waveform)), expected, atol=1e-3)


def test_only_the_norm_learns_unless_the_encoder_is_to(front_end):
    assert len(front_end.trainable_weights) == 2
    whole = WhisperFrames(**SIZES, train_encoder=True)
    whole.build((None, None))
    assert len(whole.trainable_weights) == len(whole.weights) > 20
    copy = WhisperFrames.from_config(whole.get_config())
    assert copy.get_config() == whole.get_config()


def test_bad_input_gets_one_clear_line(front_end):
    with pytest.raises(ValueError, match="whole steps of 640 samples, got 100"):
        front_end(np.zeros((1, 100), "float32"))
    with pytest.raises(ValueError, match="at most 3000 frames, got 3004"):
        front_end(np.zeros((1, 751 * 640), "float32"))
    with pytest.raises(ValueError, match="multiple of num_heads, got 16 and 3"):
        WhisperFrames(**{**SIZES, "num_heads": 3})
