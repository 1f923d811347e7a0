"""Griffin's short causal convolution over time, with one filter per channel."""

import functools

import keras
from keras import ops

from keras_speechssm.layers.padding import gather_time, left_align_order, mask_padding
from keras_speechssm.layers.rematerialization import rematerialize


@keras.saving.register_keras_serializable(package="keras_speechssm")
class TemporalConv1D(keras.layers.Layer):
    """Causal depthwise convolution: each output depends on the last `width` real inputs.

    Padding is skipped, not convolved: real inputs before and after padding are neighbors. Inputs
    of an earlier packed document have no influence.

    The weights are `kernel` (width, dim), whose last row meets the current input, and `bias`
    (dim,). It is a `StreamingLayer` whose state is the last real inputs of the current document,
    (batch, width - 1, dim), oldest first, with zeros where there are none.

    Args:
        width: Number of inputs that an output depends on, the current one included. Defaults to
            `4`.

    Raises:
        ValueError: If `width` is below 1.

    Call arguments:
        x: (batch, time, dim).
        padding_mask: bool (batch, time), `True` at real positions; `None` if all are real.
        reset_mask: bool (batch, time), `True` at the first token of each packed document.

    Returns:
        (batch, time, dim) in the compute dtype; finite and meaningless at padding.

    Example:

    ```python
    import keras
    from keras_speechssm.layers import TemporalConv1D

    layer = TemporalConv1D(width=4)
    y = layer(keras.random.normal((2, 10, 8)))
    y, state = layer.advance(keras.random.normal((2, 3, 8)), layer.initial_state(2))
    ```

    Reference:
        De et al. 2024, "Griffin" (arXiv 2402.19427), section 2.3.
    """

    def __init__(self, width: int = 4, **kwargs):
        super().__init__(**kwargs)
        if width < 1:
            raise ValueError(f"width is {width}; expected at least 1.")
        self.width = width

    def build(self, input_shape):
        self.channels = input_shape[-1]
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.width, self.channels),
            # Variance 0.01 / width, as in the reference.
            initializer=keras.initializers.RandomNormal(stddev=0.1 * self.width**-0.5),
        )
        self.bias = self.add_weight(name="bias", shape=(self.channels,), initializer="zeros")

    def initial_state(self, batch_size: int):
        """Returns the state before any token; the layer must be built."""
        if not self.built:
            raise ValueError(
                "TemporalConv1D.initial_state needs the number of channels; call "
                "build((batch, time, dim)) first."
            )
        return ops.zeros((batch_size, self.width - 1, self.channels), dtype=self.compute_dtype)

    def call(self, x, padding_mask=None, reset_mask=None):
        return self._run(x, None, padding_mask, reset_mask)[0]

    def advance(self, x, state, padding_mask=None, reset_mask=None):
        """Processes the next chunk, of any length; returns its outputs and the new state."""
        if not self.built:
            self.build(x.shape)
        return self._run(x, state, padding_mask, reset_mask)

    def _run(self, x, state, padding_mask, reset_mask):
        x = ops.cast(x, self.compute_dtype)
        rank = None
        if padding_mask is not None:
            padding_mask = ops.cast(padding_mask, "bool")
            order, rank = left_align_order(padding_mask)
            x = gather_time(mask_padding(x, padding_mask), order)
            if reset_mask is not None:
                reset_mask = ops.logical_and(ops.cast(reset_mask, "bool"), padding_mask)
                reset_mask = gather_time(reset_mask, order)
        inputs = self._with_history(x, state)
        documents = None
        if reset_mask is not None:
            documents = ops.cumsum(ops.cast(reset_mask, "int32"), axis=1)
            documents = ops.pad(documents, ((0, 0), (self.width - 1, 0)))  # history is document 0
        outputs = rematerialize(
            functools.partial(self._convolve, documents=documents, length=ops.shape(x)[1]),
            inputs,
            ops.cast(self.kernel, self.compute_dtype),
            ops.cast(self.bias, self.compute_dtype),
        )
        if rank is not None:
            outputs = gather_time(outputs, rank)
        if state is None:
            return outputs, None
        return outputs, self._next_state(inputs, documents, padding_mask)

    def _with_history(self, x, state):
        if state is None:
            return ops.pad(x, ((0, 0), (self.width - 1, 0), (0, 0)))
        return ops.concatenate([ops.cast(state, x.dtype), x], axis=1)

    def _convolve(self, inputs, kernel, bias, documents, length):
        # As `depthwise_conv`, but without the inputs of other documents.
        last = self.width - 1
        outputs = inputs[:, last : last + length] * kernel[last]
        for tap in range(last):
            shifted = inputs[:, tap : tap + length] * kernel[tap]
            if documents is not None:
                same = documents[:, tap : tap + length] == documents[:, last : last + length]
                shifted = ops.where(same[..., None], shifted, 0.0)
            outputs = outputs + ops.cast(shifted, outputs.dtype)
        return outputs + bias

    def _next_state(self, inputs, documents, padding_mask):
        last = self.width - 1
        if last == 0:
            return inputs[:, :0]
        if padding_mask is None:
            state = inputs[:, -last:]
            kept = None if documents is None else documents[:, -last:]
        else:
            num_real = ops.sum(ops.cast(padding_mask, "int32"), axis=1, keepdims=True)
            recent = num_real + ops.arange(last, dtype="int32")[None]
            state = gather_time(inputs, recent)
            kept = None if documents is None else gather_time(documents, recent)
        if kept is None:
            return state
        current = ops.max(documents, axis=1, keepdims=True)
        return ops.where((kept == current)[..., None], state, ops.zeros_like(state))

    def compute_output_spec(self, x, padding_mask=None, reset_mask=None):
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "width": self.width}
