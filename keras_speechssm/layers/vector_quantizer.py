"""Vector quantization: vectors to codebook indices and back."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_speechssm")
class VectorQuantizer(keras.layers.Layer):
    """Replaces each vector by the nearest entry of a learned codebook.

    It is the bottleneck of the semantic tokenizer, and one level of `ResidualVectorQuantizer`. The
    codebook follows the data by an exponential moving average, not by gradients. Codes that are
    rarely used are moved to vectors of the current batch. The first training batch fills the
    whole codebook in this way, so k-means is not needed to initialize it.

    Args:
        codebook_size: Number of entries.
        decay: Decay of the moving averages per training step. Defaults to `0.99`.
        commitment_weight: Weight of the commitment loss, the mean squared distance of the input
            to its code, which training adds to the losses of the model. Defaults to `1.0`.
        dead_code_threshold: A code is moved if its average use falls below this fraction of an
            even use. Defaults to `0.05`.
        seed: Seed of the vectors that dead codes are moved to. Defaults to `None`.

    Raises:
        ValueError: If `codebook_size` is below 2, or the last dimension of the input is unknown.

    Call arguments:
        x: float (batch, time, dim).
        padding_mask: bool (batch, time), `True` at real positions. Padding does not change the
            codebook or the loss, whatever it contains.
        training: bool.

    Returns:
        `(quantized, indices)`: float (batch, time, dim) with straight-through gradients, zero at
        padding, and int32 (batch, time).

    Example:

    ```python
    import keras
    from keras_speechssm.layers import VectorQuantizer

    quantizer = VectorQuantizer(codebook_size=8)
    quantized, indices = quantizer(keras.random.normal((2, 10, 3)), training=True)
    vectors = quantizer.decode(indices)  # (2, 10, 3)
    ```

    Reference:
        van den Oord et al. 2017, "Neural Discrete Representation Learning" (arXiv 1711.00937),
        appendix A.1; Zeghidour et al. 2021, "SoundStream" (arXiv 2107.03312), section III-C.
    """

    def __init__(
        self,
        codebook_size: int,
        decay: float = 0.99,
        commitment_weight: float = 1.0,
        dead_code_threshold: float = 0.05,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if codebook_size < 2:
            raise ValueError(f"codebook_size is {codebook_size}; expected at least 2.")
        self.codebook_size = codebook_size
        self.decay = decay
        self.commitment_weight = commitment_weight
        self.dead_code_threshold = dead_code_threshold
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape):
        dim = input_shape[-1]
        if dim is None:
            raise ValueError(
                f"The input of VectorQuantizer has shape {input_shape}; its last dimension must be "
                "known."
            )
        frozen = {"trainable": False, "dtype": "float32", "autocast": False}
        self.codebook = self.add_weight(
            name="codebook",
            shape=(self.codebook_size, dim),
            initializer=keras.initializers.RandomNormal(stddev=1.0, seed=self.seed),
            **frozen,
        )
        self.code_usage = self.add_weight(
            name="code_usage", shape=(self.codebook_size,), initializer="zeros", **frozen
        )
        self.code_sum = self.add_weight(
            name="code_sum", shape=(self.codebook_size, dim), initializer="zeros", **frozen
        )
        self.built = True

    def set_codebook(self, codebook) -> None:
        """Sets the codes, and the averages from which training continues.

        With the codes alone, the first training step would take all of them for dead.

        Args:
            codebook: float (codebook_size, dim).
        """
        self.codebook.assign(codebook)
        self.code_sum.assign(codebook)
        self.code_usage.assign(ops.ones(self.code_usage.shape))

    def encode(self, x):
        """Returns indices int32 (batch, time) of the codes nearest to `x` (batch, time, dim)."""
        x = ops.cast(x, "float32")
        codebook = ops.convert_to_tensor(self.codebook)
        # -|x - c|^2 / 2 without the term that is the same for every code.
        scores = ops.matmul(x, ops.transpose(codebook)) - 0.5 * ops.sum(codebook**2, axis=-1)
        return ops.cast(ops.argmax(scores, axis=-1), "int32")

    def decode(self, indices):
        """Returns the codes float32 (batch, time, dim) of `indices` (batch, time)."""
        return ops.take(ops.convert_to_tensor(self.codebook), indices, axis=0)

    def call(self, x, padding_mask=None, training=None):
        dtype = x.dtype
        x = ops.cast(x, "float32")
        if padding_mask is not None:
            # Before any arithmetic: 0 * NaN is NaN.
            x = ops.where(padding_mask[..., None], x, 0.0)
        indices = self.encode(ops.stop_gradient(x))
        quantized = self.decode(indices)
        if padding_mask is not None:
            quantized = ops.where(padding_mask[..., None], quantized, 0.0)
        if training and self.trainable:  # as in Keras' BatchNormalization
            self.add_loss(self.commitment_weight * _masked_mean(x, quantized, padding_mask))
            self._follow(ops.stop_gradient(x), indices, padding_mask)
        quantized = x + ops.stop_gradient(quantized - x)
        return ops.cast(quantized, dtype), indices

    def _follow(self, x, indices, padding_mask):
        """Moves each code toward the vectors that chose it."""
        dim = x.shape[-1]
        x, indices = ops.reshape(x, (-1, dim)), ops.reshape(indices, (-1,))
        real = ops.ones_like(indices, dtype="float32")
        if padding_mask is not None:
            real = ops.cast(ops.reshape(padding_mask, (-1,)), "float32")
        # `segment_sum`, because a product with one-hot vectors needs (vectors, codes) of memory.
        counts = ops.segment_sum(real, indices, num_segments=self.codebook_size)
        sums = ops.segment_sum(x * real[:, None], indices, num_segments=self.codebook_size)
        old_usage = ops.convert_to_tensor(self.code_usage)
        old_total = ops.convert_to_tensor(self.code_sum)
        usage = self.decay * old_usage + (1.0 - self.decay) * counts
        total = self.decay * old_total + (1.0 - self.decay) * sums
        even_use = ops.sum(real) / self.codebook_size
        # A moved code starts from its new vector alone: neither its old average nor the
        # assignments of this step may pull it back.
        dead = usage < self.dead_code_threshold * ops.maximum(even_use, 1e-6)
        dead = ops.logical_or(dead, ops.sum(old_usage) == 0)  # the very first batch
        fresh = self._draw(x, real)
        usage = ops.where(dead, ops.maximum(even_use, 1e-6), usage)
        total = ops.where(dead[:, None], fresh * usage[:, None], total)
        anything = ops.sum(real) > 0
        codes = total / ops.maximum(usage, 1e-6)[:, None]
        old_codes = ops.convert_to_tensor(self.codebook)
        self.code_usage.assign(ops.where(anything, usage, old_usage))
        self.code_sum.assign(ops.where(anything, total, old_total))
        self.codebook.assign(ops.where(anything, codes, old_codes))

    def _draw(self, x, real):
        """Draws a real vector of the batch per code, with replacement."""
        edges = ops.cumsum(real)
        rank = keras.random.uniform((self.codebook_size,), seed=self.seed_generator)
        position = ops.searchsorted(edges, rank * edges[-1], side="right")
        return ops.take(x, ops.minimum(position, ops.shape(x)[0] - 1), axis=0)

    def compute_output_spec(self, x, padding_mask=None, training=None):
        return (
            keras.KerasTensor(x.shape, dtype=self.compute_dtype),
            keras.KerasTensor(x.shape[:-1], dtype="int32"),
        )

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            codebook_size=self.codebook_size,
            decay=self.decay,
            commitment_weight=self.commitment_weight,
            dead_code_threshold=self.dead_code_threshold,
            seed=self.seed,
        )
        return config


def _masked_mean(x, target, padding_mask):
    """Mean squared difference over real positions; `target` gets no gradient."""
    squared = ops.mean((x - ops.stop_gradient(target)) ** 2, axis=-1)
    if padding_mask is None:
        return ops.mean(squared)
    real = ops.cast(padding_mask, "float32")
    return ops.sum(squared * real) / ops.maximum(ops.sum(real), 1.0)
