"""Weights from a text checkpoint into a model of ours, and back into a checkpoint."""

import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from keras_speechssm.models.griffin.convert_recurrent_gemma import (
    RecurrentGemmaCheckpoint,
    write_recurrent_gemma,
)


def build_without_init(
    make_model: Callable[[], keras.Model], draw_embeddings: bool = False
) -> keras.Model:
    """A model whose variables are zeros, for weights to be loaded into.

    To draw billions of numbers only to overwrite them takes minutes, and its temporary
    arrays more memory than the model.

    Args:
        make_model: function without arguments that builds the model.
        draw_embeddings: bool. The table of tokens begins as the model would have it.
    """
    # Variables made in a stateless scope are initialized when it ends.
    with keras.StatelessScope():
        model = make_model()
        for variable in model.variables:
            if not (draw_embeddings and is_embedding(variable.path)):
                variable._initializer = keras.initializers.Zeros()
    return model


def load_checkpoint_weights(
    backbone: keras.Model, checkpoint: RecurrentGemmaCheckpoint, skip_embeddings: bool = False
) -> None:
    """Assigns the checkpoint's tensors to a backbone's variables, one after another.

    Args:
        backbone: a `GriffinBackbone` of the checkpoint's config.
        checkpoint: what to read from.
        skip_embeddings: bool. The table of tokens keeps what it has; its size may differ.

    Raises:
        ValueError: a tensor is missing or of another shape; the message names it.
    """
    checkpoint.check_complete()
    for variable in backbone.weights:
        if not (skip_embeddings and is_embedding(variable.path)):
            variable.assign(checkpoint.read(variable.path, variable.shape))


def copy_all_but_embeddings(source: keras.Model, target: keras.Model) -> None:
    """Assigns a text model's weights to one that differs in its vocabulary only.

    Args:
        source: the text model.
        target: a model of the same config but for `vocabulary_size`; its tables of tokens
            keep what they have.

    Raises:
        ValueError: the models differ in something else.
    """
    pairs = list(zip(source.weights, target.weights, strict=True))
    for old, new in pairs:
        if is_embedding(new.path):
            continue
        if tuple(old.shape) != tuple(new.shape):
            raise ValueError(f"{new.path} has shape {new.shape}; the text model's {old.shape}.")
        new.assign(old)


def is_embedding(path: str) -> bool:
    """Whether a variable holds a row or a column for each token of the vocabulary."""
    *_, layer, name = path.split("/")
    return layer == "token_embedding" and name in ("embeddings", "reverse_embeddings")


def weight_reader(backbone: keras.Model) -> Callable[[str, tuple[int, ...]], np.ndarray]:
    """Function from a variable's path and shape to its array, for `write_recurrent_gemma`."""
    variables = {variable.path: variable for variable in backbone.weights}
    return lambda path, shape: keras.ops.convert_to_numpy(variables[path])


def save_as_hugging_face(
    backbone: keras.Model, folder: str | os.PathLike, max_shard_bytes: int = 10**9
) -> None:
    """Writes a `GriffinBackbone` in the form that `transformers` loads.

    Args:
        backbone: the backbone; float32 and bfloat16 weights keep their dtype.
        folder: where to; it appears whole or not at all.
        max_shard_bytes: int. Size of a safetensors file. Defaults to 1 GB.

    Raises:
        ValueError: the backbone has no rotary positions or no soft cap.
    """
    dtype = keras.backend.standardize_dtype(backbone.weights[0].dtype)
    write_recurrent_gemma(
        Path(folder), backbone.get_config(), weight_reader(backbone), dtype, max_shard_bytes
    )
