"""Pre-training of a semantic tokenizer, and the layers that only training needs."""

import keras
import numpy as np
from keras import ops

from keras_speechssm.audio.mel import mel_centers
from keras_speechssm.layers.vector_quantizer import VectorQuantizer
from keras_speechssm.models.semantic_tokenizer.log_mel_frames import (
    HIGHEST,
    LOWEST,
    LogMelFrames,
)
from keras_speechssm.models.semantic_tokenizer.phoneme_head import CodeHead
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SemanticTokenizerPretraining(keras.Model):
    """Trains a `SemanticTokenizer`: its graph, with the losses and noise of training.

    Three losses teach the tokens to carry words and not voices:

    - CTC on phonemes, where transcripts exist (`training.tokenizer.PhonemeLoss`). It reads the
      *quantized* vectors, so that the tokens themselves must tell phonemes apart; with
      `code_head` it also reads each token alone.
    - BEST-RQ masked prediction on all speech. It reads the encoder *before* the
      quantizer: its targets are acoustic, and routed through the codes they would
      spend them on voice and channel.
    - Agreement of the vectors before the quantizer, where rows come in pairs that say the
      same in two voices (`PairAgreement`).

    The weights are those of `tokenizer`, which is ready to use after `fit`. Only a
    `LogMelFrames` front end has a spectrum to perturb.

    Args:
        tokenizer: a `SemanticTokenizer`, or its serialized config.
        max_warp, coloration: see `VoicePerturbation`. Both default to `0.0`.
        mask_start_rate, mask_span: see `SpanMasking`.
        masked_codebook_size: int. Random codes of BEST-RQ. Defaults to `8192`.
        masked_loss_weight: float. Weight of masked prediction beside CTC. Defaults to
            `1.0`.
        commitment_weight: float. See `VectorQuantizer`. Defaults to `1.0`.
        agreement_weight: float. See `PairAgreement`. Defaults to `0.0`: no pairs.
        code_head: bool. Whether phonemes are read from each token alone too. Defaults to
            `False`.
        seed: int or None. Seed of masking and the random projection.

    Inputs:
        As `SemanticTokenizer`.

    Returns:
        A dict as `SemanticTokenizer` returns it, with `code_head` also `code_logits`, float32
        (batch, time, num_phonemes + 1), read from each token alone.

    Example:

    ```python
    from keras_speechssm.models import SemanticTokenizer
    from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer_pretraining import (
        SemanticTokenizerPretraining,
    )
    from keras_speechssm.training.tokenizer import compile_tokenizer

    tokenizer = SemanticTokenizer(
        vocabulary_size=64,
        num_layers=1,
        num_decoder_layers=1,
        hidden_dim=32,
        num_heads=2,
        intermediate_dim=64,
        num_phonemes=41,
    )
    model = SemanticTokenizerPretraining(tokenizer, code_head=True)
    compile_tokenizer(model)  # then fit; `tokenizer` has the trained weights
    ```

    Reference:
        - [Chiu et al., 2022](https://arxiv.org/abs/2202.01855)
    """

    def __init__(
        self,
        tokenizer: SemanticTokenizer | dict,
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
        **kwargs,
    ):
        if isinstance(tokenizer, dict):
            tokenizer = keras.saving.deserialize_keras_object(tokenizer)
        spectral = isinstance(tokenizer.front_end, LogMelFrames)
        if (max_warp or coloration) and not spectral:
            raise ValueError(
                "max_warp and coloration need a LogMelFrames front end, got "
                f"{type(tokenizer.front_end).__name__}; set both to 0."
            )
        # === Layers ===
        tokenizer.quantizer.commitment_weight = commitment_weight
        dtype = tokenizer.input_dense.dtype_policy
        masking = SpanMasking(
            mask_start_rate, mask_span, seed=seed, dtype="float32", name="masking"
        )
        masked_prediction = MaskedPrediction(
            masked_codebook_size,
            loss_weight=masked_loss_weight,
            seed=seed,
            dtype=dtype,
            name="masked_prediction",
        )
        agreement = PairAgreement(agreement_weight, dtype="float32", name="agreement")
        quantizer = GradualQuantization(tokenizer.quantizer, seed=seed, name="gradual")

        # === Functional Model ===
        waveform = keras.Input((None,), dtype="float32", name="waveform")
        padding_mask = keras.Input((None,), dtype="bool", name="padding_mask")
        features = tokenizer.front_end(waveform, padding_mask=padding_mask)
        if spectral:
            perturbation = VoicePerturbation(
                tokenizer.front_end.num_mels,
                max_warp,
                coloration,
                seed=seed,
                dtype="float32",
                name="perturbation",
            )
            features = perturbation(features)
        masked, mask = masking(features, padding_mask)
        x = masked_prediction(tokenizer.encode(masked, padding_mask), features, mask)
        latents = agreement(tokenizer.to_latents(x), padding_mask)
        quantized, tokens = quantizer(latents, padding_mask=padding_mask)
        widened = tokenizer.decoder_dense(quantized)
        logits = tokenizer.recognize(widened, padding_mask)
        outputs = {"phoneme_logits": logits, "tokens": tokens}
        if code_head:
            # Linear in the code all the same; read from its few numbers a head learns slower.
            head = CodeHead(tokenizer.num_phonemes, dtype=dtype, name="code_head")
            outputs["code_logits"] = head(widened, padding_mask=padding_mask)
        inputs = {"waveform": waveform, "padding_mask": padding_mask}
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)

        # === Config ===
        self.tokenizer = tokenizer
        self.quantizer = quantizer
        self.max_warp = max_warp
        self.coloration = coloration
        self.mask_start_rate = mask_start_rate
        self.mask_span = mask_span
        self.masked_codebook_size = masked_codebook_size
        self.masked_loss_weight = masked_loss_weight
        self.commitment_weight = commitment_weight
        self.agreement_weight = agreement_weight
        self.code_head = code_head
        self.seed = seed

    def get_config(self) -> dict:
        return {
            "name": self.name,
            "tokenizer": keras.saving.serialize_keras_object(self.tokenizer),
            "max_warp": self.max_warp,
            "coloration": self.coloration,
            "mask_start_rate": self.mask_start_rate,
            "mask_span": self.mask_span,
            "masked_codebook_size": self.masked_codebook_size,
            "masked_loss_weight": self.masked_loss_weight,
            "commitment_weight": self.commitment_weight,
            "agreement_weight": self.agreement_weight,
            "code_head": self.code_head,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects=None):
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SpanMasking(keras.layers.Layer):
    """Replaces random spans of features by noise, in training only.

    The input side of BEST-RQ's masked prediction. Each step begins a span with
    probability `mask_start_rate`; spans may overlap. The noise is N(0, 0.1), as BEST-RQ
    has it for normalized features. Defaults are BEST-RQ's 0.01 a frame of 10 ms and 40
    frames, in steps of 40 ms; they hide a third of the input.

    Args:
        mask_start_rate: float. Probability that a span begins at a step. Defaults to
            `0.04`.
        mask_span: int. Steps of one span. Defaults to `10`.
        seed: int or None.

    Call arguments:
        features: float (batch, time, dim).
        padding_mask: bool (batch, time), `True` at real positions.
        training: bool.

    Returns:
        `(features, mask)`: float (batch, time, dim), and bool (batch, time), `True`
        where a real position was hidden.
    """

    def __init__(
        self,
        mask_start_rate: float = 0.04,
        mask_span: int = 10,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0.0 <= mask_start_rate <= 1.0 or mask_span < 1:
            raise ValueError(
                "mask_start_rate must be in [0, 1] and mask_span at least 1, got "
                f"{mask_start_rate} and {mask_span}."
            )
        self.mask_start_rate = mask_start_rate
        self.mask_span = mask_span
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, features, padding_mask, training=None):
        if not training or not self.mask_start_rate:
            return features, ops.zeros_like(padding_mask)
        batch, time = ops.shape(features)[0], ops.shape(features)[1]
        # Starts before the beginning too, so that the first steps are hidden as often.
        draws = keras.random.uniform((batch, time + self.mask_span - 1), seed=self.seed_generator)
        before = ops.cumsum(ops.cast(draws < self.mask_start_rate, "int32"), axis=1)
        before = ops.pad(before, ((0, 0), (1, 0)))
        starts_in_reach = before[:, self.mask_span :] - before[:, : -self.mask_span]
        mask = ops.logical_and(starts_in_reach > 0, padding_mask)
        noise = keras.random.normal(ops.shape(features), stddev=0.1, seed=self.seed_generator)
        return ops.where(mask[..., None], ops.cast(noise, features.dtype), features), mask

    def compute_output_spec(self, features, padding_mask, training=None):
        return (
            keras.KerasTensor(features.shape, dtype=features.dtype),
            keras.KerasTensor(padding_mask.shape, dtype="bool"),
        )

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            mask_start_rate=self.mask_start_rate, mask_span=self.mask_span, seed=self.seed
        )
        return config


