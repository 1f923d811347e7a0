"""Inputs of the language models that may be left out."""

import keras
import numpy as np
from keras import ops


class OptionalInputs:
    """Mixin before a functional model of token ids: what is optional may be missing.

    A class gives `_input_names`, the token ids' first.
    """

    _input_names = ("token_ids", "padding_mask")

    def __call__(self, inputs, *args, **kwargs):
        """The model's output for each token.

        Args:
            inputs: int token ids (batch, time), or a dictionary of them under `"token_ids"`
                with what else the model takes, such as `"padding_mask"` (bool, True = real).
        """
        return super().__call__(self._complete_inputs(inputs), *args, **kwargs)

    def call(self, inputs, *args, **kwargs):
        # Keras' trainer on JAX comes here directly.
        return super().call(self._complete_inputs(inputs), *args, **kwargs)

    def compute_output_spec(self, inputs, *args, **kwargs):
        # Keras' own asks each input for its shape, those that are left out too.
        token_ids = self._complete_inputs(inputs)["token_ids"]
        return keras.KerasTensor((*token_ids.shape, self.output.shape[-1]), self.output.dtype)

    def _complete_inputs(self, inputs) -> dict:
        given = inputs if isinstance(inputs, dict) else {"token_ids": inputs}
        unknown = set(given) - set(self._input_names)
        if unknown:
            raise ValueError(
                f"{type(self).__name__} got the inputs {sorted(unknown)}; it takes "
                f"{list(self._input_names)}."
            )
        # Keras refuses a dictionary that mixes its tensors with NumPy arrays.
        for name, value in given.items():
            if isinstance(value, np.ndarray | list):
                given = {**given, name: ops.convert_to_tensor(value)}
        return {name: given.get(name) for name in self._input_names}
