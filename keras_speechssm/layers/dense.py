"""Dense layers with the initialization of the Griffin reference."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_speechssm")
class Projection(keras.layers.Dense):
    """`keras.layers.Dense` that is quick for a single token in int8 too.

    XLA's CPU compiler has a fast int8 product of matrices, but none of a vector and a matrix,
    which takes as long as in float32: a single row gets a second one beside it, a third of the
    time in all. Same arguments, weights and result.
    """

    def quantize(self, mode=None, type_check=True, config=None):
        # Keras quantizes a subclass only where it is told to.
        super().quantize(mode, type_check=False, config=config)

    def quantized_call(self, *args, **kwargs):
        inputs, *rest = args
        if self.quantization_mode != "int8" or not _is_single_row(inputs):
            return super().quantized_call(*args, **kwargs)
        twice = ops.concatenate([inputs, ops.zeros_like(inputs)], axis=0)
        return super().quantized_call(twice, *rest, **kwargs)[:1]


def _is_single_row(inputs) -> bool:
    return None not in inputs.shape and math.prod(inputs.shape[:-1]) == 1


def make_dense(
    units: int, name: str, dtype, variance: float = 1.0, use_bias: bool = True
) -> Projection:
    """Returns a `Projection` whose kernel starts normal with variance `variance / fan-in`.

    Args:
        units: dimension of the output.
        name: name of the layer; the names are what LoRA's patterns match.
        dtype: dtype policy, that of the owner.
        variance: variance scale. Defaults to 1.
        use_bias: Defaults to True.
    """
    return Projection(
        units,
        use_bias=use_bias,
        kernel_initializer=keras.initializers.VarianceScaling(
            variance, mode="fan_in", distribution="untruncated_normal"
        ),
        dtype=dtype,
        name=name,
    )


@keras.saving.register_keras_serializable(package="keras_speechssm")
class PointwiseDense(keras.layers.Dense):
    """`keras.layers.Dense` over the last axis, as one flat matrix product.

    Same arguments, weights and result. On a (batch, time, dim) input XLA's CPU compiler
    picks transposed layouts for the gradient of a batched product, and every
    elementwise neighbor pays for it: a residual unit of the codec trains 2.5 times
    faster with the leading axes folded into one.
    """

    def call(self, inputs, training=None):
        shape = ops.shape(inputs)
        flat = super().call(ops.reshape(inputs, (-1, shape[-1])), training=training)
        return ops.reshape(flat, (*shape[:-1], self.units))

    def compute_output_spec(self, inputs, training=None):
        return keras.KerasTensor((*inputs.shape[:-1], self.units), dtype=self.compute_dtype)
