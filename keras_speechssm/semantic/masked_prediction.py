"""BEST-RQ: hide spans of the input, and predict what a frozen random quantizer makes of them.

Chiu et al. 2022, "Self-supervised learning with random-projection quantizer for speech
recognition". It teaches the encoder from speech without transcripts. Both layers do
nothing outside of training.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SpanMasking(keras.layers.Layer):
    """Replaces random spans of features by noise, in training only.

    What is it for: the input side of masked prediction. Each step begins a span with
    probability `mask_start_rate`; spans may overlap. The noise is N(0, 0.1), as BEST-RQ
    has it for normalised features. Defaults are BEST-RQ's 0.01 a frame of 10 ms and 40
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
                "mask_start_rate must lie in [0, 1] and mask_span be at least 1, got "
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

    What is it for: learning from speech without transcripts. The target of a position is
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
        features: float (batch, time, dim). The clean, normalised features.
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
