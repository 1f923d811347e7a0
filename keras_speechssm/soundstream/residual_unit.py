"""The residual unit of SoundStream's encoder and decoder."""

from collections.abc import Callable

import keras

from keras_speechssm.layers.causal_conv import CausalConv1D
from keras_speechssm.layers.pointwise_dense import PointwiseDense


@keras.saving.register_keras_serializable(package="keras_speechssm")
def lyra_leaky_relu(x):
    """A leaky rectifier with Lyra V2's slope of 0.3; Keras' own has 0.2."""
    return keras.ops.leaky_relu(x, negative_slope=0.3)


def read_activation(name: str) -> Callable:
    """The function of a Keras activation's name, or of `"leaky_relu_0.3"`, Lyra V2's."""
    return lyra_leaky_relu if name == "leaky_relu_0.3" else keras.activations.get(name)


@keras.saving.register_keras_serializable(package="keras_speechssm")
class ResidualUnit(keras.layers.Layer):
    """Dilated causal convolution, pointwise convolution, skip (SoundStream, figure 3).

    Args:
        filters: int. Channels in and out.
        dilation: int. Dilation of the first convolution.
        kernel_size: int. Its width. Defaults to `7`.
        separable: bool. Splits the first convolution into a depthwise one and a
            pointwise one, as Lyra V2 does: a seventh of the arithmetic. Defaults to `False`.
        activation: see `read_activation`. Defaults to `"elu"`.

    Call arguments:
        x: float (batch, time, filters).

    Returns:
        float (batch, time, filters).
    """

    def __init__(
        self,
        filters: int,
        dilation: int = 1,
        kernel_size: int = 7,
        separable: bool = False,
        activation: str = "elu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.dilation = dilation
        self.kernel_size = kernel_size
        self.separable = separable
        self.activation = activation
        self._activate = read_activation(activation)
        self.dilated = CausalConv1D(
            filters,
            kernel_size,
            dilation=dilation,
            depthwise=separable,
            dtype=self.dtype_policy,
            name="dilated",
        )
        self.mixing = (
            PointwiseDense(filters, dtype=self.dtype_policy, name="mixing") if separable else None
        )
        # Units start close to the identity: deep stacks then train from the first step.
        self.pointwise = PointwiseDense(
            filters,
            kernel_initializer=keras.initializers.VarianceScaling(0.1),
            dtype=self.dtype_policy,
            name="pointwise",
        )

    def build(self, input_shape):
        for layer in (self.dilated, self.mixing, self.pointwise):
            if layer is not None:
                layer.build(input_shape)
        self.built = True

    def call(self, x):
        y = self.dilated(self._activate(x))
        if self.mixing is not None:
            y = self.mixing(y)
        return x + self.pointwise(self._activate(y))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            filters=self.filters,
            dilation=self.dilation,
            kernel_size=self.kernel_size,
            separable=self.separable,
            activation=self.activation,
        )
        return config
