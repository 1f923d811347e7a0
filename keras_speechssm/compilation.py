"""Compiled inference functions of a model, in the same way on each backend."""

import copy
import functools
import threading
from collections.abc import Callable, Hashable, Sequence

import keras


def compile_inference(
    model: keras.layers.Layer, function: Callable, donated: Sequence[int] = ()
) -> Callable:
    """Returns `function(*arrays)`, compiled once per combination of shapes.

    On JAX the weights of the model are arguments of the compiled function. Traced as they
    are, they would become constants of it, which doubles the memory and keeps old values after
    a weight has changed. TensorFlow compiles a `tf.function`. PyTorch runs eagerly, without
    gradients.

    Args:
        model: The model or layer whose weights `function` uses.
        function: Takes and returns arrays, or nested structures of arrays. It must not change
            the weights of the model.
        donated: Positions of arguments whose buffers the compiled function may reuse for its
            results on JAX. The caller must not use them again. Defaults to none.

    Returns:
        The compiled function.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_speechssm.compilation import compile_inference

    layer = keras.layers.Dense(3)
    layer.build((None, 2))
    run = compile_inference(layer, lambda x: layer(x))
    y = run(np.ones((1, 2), "float32"))  # (1, 3)
    ```
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        @functools.partial(jax.jit, donate_argnums=[position + 1 for position in donated])
        def stateless(values, *args):
            scope = keras.StatelessScope(
                state_mapping=list(zip(model.variables, values, strict=True))
            )
            with scope:
                return function(*args)

        def run(*args):
            sync_weights(model)
            return stateless([v.value for v in model.variables], *args)

        return run
    if backend == "tensorflow":
        import tensorflow as tf

        compiled = {}

        def current(*args):
            # LoRA adds weights and quantization replaces them: a graph would keep the old ones.
            weights = tuple((weight.path, weight.dtype) for weight in model.weights)
            if weights not in compiled:
                compiled.clear()
                compiled[weights] = tf.function(function, autograph=False)
            return compiled[weights](*args)

        return current

    import torch

    @torch.no_grad()
    def without_gradients(*args):
        return function(*args)

    return without_gradients


def sync_weights(model: keras.layers.Layer) -> None:
    """Puts the weights back into a model that `fit` trains at this moment, on JAX.

    Between the first and the last batch of an epoch Keras keeps them outside of the model, and
    puts them back for callbacks that use `self.model`. This does it for any code that `fit` calls.

    Args:
        model: The model or layer whose weights will be read.

    Raises:
        ValueError: If another thread, or another model that contains this one, has the weights.
    """
    if keras.backend.backend() != "jax" or not _are_lent(model):
        return
    if getattr(model, "_training_thread", None) == threading.get_ident():
        model.jax_state_sync()
    if _are_lent(model):
        raise ValueError(
            f"The weights of this {type(model).__name__} are in use by `fit` of another thread or "
            "of a larger model. Use the model in a callback's `on_epoch_end`, or use "
            "`self.model` in the callback."
        )


def _are_lent(model: keras.layers.Layer) -> bool:
    # Keras sets the value to None. Variables of a new model have None and an initializer.
    return any(v._value is None and v._initializer is None for v in model.variables[:1])


class CompiledFunctions:
    """The compiled inference functions of one model, by key.

    They hold executables only, never the state of a call. Keras does not track this object
    as a part of the model, and a copied model gets an empty one, so it compiles its own.

    Args:
        owner: The model or layer whose weights the functions use.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_speechssm.compilation import CompiledFunctions

    layer = keras.layers.Dense(3)
    layer.build((None, 2))
    functions = CompiledFunctions(layer)
    run = functions.get("forward", lambda: layer.call)
    y = run(np.ones((1, 2), "float32"))  # (1, 3)
    ```
    """

    def __init__(self, owner: keras.layers.Layer):
        self.owner = owner
        self._functions: dict[Hashable, Callable] = {}

    def get(
        self, key: Hashable, make_function: Callable[[], Callable], donated: Sequence[int] = ()
    ) -> Callable:
        """Returns the compiled function of a key; creates it on the first call.

        Args:
            key: Names the function and the settings that are compiled into it.
            make_function: Returns the function to compile, see `compile_inference`.
            donated: See `compile_inference`. Defaults to none.
        """
        if key not in self._functions:
            self._functions[key] = compile_inference(self.owner, make_function(), donated)
        return self._functions[key]

    def __deepcopy__(self, memo):
        return CompiledFunctions(copy.deepcopy(self.owner, memo))
