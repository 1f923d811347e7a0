"""Building models for weights that come from elsewhere, and copying weights between models."""

from collections.abc import Callable

import keras


def build_without_init(
    make_model: Callable[[], keras.Model], draw_embeddings: bool = False
) -> keras.Model:
    """Builds a model whose variables are zeros, to load weights into.

    Drawing billions of random numbers that are then overwritten takes minutes, and more memory
    than the model.

    Args:
        make_model: Function without arguments that builds the model.
        draw_embeddings: Initializes the token embeddings as the model would. Defaults to `False`.
    """
    # Variables that are created in a stateless scope are initialized when it ends.
    with keras.StatelessScope():
        model = make_model()
        for variable in model.variables:
            if not (draw_embeddings and is_embedding(variable.path)):
                variable._initializer = keras.initializers.Zeros()
    return model


def copy_all_but_embeddings(source: keras.Model, target: keras.Model) -> None:
    """Copies the weights of a text model to one that differs in its vocabulary only.

    Args:
        source: The text model.
        target: A model of the same config except for `vocabulary_size`. Its token embeddings are
            not changed.

    Raises:
        ValueError: If the models differ in anything else.
    """
    for old, new in zip(source.weights, target.weights, strict=True):
        if is_embedding(new.path):
            continue
        if tuple(old.shape) != tuple(new.shape):
            raise ValueError(
                f"{new.path} has shape {tuple(new.shape)}, but {tuple(old.shape)} in the text "
                "model; only the vocabulary size may differ."
            )
        new.assign(old)


def is_embedding(path: str) -> bool:
    """Returns whether a variable has a row or a column per token of the vocabulary."""
    *_, layer, name = path.split("/")
    return layer == "token_embedding" and name in ("embeddings", "reverse_embeddings")
