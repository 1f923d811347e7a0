"""A vector quantizer that can be phased in while its encoder learns."""

import keras
from keras import ops

from keras_speechssm.layers.vector_quantizer import VectorQuantizer


@keras.saving.register_keras_serializable(package="keras_speechssm")
class GradualVectorQuantizer(VectorQuantizer):
    """`VectorQuantizer` that in training quantizes only a share of the positions.

    What is it for: CTC begins with a long plateau that tells the encoder nothing. The
    commitment loss, then alone, is least when every vector is the same; the codes
    follow, and nothing is left to tell phonemes apart by. So training starts with
    `quantized_share` at 0: vectors pass as they are and feel no commitment, while the
    codebook already follows them. Once the phonemes come, the share is raised to 1.

    `quantized_share` is a weight (saved with the model, 1 at first) that
    `training.tokenizer.QuantizerPhaseIn` sets. Outside of training everything is
    quantized.

    Args, call arguments and results: as `VectorQuantizer`.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.quantized_share = self.add_weight(
            name="quantized_share",
            shape=(),
            initializer="ones",
            trainable=False,
            dtype="float32",
            autocast=False,
        )

    def call(self, x, padding_mask=None, training=None):
        if not (training and self.trainable):
            return super().call(x, padding_mask=padding_mask, training=training)
        if padding_mask is not None:
            x = ops.where(padding_mask[..., None], x, 0.0)
        share = ops.cast(ops.convert_to_tensor(self.quantized_share), x.dtype)
        # The same values, but commitment pulls at them with `share` of its force only.
        committed = share * x + ops.stop_gradient(x - share * x)
        quantized, indices = super().call(committed, padding_mask=padding_mask, training=True)
        quantized = x + ops.stop_gradient(quantized - x)
        draws = keras.random.uniform(ops.shape(x)[:2], seed=self.seed_generator)
        return ops.where((draws < share)[..., None], quantized, x), indices
