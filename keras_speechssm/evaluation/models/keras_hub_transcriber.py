"""Moonshine and Whisper of KerasHub, for users with access to its presets."""

from typing import Any

import keras
import numpy as np

from keras_speechssm.checks import first_line
from keras_speechssm.evaluation.models.transcript import Word, place_words, transcribe_pieces
from keras_speechssm.shapes import SAMPLE_RATE


class KerasHubTranscriber:
    """A Moonshine or Whisper model of KerasHub as a transcriber.

    Decoding is greedy. KerasHub reports neither times nor probabilities: each piece's duration
    is divided among its words in proportion to their letters, and every confidence is 1.

    Args:
        model: `keras_hub.models.MoonshineAudioToText`, or a `KerasHubWhisper`.
        name: Name to report.
        piece_seconds: Longest piece; pieces are cut at pauses. All pieces are padded to this
            length, so that one program is compiled. Defaults to `30.0`.

    Example:

    ```python
    from keras_speechssm.evaluation.models.keras_hub_transcriber import KerasHubTranscriber

    transcribe = KerasHubTranscriber.from_preset("moonshine_tiny_en")
    ```
    """

    def __init__(self, model: Any, name: str, piece_seconds: float = 30.0):
        self.name = name
        self.piece_seconds = piece_seconds
        self._model = model

    @classmethod
    def from_preset(cls, preset: str, piece_seconds: float = 30.0) -> "KerasHubTranscriber":
        """Load `moonshine_tiny_en`, `whisper_base_en` and the like, a folder or a handle.

        Args:
            preset: A preset of `keras_hub.models.MoonshineAudioToText` or
                `keras_hub.models.WhisperBackbone`.
            piece_seconds: See the class.

        Raises:
            ValueError: KerasHub cannot load the preset.
        """
        import keras_hub

        try:
            if "whisper" in preset.lower():
                model = KerasHubWhisper(
                    keras_hub.models.WhisperBackbone.from_preset(preset),
                    keras_hub.models.WhisperTokenizer.from_preset(preset),
                    keras_hub.layers.WhisperAudioConverter.from_preset(preset),
                )
            else:
                model = keras_hub.models.MoonshineAudioToText.from_preset(preset)
                model.compile(sampler="greedy")
        except (ValueError, OSError, KeyError) as error:
            raise ValueError(
                f"KerasHub cannot load the speech recognizer {preset!r} ({first_line(error)})."
            ) from None
        return cls(model, preset, piece_seconds)

    def __call__(self, waveform: np.ndarray) -> list[Word]:
        return transcribe_pieces(waveform, self.piece_seconds, self._transcribe)

    def _transcribe(self, piece: np.ndarray, offset: float) -> list[Word]:
        if not np.any(piece):
            return []
        length = round(self.piece_seconds * SAMPLE_RATE)
        audio = np.pad(piece, (0, max(0, length - len(piece))))
        text = self._model.generate({"audio": audio[None]})
        text = text if isinstance(text, str) else str(text[0])
        words = [(word, 1.0) for word in text.lower().split()]
        return place_words(words, offset, offset + len(piece) / SAMPLE_RATE) if words else []


class KerasHubWhisper:
    """Greedy decoding for a `keras_hub.models.WhisperBackbone`, which KerasHub does not have.

    The encoder runs once per piece. Each step runs the decoder over a row of `max_tokens`
    tokens without a cache: simple, and fast enough for a second opinion.

    Args:
        backbone: `keras_hub.models.WhisperBackbone`.
        tokenizer: `keras_hub.models.WhisperTokenizer`.
        audio_converter: `keras_hub.layers.WhisperAudioConverter`.
        max_tokens: Longest text of a piece in tokens. Defaults to `224`, as in Whisper.
    """

    def __init__(self, backbone: Any, tokenizer: Any, audio_converter: Any, max_tokens: int = 224):
        self.tokenizer = tokenizer
        self.audio_converter = audio_converter
        self._rows = min(max_tokens, backbone.max_decoder_sequence_length)
        inputs, outputs = backbone.input, backbone.output
        self._encoder = keras.Model(inputs["encoder_features"], outputs["encoder_sequence_output"])
        hidden = keras.Input(self._encoder.output.shape[1:], name="encoder_sequence")
        x = backbone.decoder_embeddings(inputs["decoder_token_ids"])
        for layer in backbone.decoder_transformer_layers:
            x = layer(
                decoder_sequence=x,
                encoder_sequence=hidden,
                decoder_padding_mask=inputs["decoder_padding_mask"],
            )
        logits = backbone.token_embedding(backbone.decoder_layer_norm(x), reverse=True)
        self._decoder = keras.Model(
            [hidden, inputs["decoder_token_ids"], inputs["decoder_padding_mask"]], logits
        )

    def generate(self, inputs: dict) -> str:
        """Transcribe `inputs["audio"]`, float (1, samples)."""
        features = keras.ops.convert_to_numpy(self.audio_converter(inputs["audio"]))
        special = set(self.tokenizer.special_token_ids)
        kept = [token for token in self.decode(features) if token not in special]
        return str(self.tokenizer.detokenize(kept)) if kept else ""

    def decode(self, features: np.ndarray) -> list[int]:
        """Decode greedily.

        Args:
            features: float (1, frames, mels), from the audio converter.

        Returns:
            The tokens after the prompt, without the end token.
        """
        hidden = self._encoder.predict_on_batch(features)
        token_ids = self.prompt()
        start = len(token_ids)
        while len(token_ids) < self._rows:
            row = np.zeros((1, self._rows), "int32")
            row[0, : len(token_ids)] = token_ids
            mask = (np.arange(self._rows) < len(token_ids))[None].astype("int32")
            logits = self._decoder.predict_on_batch([hidden, row, mask])[0, len(token_ids) - 1]
            token = int(np.argmax(logits))
            if token == self.tokenizer.eos_token_id:
                break
            token_ids.append(token)
        return token_ids[start:]

    def prompt(self) -> list[int]:
        """Return the tokens that ask for an English transcript without times."""
        tokenizer = self.tokenizer
        start = [tokenizer.bos_token_id]
        if tokenizer.language_tokens is not None:
            start += [tokenizer.language_tokens["<|en|>"], tokenizer.transcribe_token_id]
        return [*start, tokenizer.no_timestamps_token_id]
