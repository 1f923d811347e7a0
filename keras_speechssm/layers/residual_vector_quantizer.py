"""Residual vector quantization: several levels of codes per vector."""

import keras
from keras import ops

from keras_speechssm.layers.vector_quantizer import VectorQuantizer


@keras.saving.register_keras_serializable(package="keras_speechssm")
class ResidualVectorQuantizer(keras.layers.Layer):
    """A cascade of vector quantizers, each applied to the residual of those before it.

    It is the bottleneck of SoundStream. The first level is coarse and each further level refines
    it. The first n levels alone decode to a coarser signal.

    Args:
        num_quantizers: Number of levels.
        codebook_size: Number of entries of the codebook of each level.
        quantizer_dropout: Fraction of the training examples that use only the first n levels,
            with n uniform in 1 to `num_quantizers`. Defaults to `0.5`.
        decay: See `VectorQuantizer`. Defaults to `0.99`.
        commitment_weight: See `VectorQuantizer`; it is divided among the levels. Defaults to
            `1.0`.
        seed: See `VectorQuantizer`. Defaults to `None`.

    Raises:
        ValueError: If `num_quantizers` is below 1.

    Call arguments:
        x: float (batch, time, dim).
        padding_mask: bool (batch, time), `True` at real positions.
        training: bool.

    Returns:
        `(quantized, indices)`: float (batch, time, dim) with straight-through gradients, and
        int32 (batch, time, num_quantizers).

    Example:

    ```python
    import keras
    from keras_speechssm.layers import ResidualVectorQuantizer

    quantizer = ResidualVectorQuantizer(num_quantizers=4, codebook_size=8)
    quantized, indices = quantizer(keras.random.normal((2, 10, 3)), training=True)
    coarse = quantizer.decode(indices[..., :2])  # the first two levels only
    ```

    Reference:
        Zeghidour et al. 2021, "SoundStream" (arXiv 2107.03312), section III-C.
    """

    def __init__(
        self,
        num_quantizers: int,
        codebook_size: int,
        quantizer_dropout: float = 0.5,
        decay: float = 0.99,
        commitment_weight: float = 1.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_quantizers < 1:
            raise ValueError(f"num_quantizers is {num_quantizers}; expected at least 1.")
        self.num_quantizers = num_quantizers
        self.codebook_size = codebook_size
        self.quantizer_dropout = quantizer_dropout
        self.decay = decay
        self.commitment_weight = commitment_weight
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.levels = [
            VectorQuantizer(
                codebook_size,
                decay=decay,
                commitment_weight=commitment_weight / num_quantizers,
                seed=None if seed is None else seed + level,
                dtype=self.dtype_policy,
                name=f"level_{level}",
            )
            for level in range(num_quantizers)
        ]

    def build(self, input_shape):
        for level in self.levels:
            level.build(input_shape)
        self.built = True

    def encode(self, x):
        """Returns the indices int32 (batch, time, levels) of `x` (batch, time, dim)."""
        residual, indices = ops.cast(x, "float32"), []
        for level in self.levels:
            indices.append(level.encode(residual))
            residual = residual - level.decode(indices[-1])
        return ops.stack(indices, axis=-1)

    def decode(self, indices):
        """Returns the sum of the code vectors, float32 (batch, time, dim).

        Args:
            indices: int32 (batch, time, n), the first n levels, n from 1 to `num_quantizers`.

        Raises:
            ValueError: If there are more levels, or none.
        """
        if not 1 <= indices.shape[-1] <= self.num_quantizers:
            raise ValueError(
                f"indices has {indices.shape[-1]} levels; expected 1 to {self.num_quantizers}."
            )
        pairs = zip(self.levels, ops.unstack(indices, axis=-1), strict=False)
        return sum(level.decode(codes) for level, codes in pairs)

    def call(self, x, padding_mask=None, training=None):
        dtype = x.dtype
        x = ops.cast(x, "float32")
        if padding_mask is not None:
            x = ops.where(padding_mask[..., None], x, 0.0)
        num_used = self._draw_num_used(x) if training and self.quantizer_dropout else None
        residual, total, indices = x, ops.zeros_like(x), []
        for number, level in enumerate(self.levels):
            mask = _used_mask(x, padding_mask, num_used, number)
            quantized, codes = level(residual, padding_mask=mask, training=training)
            # Gradients of later levels must not pass through this level's code: they would
            # cancel its commitment loss (facebookresearch/encodec#25).
            quantized = ops.stop_gradient(ops.cast(quantized, "float32"))
            residual, total = residual - quantized, total + quantized
            indices.append(codes)
        quantized = x + ops.stop_gradient(total - x)
        if padding_mask is not None:
            quantized = ops.where(padding_mask[..., None], quantized, 0.0)
        return ops.cast(quantized, dtype), ops.stack(indices, axis=-1)

    def _draw_num_used(self, x):
        """Draws the number of levels that each example uses, int32 (batch,)."""
        batch = ops.shape(x)[0]
        num = keras.random.randint((batch,), 1, self.num_quantizers + 1, seed=self.seed_generator)
        drop = keras.random.uniform((batch,), seed=self.seed_generator) < self.quantizer_dropout
        return ops.where(drop, num, self.num_quantizers)

    def compute_output_spec(self, x, padding_mask=None, training=None):
        return (
            keras.KerasTensor(x.shape, dtype=self.compute_dtype),
            keras.KerasTensor((*x.shape[:-1], self.num_quantizers), dtype="int32"),
        )

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            num_quantizers=self.num_quantizers,
            codebook_size=self.codebook_size,
            quantizer_dropout=self.quantizer_dropout,
            decay=self.decay,
            commitment_weight=self.commitment_weight,
            seed=self.seed,
        )
        return config


def _used_mask(x, padding_mask, num_used, level: int):
    """Real positions of the examples that use a level."""
    if num_used is None:
        return padding_mask
    used = ops.broadcast_to((num_used > level)[:, None], ops.shape(x)[:2])
    return used if padding_mask is None else ops.logical_and(used, padding_mask)
