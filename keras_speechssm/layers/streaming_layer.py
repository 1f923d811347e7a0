"""The contract of streaming layers."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class StreamingLayer(Protocol):
    """A causal layer or model that also runs chunk by chunk over explicit state.

    These statements hold for every class of this package that has `initial_state` and `advance`,
    on each backend and in any dtype, up to rounding:

    1. A call on a whole sequence gives the same outputs as `advance` step by step, and as
       `advance` over chunks of any lengths, starting from `initial_state`.
    2. State in, state out: nothing is stored on the layer. `advance` does not change the state
       that it gets, so a state may be used again, saved, or reordered. The state is a nested
       structure of arrays whose first axis is the batch. Its structure, shapes and dtypes never
       change, so memory does not grow with the length of the sequence.
    3. Where `padding_mask` is accepted, padding may be anywhere and may contain anything, NaN
       included. It changes no real output, no gradient and no state. Outputs at padding are finite
       and have no meaning.
    4. Where `reset_mask` is accepted, a sequence with several packed documents gives for each
       document what it would give alone.
    5. Rows of a batch are independent.
    6. No output depends on a later input.

    `tests/contract.py` checks each statement. Layers that change the rate of a sequence, such as
    `CausalConv1D` with strides, take chunks whose lengths are a multiple of their stride.

    The methods correspond to those of other libraries as follows:

    | here | RNN cells of Keras | sequence-layers | recurrentgemma |
    |---|---|---|---|
    | `initial_state(batch_size)` | `get_initial_state` | `get_initial_state` | `init_cache` |
    | `advance(x, state)` | `call`, for one step | `step` | `__call__` with a cache |
    | `layer(x)` | `RNN(cell)(x)` | `layer` | `__call__` |

    Example:

    ```python
    import numpy as np
    import keras
    from keras_speechssm.layers import RGLRU, StreamingLayer

    layer = RGLRU(width=8, num_heads=2)
    assert isinstance(layer, StreamingLayer)
    x = keras.random.normal((2, 5, 8))
    whole = layer(x)
    first, state = layer.advance(x[:, :3], layer.initial_state(batch_size=2))
    rest, state = layer.advance(x[:, 3:], state)
    np.testing.assert_allclose(keras.ops.concatenate([first, rest], axis=1), whole, atol=1e-5)
    ```
    """

    def initial_state(self, batch_size: int) -> Any:
        """Returns the state before any input.

        Args:
            batch_size: Number of sequences.
        """
        ...

    def advance(self, x: Any, state: Any, padding_mask: Any = None) -> tuple[Any, Any]:
        """Processes the next chunk of a sequence, of any length.

        Args:
            x: (batch, time, ...).
            state: From `initial_state` or an earlier call. It is not changed.
            padding_mask: bool (batch, time), `True` at real positions. Defaults to `None`: all
                positions are real. Layers that also accept packed documents take `reset_mask`, bool
                (batch, time), `True` at the first position of each document.

        Returns:
            The outputs of the chunk, and the state after it.
        """
        ...
