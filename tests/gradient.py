"""Gradients of a scalar function on whichever backend Keras runs."""

import keras
import numpy as np


def gradients(function, inputs, variables=()):
    """Differentiates function(*inputs) -> scalar; see `make_gradient`."""
    return make_gradient(function, variables)(inputs)


def make_gradient(function, variables=()):
    """Returns what computes the gradients of function(*inputs, **constants) -> scalar.

    Args:
        function: takes tensors, returns a scalar tensor.
        variables: Keras variables that `function` reads.

    Returns:
        `compute(inputs, **constants)` -> `(input_gradients, variable_gradients)`, lists of NumPy
        arrays; zeros where `function` does not depend on something. `inputs` is a list of float
        arrays. Compiled where that is faster, once for each shape.
    """
    variables = list(variables)
    backend = keras.backend.backend()
    compute = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}[backend]
    compute = compute(function, variables)

    def as_numpy(inputs, **constants):
        inputs = [np.asarray(x) for x in inputs]
        found = compute(inputs, constants)
        return _as_numpy(found[0], inputs), _as_numpy(found[1], variables)

    return as_numpy


def _jax(function, variables):
    import jax

    def loss(inputs, values, constants):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(*inputs, **constants)

    differentiate = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return lambda inputs, constants: differentiate(
        inputs, [variable.value for variable in variables], constants
    )


def _tensorflow(function, variables):
    import tensorflow as tf

    def compute(inputs, constants):
        tensors = [tf.convert_to_tensor(x) for x in inputs]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            loss = function(*tensors, **constants)
        found = tape.gradient(loss, tensors + [variable.value for variable in variables])
        return found[: len(tensors)], found[len(tensors) :]

    return compute


def _torch(function, variables):
    import torch

    def compute(inputs, constants):
        tensors = [keras.ops.convert_to_tensor(x).detach().requires_grad_() for x in inputs]
        values = [variable.value for variable in variables]
        loss = function(*tensors, **constants)
        found = torch.autograd.grad(loss, tensors + values, allow_unused=True)
        return found[: len(tensors)], found[len(tensors) :]

    return compute


def _as_numpy(found, like):
    return [
        np.zeros(tuple(reference.shape))
        if gradient is None
        else keras.ops.convert_to_numpy(gradient)
        for gradient, reference in zip(found, like, strict=True)
    ]
