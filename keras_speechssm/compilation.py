"""One way to compile an inference function of a model on each backend."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras


def compile_inference(
    model: keras.layers.Layer, function: Callable, donated: Sequence[int] = ()
) -> Callable:
    """`function(*arrays)`, compiled once for each combination of shapes.

    On JAX the model's weights are passed to the compiled function as arguments: traced
    as they stand they would be baked into it as constants, which doubles the memory
    and keeps old values after a weight has changed. TensorFlow compiles a
    `tf.function`; torch runs eagerly without gradients.

    Args:
        model: the model or layer whose weights `function` uses.
        function: takes and returns arrays (or nested structures of them); it must not
            change the model's weights.
        donated: positions of arguments whose arrays the compiled function may write its
            results into, on JAX: the caller must not use them again. Defaults to none.
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

        return lambda *args: stateless([v.value for v in model.variables], *args)
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


class CompiledFunctions:
    """Compiled functions by key; a dictionary that Keras does not track as a model's part."""

    def __init__(self):
        self.table = {}

    def get(
        self, model: Any, key: Any, make_function: Callable, donated: Sequence[int]
    ) -> Callable:
        """The function of that key, compiled at the first call."""
        if key not in self.table:
            self.table[key] = compile_inference(model, make_function(), donated)
        return self.table[key]

    def __deepcopy__(self, memo):
        return CompiledFunctions()  # a copied model compiles its own