@keras.saving.register_keras_serializable(package="keras_speechssm")
class MaskedPrediction(keras.layers.Layer):
    """Passes its input on; in training adds the BEST-RQ loss of the hidden positions.

    This is BEST-RQ: learning from speech without transcripts. The target of a position is
    the nearest of `codebook_size` frozen random codes to a frozen random projection of
    its clean features, both of unit length; the loss is the cross-entropy of a linear
    read-out, averaged over the hidden positions.

    Args:
        codebook_size: int. Number of random codes. Defaults to `8192` (BEST-RQ's).
        projection_dim: int. Dimension of the random projection. Defaults to `16`.
        loss_weight: float. Weight of the loss; `0` switches it off. Defaults to `1.0`.
        seed: int or None. Seed of the frozen weights.

    Call arguments:
        x: float (batch, time, width). Encoder outputs for the masked features.
        features: float (batch, time, dim). The clean, normalized features.
        mask: bool (batch, time). Hidden positions, from `SpanMasking`.
        training: bool.

    Returns:
        `x`, unchanged.
    """

    def __init__(
        self,
        codebook_size: int = 8192,
        projection_dim: int = 16,
        loss_weight: float = 1.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if codebook_size < 2:
            raise ValueError(f"codebook_size must be at least 2, got {codebook_size}.")
        self.codebook_size = codebook_size
        self.projection_dim = projection_dim
        self.loss_weight = loss_weight
        self.seed = seed
        self.head = keras.layers.Dense(codebook_size, dtype=self.dtype_policy, name="head")

    def build(self, x_shape, features_shape, mask_shape=None):
        frozen = {"trainable": False, "dtype": "float32", "autocast": False}
        codes_seed = None if self.seed is None else self.seed + 1
        self.projection = self.add_weight(
            name="projection",
            shape=(features_shape[-1], self.projection_dim),
            initializer=keras.initializers.GlorotUniform(seed=self.seed),
            **frozen,
        )
        self.codes = self.add_weight(
            name="codes",
            shape=(self.codebook_size, self.projection_dim),
            initializer=keras.initializers.RandomNormal(stddev=1.0, seed=codes_seed),
            **frozen,
        )
        self.head.build(x_shape)
        self.built = True

    def targets(self, features):
        """The random codes nearest to `features` (batch, time, dim): int32 (batch, time)."""
        # On the unit sphere the nearest code is the one with the largest product, and
        # the length of the projection no longer matters.
        projected = ops.matmul(ops.cast(features, "float32"), self.projection)
        codes = ops.normalize(self.codes, axis=-1)
        return ops.argmax(ops.matmul(projected, ops.transpose(codes)), axis=-1)

    def call(self, x, features, mask, training=None):
        if training and self.loss_weight:
            logits = ops.cast(self.head(x), "float32")
            targets = ops.stop_gradient(self.targets(features))
            losses = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
            hidden = ops.cast(mask, "float32")
            loss = ops.sum(losses * hidden) / ops.maximum(ops.sum(hidden), 1.0)
            self.add_loss(self.loss_weight * loss)
        return x

    def compute_output_spec(self, x, features, mask, training=None):
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            codebook_size=self.codebook_size,
            projection_dim=self.projection_dim,
            loss_weight=self.loss_weight,
            seed=self.seed,
        )
        return config


