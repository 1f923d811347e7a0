"""What two voices say alike should be heard alike: a loss on pairs of rows."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_speechssm")
class PairAgreement(keras.layers.Layer):
    """Passes its input on; in training draws the rows of each pair together.

    What is it for: tokens that do not change with the voice. Rows 2 i and 2 i + 1 hold the
    same speech, perturbed each in its own way (`VoicePerturbation`); the loss is the mean
    squared distance of their vectors, as invariant clustering has it (Chang et al. 2023,
    "Self-supervised fine-tuning for improved content representations by speaker-invariant
    clustering", with codes in place of vectors). The vectors must be normalised before, and
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
