"""Waveform -> semantic tokens at 25 Hz, and the model that learns them."""

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_speechssm.checks import validate_waveform
from keras_speechssm.compilation import compile_inference
from keras_speechssm.layers.conformer_block import ConformerBlock
from keras_speechssm.models.preset_mixin import PresetMixin
from keras_speechssm.models.semantic_tokenizer.log_mel_frames import LogMelFrames
from keras_speechssm.models.semantic_tokenizer.phoneme_head import CodeHead, PhonemeHead, collapse
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer_pretraining import (
    GradualVectorQuantizer,
    MaskedPrediction,
    PairAgreement,
    SpanMasking,
    VoicePerturbation,
)
from keras_speechssm.shapes import SAMPLES_PER_TOKEN
from keras_speechssm.windows import (
    OVERLAP,
    TOKENIZER_WINDOW,
    merge_windows,
    plan_windows,
    slice_window,
)


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SemanticTokenizer(PresetMixin, keras_hub.models.Backbone):
    """Speech to discrete semantic tokens, 25 a second, in the manner of USM-v2.

    What is it for: the language model's alphabet. The tokens should carry what is said
    and drop who says it. Log-mel frames pass a Conformer, whose output a vector
    quantizer turns into tokens (paper, section 3.1). Three losses teach it:

    - CTC on phonemes, where transcripts exist. It reads the *quantized* vectors through
      further Conformer layers, so that the tokens themselves must tell phonemes apart; with
      `code_head` also as they are, so that each token must do so by itself.
    - BEST-RQ masked prediction on all speech. It reads the encoder *before* the
      quantizer: its targets are acoustic, and routed through the codes they would
      spend them on voice and channel.
    - Agreement of the vectors before the quantizer, where rows come in pairs that say the
      same in two voices (`PairAgreement`).

    Called on arrays, the model gives the logits for training; `tokenize` is what
    users want.

    Args:
        vocabulary_size: int. Number of tokens (paper: 32 768).
        num_layers: int. Conformer layers before the quantizer (USM 0.6 B: 24).
        num_decoder_layers: int. Conformer layers from the quantizer to the phonemes.
        hidden_dim: int. Width (USM 0.6 B: 1024).
        num_heads: int. Attention heads (USM 0.6 B: 8).
        intermediate_dim: int. Width inside the feed-forwards (USM 0.6 B: 4096).
        num_phonemes: int. CTC classes without the blank, which is class 0.
        code_dim: int. Dimension of the codes. Defaults to `16`.
        num_mels: int. Mel bands. Defaults to `80`.
        kernel_size: int. Taps of the Conformers' convolutions. Defaults to `5`.
        attention_context: int or None. Tokens that attention sees on each side.
            Defaults to `None`: the whole window.
        dropout: float. Defaults to `0.0`.
        max_warp, coloration: see `VoicePerturbation`. Both default to `0.0`.
        mask_start_rate, mask_span: see `SpanMasking`.
        masked_codebook_size: int. BEST-RQ's random codes. Defaults to `8192`.
        masked_loss_weight: float. Weight of masked prediction beside CTC. Defaults to
            `1.0`.
        commitment_weight: float. See `VectorQuantizer`. Defaults to `1.0`.
        agreement_weight: float. See `PairAgreement`. Defaults to `0.0`: no pairs.
        code_head: bool. Whether phonemes are read from each token alone too. Defaults to
            `False`.
        seed: int or None. Seed of masking, codebook and random projection.

    Inputs:
        A dict: `waveform` float32 (batch, samples) in [-1, 1] at 16 kHz with samples a
        multiple of 640, and `padding_mask` bool (batch, samples / 640), `True` at real
        steps.

    Returns:
        A dict: `phoneme_logits` float32 (batch, time, num_phonemes + 1), with `code_head`
        `code_logits`, the same read from each token alone, and `tokens` int32 (batch, time).

    Example:

    ```python
    tokenizer = SemanticTokenizer.from_preset("speech_ssm_demo_en")
    tokens = tokenizer.tokenize(waveform)  # (samples,) -> (ceil(samples / 640),)
    ```
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
        max_warp: float = 0.0,
        coloration: float = 0.0,
        mask_start_rate: float = 0.04,
        mask_span: int = 10,
        masked_codebook_size: int = 8192,
        masked_loss_weight: float = 1.0,
        commitment_weight: float = 1.0,
        agreement_weight: float = 0.0,
        code_head: bool = False,
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
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

        self.log_mel = LogMelFrames(num_mels, dtype="float32", name="log_mel")
        self.perturbation = VoicePerturbation(
            num_mels, max_warp, coloration, seed=seed, dtype="float32", name="perturbation"
        )
        self.masking = SpanMasking(
            mask_start_rate, mask_span, seed=seed, dtype="float32", name="masking"
        )
        self.input_dense = keras.layers.Dense(hidden_dim, dtype=dtype, name="input_dense")
        self.encoder_layers = [conformer(f"encoder_{i}") for i in range(num_layers)]
        self.masked_prediction = MaskedPrediction(
            masked_codebook_size,
            loss_weight=masked_loss_weight,
            seed=seed,
            dtype=dtype,
            name="masked_prediction",
        )
        self.code_dense = keras.layers.Dense(code_dim, dtype=dtype, name="code_dense")
        # All latents on one sphere: no code is far from every vector, so fewer die.
        self.code_norm = keras.layers.LayerNormalization(
            epsilon=1e-5, center=False, scale=False, dtype="float32", name="code_norm"
        )
        self.agreement = PairAgreement(agreement_weight, dtype="float32", name="agreement")
        self.quantizer = GradualVectorQuantizer(
            vocabulary_size,
            commitment_weight=commitment_weight,
            seed=seed,
            dtype="float32",
            name="quantizer",
        )
        self.decoder_dense = keras.layers.Dense(hidden_dim, dtype=dtype, name="decoder_dense")
        self.decoder_layers = [conformer(f"decoder_{i}") for i in range(num_decoder_layers)]
        self.phoneme_head = PhonemeHead(num_phonemes, dtype=dtype, name="phoneme_head")

        # === Functional Model ===
        waveform = keras.Input((None,), dtype="float32", name="waveform")
        padding_mask = keras.Input((None,), dtype="bool", name="padding_mask")
        features = self.perturbation(self.log_mel(waveform))
        masked, mask = self.masking(features, padding_mask)
        x = self.masked_prediction(self._encode(masked, padding_mask), features, mask)
        latents = self.agreement(self.code_norm(self.code_dense(x)), padding_mask)
        quantized, tokens = self.quantizer(latents, padding_mask=padding_mask)
        widened = self.decoder_dense(quantized)
        outputs = {"phoneme_logits": self._recognize(widened, padding_mask), "tokens": tokens}
        if code_head:
            # Linear in the code all the same; read from its few numbers a head learns slower.
            head = CodeHead(num_phonemes, dtype=dtype, name="code_head")
            outputs["code_logits"] = head(widened, padding_mask=padding_mask)
        inputs = {"waveform": waveform, "padding_mask": padding_mask}
        super().__init__(inputs=inputs, outputs=outputs, dtype=dtype, **kwargs)

        # === Config ===
        self._arguments = {
            "vocabulary_size": vocabulary_size,
            "num_layers": num_layers,
            "num_decoder_layers": num_decoder_layers,
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "intermediate_dim": intermediate_dim,
            "num_phonemes": num_phonemes,
            "code_dim": code_dim,
            "num_mels": num_mels,
            "kernel_size": kernel_size,
            "attention_context": attention_context,
            "dropout": dropout,
            "max_warp": max_warp,
            "coloration": coloration,
            "mask_start_rate": mask_start_rate,
            "mask_span": mask_span,
            "masked_codebook_size": masked_codebook_size,
            "masked_loss_weight": masked_loss_weight,
            "commitment_weight": commitment_weight,
            "agreement_weight": agreement_weight,
            "code_head": code_head,
            "seed": seed,
        }
        for name, value in self._arguments.items():
            setattr(self, name, value)
        self._compiled = {}

    @property
    def codebook(self) -> np.ndarray:
        """The vectors of the tokens, float32 (vocabulary_size, code_dim)."""
        return ops.convert_to_numpy(self.quantizer.codebook)

    def tokenize(self, waveform, windows_per_batch: int = 4) -> np.ndarray:
        """Semantic tokens of a recording, or of a batch of equally long ones.

        Long recordings are cut into windows of 30 s that overlap by 4 s and merged in
        the middle of the overlaps (paper, section 5), so memory does not grow with the
        length. A window that reaches beyond the end goes on with the recording's own
        beginning, never with silence, which the tokens before it would feel as an end.

        Args:
            waveform: float (samples,) or (batch, samples) in [-1, 1] at 16 kHz, at
                least one sample. A last step that is not whole is filled with the
                recording's beginning too.
            windows_per_batch: int. Windows that run at once at most. Defaults to `4`.

        Returns:
            int32 (time,) or (batch, time), time = ceil(samples / 640).
        """
        waveform = validate_waveform(waveform)
        num = -(-waveform.shape[-1] // SAMPLES_PER_TOKEN)
        return self._in_windows("tokens", waveform, num, SAMPLES_PER_TOKEN, windows_per_batch)

    def phonemes(self, tokens, windows_per_batch: int = 4) -> list:
        """What the tokens say: greedy CTC decoding, in the same windows as `tokenize`.

        Args:
            tokens: int (time,) or (batch, time), from `tokenize` or the language model.
            windows_per_batch: int. Windows that run at once at most. Defaults to `4`.

        Returns:
            Phoneme ids, 1 to `num_phonemes`: a list, or for a batch a list of lists.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim not in (1, 2) or tokens.size == 0:
            raise ValueError(
                "phonemes takes tokens (time,) or (batch, time) with at least one token, "
                f"got shape {tokens.shape}."
            )
        if tokens.min() < 0 or tokens.max() >= self.vocabulary_size:
            raise ValueError(
                f"Tokens must lie in 0 .. {self.vocabulary_size - 1}, got "
                f"{tokens.min()} .. {tokens.max()}."
            )
        tokens = tokens.astype("int32")
        classes = self._in_windows("classes", tokens, tokens.shape[-1], 1, windows_per_batch)
        return collapse(classes) if tokens.ndim == 1 else [collapse(row) for row in classes]

    def _in_windows(self, name, signal, num_tokens, size, windows_per_batch):
        """Runs the compiled `name` over windows of `signal` and merges what comes out."""
        if windows_per_batch < 1:
            raise ValueError(f"windows_per_batch must be at least 1, got {windows_per_batch}.")
        rows = np.atleast_2d(signal)
        plan = plan_windows(num_tokens, TOKENIZER_WINDOW, OVERLAP)
        jobs = [(row, start) for row in rows for start, _, _ in plan]
        results = []
        while len(results) < len(jobs):
            # Powers of two: few shapes to compile, whatever the length.
            count = 1
            while 2 * count <= min(len(jobs) - len(results), windows_per_batch):
                count *= 2
            batch = jobs[len(results) : len(results) + count]
            windows = [slice_window(row, start, TOKENIZER_WINDOW, size) for row, start in batch]
            outputs = self._compiled_function(name)(np.stack(windows))
            results.extend(ops.convert_to_numpy(outputs))
        merged = [
            merge_windows(results[first : first + len(plan)], plan)
            for first in range(0, len(jobs), len(plan))
        ]
        return merged[0] if signal.ndim == 1 else np.stack(merged)

    def _compiled_function(self, name):
        if name not in self._compiled:
            function = {"tokens": self._tokens, "classes": self._classes}[name]
            self._compiled[name] = compile_inference(self, function)
        return self._compiled[name]

    def _tokens(self, waveform):
        """Tokens int32 (batch, time) of whole windows (batch, samples)."""
        x = self._encode(self.log_mel(waveform), None)
        return self.quantizer.encode(self.code_norm(self.code_dense(x)))

    def _classes(self, tokens):
        """Most likely CTC classes int32 (batch, time) of tokens (batch, time)."""
        codes = self.decoder_dense(self.quantizer.decode(tokens))
        logits = self._recognize(codes, None)
        return ops.cast(ops.argmax(logits, axis=-1), "int32")

    def _encode(self, features, padding_mask):
        x = self.input_dense(features)
        for layer in self.encoder_layers:
            x = layer(x, padding_mask=padding_mask)
        return x

    def _recognize(self, x, padding_mask):
        for layer in self.decoder_layers:
            x = layer(x, padding_mask=padding_mask)
        return self.phoneme_head(x, padding_mask=padding_mask)

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(self._arguments)
        return config
