"""Dense layers and depthwise convolutions in the forms that XLA compiles well on CPU.

The results are those of the plain Keras layers. Each workaround says which weakness of XLA's CPU
compiler it avoids; once one no longer pays off, the plain form can replace it here.
"""

import math

import keras
from keras import ops

_FEW_TAPS = 8


@keras.saving.register_keras_serializable(package="keras_speechssm")
class Projection(keras.layers.Dense):
    """`keras.layers.Dense` that is fast for a single token in int8 as well.

    It has the same arguments, weights and result. XLA on CPU has a fast int8 product of two
    matrices but none of a vector and a matrix, which takes as long as in float32. A second row
    of zeros makes it a product of matrices, in a third of the time.
    """

    def quantize(self, mode=None, type_check=True, config=None):
        # By default Keras refuses to quantize a subclass.
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
    """Returns a `Projection` with the initialization of the Griffin reference.

    Args:
        units: Dimension of the output.
        name: Name of the layer, which LoRA's patterns match.
        dtype: Dtype policy, that of the owner.
        variance: The kernel is drawn from a normal distribution of variance
            `variance / fan_in`. Defaults to `1.0`.
        use_bias: Defaults to `True`.
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
    """`keras.layers.Dense` over the last axis, as one product of two matrices.

    It has the same arguments, weights and result. For the gradient of a batched product on (batch,
    time, dim), XLA on CPU chooses transposed layouts that slow down every elementwise neighbor: a
    residual unit of the codec trains 2.5 times faster with the leading axes merged into one.
    """

    def call(self, inputs, training=None):
        shape = ops.shape(inputs)
        flat = super().call(ops.reshape(inputs, (-1, shape[-1])), training=training)
        return ops.reshape(flat, (*shape[:-1], self.units))

    def compute_output_spec(self, inputs, training=None):
        return keras.KerasTensor((*inputs.shape[:-1], self.units), dtype=self.compute_dtype)


def depthwise_conv(x, taps, dilation: int = 1):
    """Convolves each channel with its filter, as a sum of shifted products.

    XLA on CPU runs a depthwise (grouped) convolution many times slower than this sum, which it
    fuses on every platform. PyTorch does not fuse it, so many taps are a convolution there.

    Args:
        x: (batch, time + (kernel_size - 1) * dilation, channels), padded by the caller.
        taps: List of `kernel_size` arrays (channels,). The last one meets the newest input.
        dilation: Distance between the inputs of neighboring taps. Defaults to `1`.

    Returns:
        (batch, time, channels).
    """
    if keras.backend.backend() == "torch" and len(taps) > _FEW_TAPS:
        kernel = ops.expand_dims(ops.stack(taps), axis=-1)
        return ops.depthwise_conv(x, kernel, padding="valid", dilation_rate=dilation)
    length = ops.shape(x)[1] - (len(taps) - 1) * dilation
    return sum(
        tap * x[:, number * dilation : number * dilation + length]
        for number, tap in enumerate(taps)
    )
