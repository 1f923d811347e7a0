"""Models and arguments for a TPU that is not there: shapes in place of values."""

import json
from pathlib import Path

import jax
import keras
from jax.sharding import NamedSharding, PartitionSpec

from keras_speechssm.preset_registry import resolve_preset
from keras_speechssm.speech_lm.speech_ssm import SpeechSSM

WINDOW_TOKENS = 750
"""30 s at 25 Hz, SoundStorm's window."""

EACH, SPLIT = PartitionSpec(), PartitionSpec("batch")
"""On every chip whole, or shared out by its first dimension."""


def read_sizes(preset: str) -> dict:
    """The config of a preset that holds one model."""
    path = Path(resolve_preset(preset)) / "config.json"
    return json.loads(path.read_text(encoding="utf-8"))["config"]


def abstract() -> keras.StatelessScope:
    """A scope in which new variables are shapes only: 2 B parameters need not lie anywhere."""
    return keras.StatelessScope(initialize_variables=False)


class UncompiledSpeechSSM(SpeechSSM):
    """Without an optimizer, whose variables would have values."""

    def compile(self, *args, **kwargs):
        pass


def changed_sizes(task: dict, dtype: str) -> dict:
    config = read_sizes(task["preset"])
    changes = {name: value for name, value in task["size"].items() if name in config}
    return {**config, **changes, "dtype": dtype}


def placed(mesh, tree, spec=EACH):
    """The shapes of a nested structure on the chips: whole on each one, unless split."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype, sharding=sharding), tree
    )


def shape(*shape: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)
