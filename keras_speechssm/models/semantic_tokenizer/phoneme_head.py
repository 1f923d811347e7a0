"""The auxiliary phoneme recognizer: features -> logits of phonemes and the CTC blank."""

import keras
from keras import ops

BLANK = 0
"""The class that stands for "no new phoneme"."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class PhonemeHead(keras.layers.Layer):
    """Linear logits of the CTC classes; at padding, the blank with certainty.

    Transcripts teach the tokens through this layer. Because a CTC path of certain
    blanks costs nothing, the loss of the padded length is that of the real length, and no
    lengths need to travel with the logits.

    Args:
        num_phonemes: int. Phonemes, the blank not counted.

    Call arguments:
        x: float (batch, time, dim).
        padding_mask: bool (batch, time), `True` at real positions.

    Returns:
        float32 (batch, time, num_phonemes + 1); class 0 is the blank.
    """

    def __init__(self, num_phonemes: int, **kwargs):
        super().__init__(**kwargs)
        if num_phonemes < 1:
            raise ValueError(f"num_phonemes must be at least 1, got {num_phonemes}.")
        self.num_phonemes = num_phonemes
        self.dense = keras.layers.Dense(num_phonemes + 1, dtype=self.dtype_policy, name="dense")

    def build(self, x_shape, padding_mask_shape=None):
        self.dense.build(x_shape)
        self.built = True

    def call(self, x, padding_mask=None):
        logits = ops.cast(self.dense(x), "float32")
        if padding_mask is None:
            return logits
        certain_blank = -1e4 * (1.0 - ops.one_hot(BLANK, self.num_phonemes + 1))
        return ops.where(padding_mask[..., None], logits, certain_blank)

    def compute_output_spec(self, x, padding_mask=None):
        return keras.KerasTensor((*x.shape[:-1], self.num_phonemes + 1), dtype="float32")

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(num_phonemes=self.num_phonemes)
        return config


@keras.saving.register_keras_serializable(package="keras_speechssm")
class CodeHead(PhonemeHead):
    """A `PhonemeHead` that reads each token alone.

    It is a separate class, because Keras stores the weights of equal layers by their order,
    which differs between backends.
    """


def collapse(classes) -> list[int]:
    """Phoneme ids of a sequence of CTC classes: repeats merged, then blanks dropped."""
    previous, phonemes = BLANK, []
    for current in classes:
        if current != previous and current != BLANK:
            phonemes.append(int(current))
        previous = current
    return phonemes
