"""Waveform -> semantic tokens at 25 Hz."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import h5py
import keras
import keras_hub
import numpy as np
from keras import ops

from keras_speechssm.checks import token_array, waveform_array
from keras_speechssm.compilation import CompiledFunctions
from keras_speechssm.layers.conformer_block import ConformerBlock
from keras_speechssm.layers.vector_quantizer import VectorQuantizer
from keras_speechssm.models.preset_mixin import PresetMixin
from keras_speechssm.models.semantic_tokenizer.log_mel_frames import LogMelFrames
from keras_speechssm.models.semantic_tokenizer.phoneme_head import PhonemeHead, collapse
from keras_speechssm.models.semantic_tokenizer.whisper_frames import WhisperFrames
from keras_speechssm.models.windowed_inference import run_in_windows
from keras_speechssm.shapes import SAMPLES_PER_TOKEN

_PRETRAINING_ARGUMENTS = (
    "max_warp",
    "coloration",
    "mask_start_rate",
    "mask_span",
    "masked_codebook_size",
    "masked_loss_weight",
    "commitment_weight",
    "agreement_weight",
    "code_head",
    "seed",
)
# Configs before 0.2 hold these: they belong to SemanticTokenizerPretraining now.


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SemanticTokenizer(PresetMixin, keras_hub.models.Backbone):
    """Speech to discrete semantic tokens, 25 per second, in the manner of USM-v2.

    The tokens are the alphabet of the language model: they carry what is said and little of
    who says it. A front end turns the waveform into features, Conformer layers encode them,
    and a vector quantizer turns the result into tokens (paper, section 3.1). Further Conformer
    layers read phonemes from the quantized vectors.

    `tokenize` is what most users want. `SemanticTokenizerPretraining` trains a tokenizer. This is a
    KerasHub `Backbone`, not a `Tokenizer`: it has weights, and its input is sound.

    Args:
        vocabulary_size: int. Number of tokens (paper: 32,768).
        num_layers: int. Conformer layers before the quantizer (USM 0.6 B: 24).
        num_decoder_layers: int. Conformer layers from the quantizer to the phonemes.
        hidden_dim: int. Width (USM 0.6 B: 1024).
        num_heads: int. Attention heads (USM 0.6 B: 8).
        intermediate_dim: int. Width inside the feed-forwards (USM 0.6 B: 4096).
        num_phonemes: int. CTC classes without the blank, which is class 0.
        labels: tuple of str or None. Names of the CTC classes if they are not phonemes: characters,
            or pieces of SentencePiece. Defaults to `None`: `keras_speechssm.data.PHONEMES`.
        masked_prediction: bool or None. Whether masked prediction was on in training; `None` if
            unknown. It changes nothing else. Defaults to `None`.
        code_dim: int. Dimension of the codes. Defaults to `16`.
        num_mels: int. Mel bands of the default front end. Defaults to `80`.
        kernel_size: int. Taps of the Conformers' convolutions. Defaults to `5`.
        attention_context: int or None. Tokens that attention sees on each side.
            Defaults to `None`: the whole window.
        dropout: float. Defaults to `0.0`.
        front_end: layer or its serialized config. Turns a waveform into one vector for each
            token: `LogMelFrames` or `WhisperFrames`. Defaults to `None`:
            `LogMelFrames(num_mels)`.

    Inputs:
        A dict: `waveform` float32 (batch, samples) in [-1, 1] at 16 kHz with samples a
        multiple of 640, and `padding_mask` bool (batch, samples / 640), `True` at real
        steps.

    Returns:
        A dict: `phoneme_logits` float32 (batch, time, num_phonemes + 1) and `tokens` int32
        (batch, time).

    Example:

    ```python
    from keras_speechssm.audio import read_audio
    from keras_speechssm.models import SemanticTokenizer

    tokenizer = SemanticTokenizer.from_preset("speech_ssm_demo_en")
    tokens = tokenizer.tokenize(read_audio("examples/prompt.flac"))  # (ceil(samples / 640),)
    ```

    Reference:
        - [Park et al., 2024](https://arxiv.org/abs/2412.18603)
        - [Zhang et al., 2023](https://arxiv.org/abs/2303.01037)
    """

    preset_part = "semantic_tokenizer"

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_decoder_layers: int,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        num_phonemes: int,
        code_dim: int = 16,
        num_mels: int = 80,
        kernel_size: int = 5,
        attention_context: int | None = None,
        dropout: float = 0.0,
        front_end: keras.layers.Layer | dict | None = None,
        labels: Sequence[str] | None = None,
        masked_prediction: bool | None = None,
        dtype=None,
        **kwargs,
    ):
        if labels is not None and len(labels) != num_phonemes:
            raise ValueError(f"labels has {len(labels)} names for {num_phonemes} classes.")

        # === Layers ===
        def conformer(name):
            return ConformerBlock(
                hidden_dim,
                num_heads,
                intermediate_dim,
                kernel_size=kernel_size,
                attention_context=attention_context,
                dropout=dropout,
                dtype=dtype,
                name=name,
            )

        if front_end is None:
            front_end = LogMelFrames(num_mels, dtype="float32", name="log_mel")
        elif isinstance(front_end, dict):
            front_end = keras.layers.deserialize(front_end)
        if not isinstance(front_end, LogMelFrames | WhisperFrames):
            raise ValueError(
                "front_end must be a LogMelFrames or a WhisperFrames layer, got "
                f"{type(front_end).__name__}."
            )
        self.front_end = front_end
        self.input_dense = keras.layers.Dense(hidden_dim, dtype=dtype, name="input_dense")
        self.encoder_layers = [conformer(f"encoder_{i}") for i in range(num_layers)]
        self.code_dense = keras.layers.Dense(code_dim, dtype=dtype, name="code_dense")
        # All latents on one sphere: no code is far from every vector, so fewer die.
        self.code_norm = keras.layers.LayerNormalization(
            epsilon=1e-5, center=False, scale=False, dtype="float32", name="code_norm"
        )
        self.quantizer = VectorQuantizer(vocabulary_size, dtype="float32", name="quantizer")
        self.decoder_dense = keras.layers.Dense(hidden_dim, dtype=dtype, name="decoder_dense")
        self.decoder_layers = [conformer(f"decoder_{i}") for i in range(num_decoder_layers)]
        self.phoneme_head = PhonemeHead(num_phonemes, dtype=dtype, name="phoneme_head")

        # === Functional Model ===
        waveform = keras.Input((None,), dtype="float32", name="waveform")
        padding_mask = keras.Input((None,), dtype="bool", name="padding_mask")
        features = self.front_end(waveform, padding_mask=padding_mask)
        latents = self.to_latents(self.encode(features, padding_mask))
        quantized, tokens = self.quantizer(latents, padding_mask=padding_mask)
        logits = self.recognize(self.decoder_dense(quantized), padding_mask)
        super().__init__(
            inputs={"waveform": waveform, "padding_mask": padding_mask},
            outputs={"phoneme_logits": logits, "tokens": tokens},
            dtype=dtype,
            **kwargs,
        )

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.num_decoder_layers = num_decoder_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.num_phonemes = num_phonemes
        self.code_dim = code_dim
        self.num_mels = num_mels
        self.kernel_size = kernel_size
        self.attention_context = attention_context
        self.dropout = dropout
        self.labels = None if labels is None else tuple(labels)
        self.masked_prediction = masked_prediction
        self._inference = CompiledFunctions(self)

    @property
    def codebook(self) -> np.ndarray:
        """The vectors of the tokens, float32 (vocabulary_size, code_dim)."""
        return ops.convert_to_numpy(self.quantizer.codebook)

    def tokenize(self, waveform, windows_per_batch: int = 4) -> np.ndarray:
        """Tokenize a recording, or a batch of equally long ones.

        Long recordings are cut into windows of 30 s that overlap by 4 s and merged in
        the middle of the overlaps (paper, section 5), so memory does not grow with the
        length. A window that reaches beyond the end continues with the beginning of the
        recording, never with silence, which would tell the tokens before it that the end is
        near.

        Args:
            waveform: float (samples,) or (batch, samples) in [-1, 1] at 16 kHz, at
                least one sample. A last step that is not whole is filled with the beginning
                of the recording too.
            windows_per_batch: int. Windows that run at once at most. Defaults to `4`.

        Returns:
            int32 (time,) or (batch, time), time = ceil(samples / 640).

        Raises:
            ValueError: The waveform is empty, not finite, or not float.
        """
        waveform = waveform_array(waveform)
        num = -(-waveform.shape[-1] // SAMPLES_PER_TOKEN)
        return self._in_windows("tokens", waveform, num, SAMPLES_PER_TOKEN, windows_per_batch)

    def phonemes(self, tokens, windows_per_batch: int = 4) -> list:
        """Read phonemes from tokens: greedy CTC decoding, in the same windows as `tokenize`.

        Args:
            tokens: int (time,) or (batch, time), from `tokenize` or the language model.
            windows_per_batch: int. Windows that run at once at most. Defaults to `4`.

        Returns:
            Phoneme ids, 1 to `num_phonemes`: a list, or for a batch a list of lists. The name of
            id `i` is `keras_speechssm.data.PHONEMES[i - 1]`, or that of `labels`.

        Raises:
            ValueError: There are no tokens, or one is not in the vocabulary.
        """
        tokens = token_array(tokens, vocabulary_size=self.vocabulary_size)
        classes = self._in_windows("classes", tokens, tokens.shape[-1], 1, windows_per_batch)
        return collapse(classes) if tokens.ndim == 1 else [collapse(row) for row in classes]

    def encode(self, features, padding_mask=None):
        """Encode features (batch, time, dim) of the front end: (batch, time, hidden_dim)."""
        x = self.input_dense(features)
        for layer in self.encoder_layers:
            x = layer(x, padding_mask=padding_mask)
        return x

    def to_latents(self, x):
        """Project encoder outputs to the vectors to quantize: (batch, time, code_dim)."""
        return self.code_norm(self.code_dense(x))

    def recognize(self, x, padding_mask=None):
        """Compute CTC logits of widened codes, the outputs of `decoder_dense`."""
        for layer in self.decoder_layers:
            x = layer(x, padding_mask=padding_mask)
        return self.phoneme_head(x, padding_mask=padding_mask)

    def load_weights(self, filepath, *args, **kwargs) -> None:
        """As `keras.Model.load_weights`; takes the files of version 0.1 too."""
        if not str(filepath).endswith(".weights.h5") or not Path(filepath).is_file():
            super().load_weights(filepath, *args, **kwargs)
            return
        with tempfile.TemporaryDirectory() as folder:
            super().load_weights(_with_current_names(filepath, folder), *args, **kwargs)

    def _in_windows(self, name, signal, num_tokens, size, windows_per_batch):
        """Runs the compiled `name` over windows of `signal` and merges what comes out."""
        run = self._inference.get(name, lambda: getattr(self, f"_{name}"))
        return run_in_windows(run, signal, num_tokens, size, windows_per_batch)

    def _tokens(self, waveform):
        """Tokens int32 (batch, time) of whole windows (batch, samples)."""
        return self.quantizer.encode(self.to_latents(self.encode(self.front_end(waveform))))

    def _classes(self, tokens):
        """Most likely CTC classes int32 (batch, time) of tokens (batch, time)."""
        logits = self.recognize(self.decoder_dense(self.quantizer.decode(tokens)))
        return ops.cast(ops.argmax(logits, axis=-1), "int32")

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            vocabulary_size=self.vocabulary_size,
            num_layers=self.num_layers,
            num_decoder_layers=self.num_decoder_layers,
            hidden_dim=self.hidden_dim,
            num_heads=self.num_heads,
            intermediate_dim=self.intermediate_dim,
            num_phonemes=self.num_phonemes,
            code_dim=self.code_dim,
            num_mels=self.num_mels,
            kernel_size=self.kernel_size,
            attention_context=self.attention_context,
            dropout=self.dropout,
            labels=None if self.labels is None else list(self.labels),
            masked_prediction=self.masked_prediction,
            front_end=keras.layers.serialize(self.front_end),
        )
        return config

    @classmethod
    def from_config(cls, config: dict):
        config = {k: v for k, v in config.items() if k not in _PRETRAINING_ARGUMENTS}
        return super().from_config(config)


def _with_current_names(path, folder: str) -> str:
    """Returns the weight file, or a copy in `folder` with the current layer names.

    Up to version 0.1 the quantizer was a separate class, with one more variable.
    """
    old, new = "layers/gradual_vector_quantizer", "layers/vector_quantizer"
    with h5py.File(path, "r") as source:
        if old not in source or new in source:
            return str(path)
        copy = Path(folder) / Path(path).name
        with h5py.File(copy, "w") as target:
            for name in source:
                source.copy(name, target)
            target.move(old, new)
            for name in list(target[new]["vars"]):
                if int(name) > 2:  # the quantized fraction
                    del target[new]["vars"][name]
    return str(copy)
