import keras_hub
import numpy as np
import pytest

from keras_speechssm.evaluation.models.keras_hub_transcriber import (
    KerasHubTranscriber,
    KerasHubWhisper,
)

pytestmark = pytest.mark.any_backend

SPECIAL = ["<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>"]
SPECIAL += ["<|transcribe|>", "<|translate|>", "<|en|>"]


class Recognizer:
    def __init__(self):
        self.shapes = []

    def generate(self, inputs):
        self.shapes.append(inputs["audio"].shape)
        return ["The Mill."]


def test_pieces_are_padded_to_one_length_and_words_are_placed():
    model = Recognizer()
    transcribe = KerasHubTranscriber(model, "tiny", piece_seconds=2.0)
    waveform = np.full(16000 * 3, 0.1, "float32")
    words = transcribe(waveform)
    assert transcribe.name == "tiny"
    assert model.shapes == [(1, 32000)] * len(model.shapes) and len(model.shapes) >= 2
    assert [word.text for word in words[:2]] == ["the", "mill."]
    assert words[-1].end == 3.0
    assert transcribe(np.zeros(16000, "float32")) == []


@pytest.fixture(scope="module")
def whisper():
    letters = {letters: n for n, letters in enumerate(["a", "b", "c", "d", "e", "f", "g", "ab"])}
    special = {token: n for n, token in enumerate(SPECIAL, start=len(letters))}
    tokenizer = keras_hub.models.WhisperTokenizer(
        vocabulary=letters,
        merges=["a b"],
        special_tokens=special,
        language_tokens={"<|en|>": special["<|en|>"]},
    )
    backbone = keras_hub.models.WhisperBackbone(
        vocabulary_size=14,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_encoder_sequence_length=100,
        max_decoder_sequence_length=12,
    )
    converter = keras_hub.layers.WhisperAudioConverter(max_audio_length=1)
    return backbone, KerasHubWhisper(backbone, tokenizer, converter)


def test_whisper_is_decoded_greedily(whisper):
    backbone, model = whisper
    audio = np.random.default_rng(0).standard_normal((1, 16000)).astype("float32")
    features = np.asarray(model.audio_converter(audio))
    tokens = model.decode(features)
    assert model.prompt() == [8, 13, 11, 10]  # start, English, transcribe, no times
    row = [*model.prompt(), *tokens]
    inputs = {
        "encoder_features": features,
        "decoder_token_ids": np.array([row]),
        "decoder_padding_mask": np.ones((1, len(row)), "int32"),
    }
    hidden = backbone.predict_on_batch(inputs)["decoder_sequence_output"]
    logits = np.asarray(backbone.token_embedding(hidden, reverse=True))[0]
    best = logits.argmax(axis=-1).tolist()
    assert best[3:-1] == tokens
    assert len(row) == 12 or best[-1] == 9  # the longest row, or the end
    names = [*"abcdefg", "ab"]
    assert model.generate({"audio": audio}) == "".join(names[t] for t in tokens if t < 8)


def test_a_tiny_moonshine_transcribes(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the old mill by the river"]),
        model_prefix=str(tmp_path / "tiny"),
        vocab_size=20,
        model_type="char",
        minloglevel=2,
    )
    tokenizer = keras_hub.models.MoonshineTokenizer((tmp_path / "tiny.model").read_bytes())
    backbone = keras_hub.models.MoonshineBackbone(
        vocabulary_size=20,
        filter_dim=8,
        encoder_num_layers=1,
        decoder_num_layers=1,
        hidden_dim=8,
        intermediate_dim=16,
        encoder_num_heads=2,
        decoder_num_heads=2,
    )
    model = keras_hub.models.MoonshineAudioToText(
        backbone=backbone,
        preprocessor=keras_hub.models.MoonshineAudioToTextPreprocessor(
            audio_converter=keras_hub.layers.MoonshineAudioConverter(),
            tokenizer=tokenizer,
            decoder_sequence_length=6,
        ),
    )
    model.compile(sampler="greedy")
    transcribe = KerasHubTranscriber(model, "tiny", piece_seconds=1.0)
    words = transcribe(np.random.default_rng(0).standard_normal(16000).astype("float32"))
    assert all(0.0 <= word.start < word.end <= 1.0 for word in words)


def test_presets_of_moonshine_decode_greedily(monkeypatch):
    loaded = []

    class Moonshine:
        @classmethod
        def from_preset(cls, preset):
            loaded.append(preset)
            return cls()

        def compile(self, sampler):
            loaded.append(sampler)

        def generate(self, inputs):
            return "hello"

    monkeypatch.setattr(keras_hub.models, "MoonshineAudioToText", Moonshine)
    transcribe = KerasHubTranscriber.from_preset("moonshine_tiny_en")
    assert loaded == ["moonshine_tiny_en", "greedy"]
    assert [word.text for word in transcribe(np.ones(16000, "float32"))] == ["hello"]


def test_what_keras_hub_cannot_load_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="KerasHub cannot load the speech recognizer") as error:
        KerasHubTranscriber.from_preset(str(tmp_path / "nowhere"))
    assert "\n" not in str(error.value)
