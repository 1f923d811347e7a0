"""Optional inputs of the language models."""

import keras
import numpy as np
from keras import ops


class OptionalInputs:
    """Mixin for a functional model of token ids: the other inputs may be left out.

    A class sets `_input_names`, that of the token ids first.
    """

    _input_names = ("token_ids", "padding_mask")

    def __call__(self, inputs, *args, **kwargs):
        """Computes the output for each token.

        Args:
            inputs: int token ids (batch, time), or a dictionary with `"token_ids"` and,
                optionally, the other inputs of the model, such as `"padding_mask"` (bool,
                `True` at real tokens).
            *args: Further arguments of `keras.Model.__call__`.
            **kwargs: Further arguments of `keras.Model.__call__`.
        """
        return super().__call__(self._complete_inputs(inputs), *args, **kwargs)

    # Keras' trainers pass `training` only to a `call` that names it.
    def call(self, inputs, training=None, **kwargs):
        # Keras' trainer on JAX calls this directly.
        return super().call(self._complete_inputs(inputs), training=training, **kwargs)

    def compute_output_spec(self, inputs, *args, **kwargs):
        # Keras' own needs the shape of each input, also of those that are left out.
        token_ids = self._complete_inputs(inputs)["token_ids"]
        return keras.KerasTensor((*token_ids.shape, self.output.shape[-1]), self.output.dtype)

    def _complete_inputs(self, inputs) -> dict:
        given = inputs if isinstance(inputs, dict) else {"token_ids": inputs}
        unknown = sorted(set(given) - set(self._input_names))
        if unknown:
            raise ValueError(
                f"{type(self).__name__} got unexpected inputs {unknown}; expected a subset of "
                f"{list(self._input_names)}."
            )
        # Keras refuses a dictionary that mixes tensors with NumPy arrays.
        for name, value in given.items():
            if isinstance(value, np.ndarray | list):
                given = {**given, name: ops.convert_to_tensor(value)}
        return {name: given.get(name) for name in self._input_names}
