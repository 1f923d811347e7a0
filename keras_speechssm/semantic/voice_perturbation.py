"""One recording as if other voices, rooms and microphones had said it: for training only."""

import keras
import numpy as np
from keras import ops

from keras_speechssm.mel import mel_centers
from keras_speechssm.semantic.log_mel import HIGHEST, LOWEST


@keras.saving.register_keras_serializable(package="keras_speechssm")
class VoicePerturbation(keras.layers.Layer):
    """Moves the frequencies of each example by a factor, and colours its spectrum.

    What is it for: tokens that say what is spoken and not by whom, from few training voices.
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
        # Back to a place between the centres; beyond the outermost bands these go on.
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
