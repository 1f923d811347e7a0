"""Griffin's gated feed-forward layer."""

import keras

from keras_speechssm.layers.projection import make_dense
from keras_speechssm.layers.recomputation import recompute


@keras.saving.register_keras_serializable(package="keras_speechssm")
class GatedMLP(keras.layers.Layer):
    """down(gelu(gate(x)) * up(x)), every projection with a bias; gelu is the tanh form.

    Args:
        intermediate_dim: width of one branch.
        output_variance: variance scale of `down_dense` at the start. Defaults to 1.

    Call arguments:
        x: (batch, time, dim).

    Returns:
        (batch, time, dim) in the compute dtype.

    Source: Griffin, arXiv 2402.19427, section 2.2.
    """

    def __init__(self, intermediate_dim: int, output_variance: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.intermediate_dim = intermediate_dim
        self.output_variance = output_variance

    def build(self, input_shape):
        dim, policy = input_shape[-1], self.dtype_policy
        self.gate_dense = make_dense(self.intermediate_dim, "gate_dense", policy)
        self.up_dense = make_dense(self.intermediate_dim, "up_dense", policy)
        self.down_dense = make_dense(dim, "down_dense", policy, self.output_variance)
        self.gate_dense.build((None, None, dim))
        self.up_dense.build((None, None, dim))
        self.down_dense.build((None, None, self.intermediate_dim))

    def call(self, x):
        return self.down_dense(recompute(gate_by_gelu, self.gate_dense(x), self.up_dense(x)))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "output_variance": self.output_variance,
        }


def gate_by_gelu(gate, x):
    """gelu(gate) * x, in the tanh form."""
    return keras.activations.gelu(gate, approximate=True) * x