@keras.saving.register_keras_serializable(package="keras_speechssm")
class PairAgreement(keras.layers.Layer):
    """Passes its input on; in training draws the rows of each pair together.

    It teaches tokens that do not change with the voice. Rows 2 i and 2 i + 1 hold the
    same speech, perturbed each in its own way (`VoicePerturbation`); the loss is the mean
    squared distance of their vectors, as invariant clustering has it (Chang et al. 2023,
    "Self-supervised fine-tuning for improved content representations by speaker-invariant
    clustering", with codes instead of vectors). The vectors must be normalized before, and
    other losses keep them apart, else all of them become one.

    Args:
        loss_weight: float. Weight of the loss; `0` switches it off. Defaults to `0.0`.

    Call arguments:
        x: float (batch, time, dim), the batch even where the loss is on.
        padding_mask: bool (batch, time), `True` at real positions.
        training: bool.

    Returns:
        `x`, unchanged.
    """

    def __init__(self, loss_weight: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        if loss_weight < 0:
            raise ValueError(f"loss_weight must be at least 0, got {loss_weight}.")
        self.loss_weight = loss_weight

    def call(self, x, padding_mask, training=None):
        if training and self.loss_weight:
            rows = ops.cast(ops.where(padding_mask[..., None], x, 0.0), "float32")
            both = ops.cast(ops.logical_and(padding_mask[0::2], padding_mask[1::2]), "float32")
            distances = ops.mean((rows[0::2] - rows[1::2]) ** 2, axis=-1)
            loss = ops.sum(both * distances) / ops.maximum(ops.sum(both), 1.0)
            self.add_loss(self.loss_weight * loss)
        return x

    def compute_output_spec(self, x, padding_mask, training=None):
        return keras.KerasTensor(x.shape, dtype=x.dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "loss_weight": self.loss_weight}


@keras.saving.register_keras_serializable(package="keras_speechssm")
class VoicePerturbation(keras.layers.Layer):
    """Moves the frequencies of each example by a factor, and colors its spectrum.

    It teaches tokens that say what is spoken and not by whom, from few training voices.
    A longer or shorter vocal tract moves formants by about a common factor (vocal tract
    length perturbation, Jaitly & Hinton 2013, section 2; Lee & Rose 1996); a smooth curve over
    the bands, the first four terms of a cosine series, stands for levels, rooms and
    microphones. Every example has its own, the same at all times. Outside of training nothing
    happens.

    Args:
        num_mels: int. Mel bands of a frame.
        max_warp: float, at least 0. Frequencies are divided by up to `1 + max_warp` or
            multiplied by it, evenly on a logarithmic scale. Defaults to `0.0`.
        coloration: float, at least 0. Standard deviation of the curve's first term, in the
            features' unit; the n-th has an n-th of it. Defaults to `0.0`.
        seed: int or None.

    Call arguments:
        features: float (batch, time, frames * num_mels), as `LogMelFrames` gives them.
        training: bool.

    Returns:
        The same shape.
    """

    def __init__(
        self,
        num_mels: int,
        max_warp: float = 0.0,
        coloration: float = 0.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if max_warp < 0 or coloration < 0:
            raise ValueError(
                f"max_warp and coloration must be at least 0, got {max_warp} and {coloration}."
            )
        self.num_mels = num_mels
        self.max_warp = max_warp
        self.coloration = coloration
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._centers = mel_centers(num_mels, LOWEST, HIGHEST)
        bands, terms = np.arange(num_mels) + 0.5, np.arange(4)[:, None]
        self._curves = (np.cos(np.pi * terms * bands / num_mels) / (terms + 1)).astype("float32")

    def call(self, features, training=None):
        if not training or not (self.max_warp or self.coloration):
            return features
        batch, width = ops.shape(features)[0], features.shape[-1]
        frames = ops.reshape(features, (batch, -1, self.num_mels))
        if self.max_warp:
            spread = float(np.log1p(self.max_warp))
            factor = ops.exp(
                keras.random.uniform((batch, 1), -spread, spread, seed=self.seed_generator)
            )
            frames = ops.matmul(frames, ops.cast(self._interpolation(factor), frames.dtype))
        if self.coloration:
            weights = keras.random.normal(
                (batch, 4), stddev=self.coloration, seed=self.seed_generator
            )
            curve = ops.matmul(weights, ops.convert_to_tensor(self._curves))
            frames = frames + ops.cast(curve, frames.dtype)[:, None]
        return ops.reshape(frames, (batch, -1, width))

    def _interpolation(self, factor):
        """Weights (batch, bands in, bands out): band i takes what was at `factor` its frequency."""
        hertz = factor * ops.convert_to_tensor(self._centers)
        # Back to a place between the centers; beyond the outermost bands these continue.
        mel = ops.log(1.0 + hertz / 700.0)
        first, last = (float(np.log1p(self._centers[i] / 700.0)) for i in (0, -1))
        place = ops.clip((mel - first) / (last - first), 0.0, 1.0) * (self.num_mels - 1)
        bands = ops.arange(self.num_mels, dtype="float32")[:, None]
        return ops.maximum(0.0, 1.0 - ops.abs(place[:, None] - bands))

    def compute_output_spec(self, features, training=None):
        return keras.KerasTensor(features.shape, dtype=features.dtype)

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            num_mels=self.num_mels,
            max_warp=self.max_warp,
            coloration=self.coloration,
            seed=self.seed,
        )
        return config


@keras.saving.register_keras_serializable(package="keras_speechssm")
class GradualQuantization(keras.layers.Layer):
    """Calls a `VectorQuantizer`, in training for a fraction of the positions only.

    CTC begins with a long plateau that teaches the encoder nothing. The commitment loss, then
    alone, is least when every vector is the same; the codes follow, and no difference between
    phonemes is left. So training starts with `quantized_fraction` at 0: vectors pass unchanged
    and feel no commitment, while the codebook already follows them. Once the phonemes come,
    the fraction rises to 1.

    `quantized_fraction` is a weight (1 at first) that `training.tokenizer.QuantizerPhaseIn`
    sets. Outside of training every position is quantized.

    Args:
        quantizer: the `VectorQuantizer`.
        seed: int or None. Seed of the choice of positions.

    Call arguments and results: as `VectorQuantizer`.
    """

    def __init__(self, quantizer: VectorQuantizer, seed: int | None = None, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.quantizer = quantizer
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, x_shape, padding_mask_shape=None):
        if not self.quantizer.built:
            self.quantizer.build(x_shape)
        self.quantized_fraction = self.add_weight(
            name="quantized_fraction",
            shape=(),
            initializer="ones",
            trainable=False,
            dtype="float32",
            autocast=False,
        )
        self.built = True

    def call(self, x, padding_mask=None, training=None):
        if not (training and self.quantizer.trainable):
            return self.quantizer(x, padding_mask=padding_mask, training=training)
        if padding_mask is not None:
            x = ops.where(padding_mask[..., None], x, 0.0)
        fraction = ops.cast(ops.convert_to_tensor(self.quantized_fraction), x.dtype)
        # The same values, but commitment pulls at them with `fraction` of its force only.
        committed = fraction * x + ops.stop_gradient(x - fraction * x)
        quantized, indices = self.quantizer(committed, padding_mask=padding_mask, training=True)
        quantized = x + ops.stop_gradient(quantized - x)
        draws = keras.random.uniform(ops.shape(x)[:2], seed=self.seed_generator)
        return ops.where((draws < fraction)[..., None], quantized, x), indices

    def compute_output_spec(self, x, padding_mask=None, training=None):
        return (
            keras.KerasTensor(x.shape, dtype=self.compute_dtype),
            keras.KerasTensor(x.shape[:-1], dtype="int32"),
        )

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(quantizer=keras.layers.serialize(self.quantizer), seed=self.seed)
        return config

    @classmethod
    def from_config(cls, config: dict):
        return cls(keras.layers.deserialize(config.pop("quantizer")), **config)
