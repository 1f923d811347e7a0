"""Dense layers with the initialisation of the Griffin reference."""

import keras


def make_dense(
    units: int, name: str, dtype, variance: float = 1.0, use_bias: bool = True
) -> keras.layers.Dense:
    """Returns a Dense layer whose kernel starts normal with variance `variance / fan-in`.

    Args:
        units: dimension of the output.
        name: name of the layer; the names are what LoRA's patterns match.
        dtype: dtype policy, that of the owner.
        variance: variance scale. Defaults to 1.
        use_bias: Defaults to True.
    """
    return keras.layers.Dense(
        units,
        use_bias=use_bias,
        kernel_initializer=keras.initializers.VarianceScaling(
            variance, mode="fan_in", distribution="untruncated_normal"
        ),
        dtype=dtype,
        name=name,
    )
