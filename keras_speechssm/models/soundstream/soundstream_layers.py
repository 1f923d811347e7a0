"""SoundStream's own layers: the residual unit, and its activation."""

from collections.abc import Callable

import keras

from keras_speechssm.layers.causal_conv import CausalConv1D
from keras_speechssm.layers.dense import PointwiseDense

_LEAKY_RELU_0_3 = {
    "module": "keras.layers",
    "class_name": "LeakyReLU",
    "config": {"negative_slope": 0.3},
    "registered_name": None,
}


def serialize_activation(activation) -> str | dict:
    """Convert an activation to its form in a config.

    Args:
        activation: Name of a Keras activation, a function, a layer such as
            `keras.layers.LeakyReLU(0.3)`, or the config of a function or layer. Older presets
            have the name `"leaky_relu_0.3"`.

    Raises:
        ValueError: The name is not that of a Keras activation.
    """
    if activation == "leaky_relu_0.3":
        return _LEAKY_RELU_0_3
    if isinstance(activation, str):
        keras.activations.get(activation)
    if isinstance(activation, str | dict):
        return activation
    return keras.activations.serialize(activation)


def read_activation(activation) -> Callable:
    """Return the function of an activation; see `serialize_activation`."""
    function = keras.activations.get(serialize_activation(activation))
    # The function of a layer, because a layer would cast its inputs to its own dtype.
    return function.call if isinstance(function, keras.layers.Layer) else function


@keras.saving.register_keras_serializable(package="keras_speechssm")
class ResidualUnit(keras.layers.Layer):
    """Residual unit: dilated causal convolution, then pointwise convolution.

    Args:
        filters: int. Channels in and out.
        dilation: int. Dilation of the first convolution.
        kernel_size: int. Its width. Defaults to `7`.
        separable: bool. Whether to split the first convolution into a depthwise and a pointwise
            one, as in Lyra V2, at a seventh of the arithmetic. Defaults to `False`.
        activation: Keras activation: a name, function, layer, or config. Defaults to `"elu"`.

    Call arguments:
        x: float (batch, time, filters).

    Returns:
        float (batch, time, filters).

    Reference: Zeghidour et al. 2021, figure 3.
    """

    def __init__(
        self,
        filters: int,
        dilation: int = 1,
        kernel_size: int = 7,
        separable: bool = False,
        activation="elu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.dilation = dilation
        self.kernel_size = kernel_size
        self.separable = separable
        self.activation = serialize_activation(activation)
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
        # Units start close to the identity, so deep stacks train from the first step.
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
