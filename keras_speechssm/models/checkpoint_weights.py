"""Building models for weights that come from elsewhere, and copying weights between models."""

import itertools
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np


def license_of(folder: str | Path) -> str:
    """Returns the license that the model card in a folder names, or an empty string.

    Args:
        folder: A folder with a `README.md` that starts with Hugging Face's YAML header.
    """
    card = Path(folder) / "README.md"
    lines = card.read_text("utf-8", "replace").splitlines() if card.is_file() else []
    if not lines or lines[0].strip() != "---":
        return ""
    header = itertools.takewhile(lambda line: line.strip() != "---", lines[1:])
    names = (line.partition(":")[2] for line in header if line.startswith("license:"))
    return next(names, "").strip(" '\"").lower()


class Target(NamedTuple):
    """The variable that a tensor of a PyTorch checkpoint is assigned to.

    Attributes:
        variable: The variable; `None` for a tensor that another target reads itself.
        shape: Shape of the tensor in the checkpoint. Defaults to `None`: the shape of the
            variable with its axes reversed, which holds for dense and convolutional kernels
            and for vectors.
        to_keras: Converts the tensor to the layout of the variable. Defaults to `np.transpose`.
    """

    variable: keras.Variable | None
    shape: tuple[int, ...] | None = None
    to_keras: Callable[[np.ndarray], np.ndarray] = np.transpose


def assign_tensors(
    tensors, targets: dict[str, Target], prefix: str = "", ignored: Collection[str] = ()
) -> None:
    """Assigns every tensor of a PyTorch checkpoint to its variable.

    Args:
        tensors: A reader of `checkpoint_files`.
        targets: Name without prefix -> target. Each one must be in the checkpoint.
        prefix: Beginning of the names in the checkpoint. Other tensors are not read.
            Defaults to `""`.
        ignored: Names without prefix that the checkpoint may have and the model does not need.

    Raises:
        ValueError: If a tensor is missing, unexpected or misshapen; the message names it.
    """
    check_names(tensors, targets, prefix, ignored)
    for name, target in targets.items():
        found = tuple(tensors.shape(prefix + name))
        expected = target.shape or tuple(target.variable.shape)[::-1]
        if found != expected:
            raise ValueError(
                f"{tensors.place}: the tensor {prefix + name!r} has shape {found}; expected "
                f"{expected}. The file is of another model, or damaged."
            )
        tensors.dtype(prefix + name)  # Refuses integers.
    for name, target in targets.items():
        if target.variable is None:
            continue
        array = np.asarray(tensors.read(prefix + name)).astype("float32", copy=False)
        target.variable.assign(np.ascontiguousarray(target.to_keras(array)))


def check_names(
    tensors, expected: Collection[str], prefix: str = "", ignored: Collection[str] = ()
) -> None:
    """Raises a `ValueError` that names the tensors that are missing or unexpected.

    The arguments are those of `assign_tensors`.
    """
    found = {name[len(prefix) :] for name in tensors.names() if name.startswith(prefix)}
    for names, problem in (
        (set(expected) - found, "missing"),
        (found - set(expected) - set(ignored), "unexpected"),
    ):
        if names:
            first = ", ".join(prefix + name for name in sorted(names)[:3])
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(
                f"{tensors.place}: {problem} tensor {first}{more}. The file is of another model, "
                "or incomplete."
            )


def load_foreign(
    cls,
    folder: str | Path,
    checkpoint,
    load_weights: bool,
    changes: dict,
) -> keras.Model:
    """Builds the model of another library's checkpoint.

    Logs a warning if the model card in its folder names a license that forbids commercial use.

    Args:
        cls: Class of the model.
        folder: Folder of the checkpoint.
        checkpoint: Its `config` has the arguments, its `assign(model)` sets all weights.
        load_weights: If `False`, the weights are random.
        changes: Arguments of the user, which replace those of `config`.
    """
    if "-nc" in (name := license_of(folder)):
        logging.getLogger(__name__).warning(
            "%s has the license %s, which forbids commercial use.", folder, name
        )
    arguments = {**checkpoint.config, **changes}
    if not load_weights:
        return cls(**arguments)
    model = build_without_init(lambda: cls(**arguments))
    checkpoint.assign(model)
    return model


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
        for variable in model.weights:  # not the seeds of dropout
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


def draw_embeddings(backbone: keras.Model, seed: int) -> None:
    """Draws the token embeddings of a model again, from the initializer of the layer.

    Args:
        backbone: A model with a `token_embedding`.
        seed: Seed of the initializer.
    """
    config = backbone.token_embedding.embeddings_initializer.get_config()
    for variable in filter(lambda variable: is_embedding(variable.path), backbone.weights):
        initializer = type(backbone.token_embedding.embeddings_initializer)
        drawn = initializer.from_config({**config, "seed": seed})(variable.shape, dtype="float32")
        variable.assign(drawn)
        seed += 1  # Embeddings that are not tied get other values on the way out.


def is_embedding(path: str) -> bool:
    """Returns whether a variable has a row or a column per token of the vocabulary."""
    *_, layer, name = path.split("/")
    return layer == "token_embedding" and name in ("embeddings", "reverse_embeddings")
