"""RecurrentGemma's published checkpoints, read one tensor at a time.

A checkpoint says its `config`, arguments of `GriffinBackbone`, and gives any of the
backbone's variables by its path. No more than one tensor (one layer of a Flax checkpoint)
is held, and nothing in a checkpoint is executed.
"""

import json
from pathlib import Path

import numpy as np

from keras_speechssm.converters.recurrent_gemma_names import foreign_tensor
from keras_speechssm.converters.tensor_files import OrbaxTensors, SafetensorsTensors, TorchTensors

PUBLISHED_WINDOW = 2048
"""Attention window of both published sizes, which the Flax and torch forms do not state."""

_SOFT_CAP = 30.0


class RecurrentGemmaCheckpoint:
    """One checkpoint, whatever its form.

    Args:
        tensors: its tensors by their foreign names: `names()`, `shape(name)`,
            `dtype(name)` and `read(name)`.
        form: "flax", "torch" or "hugging_face".
        config: arguments of `GriffinBackbone`. Defaults to `None`: from the shapes.
    """

    def __init__(self, tensors, form: str, config: dict | None = None):
        self.tensors = tensors
        self.form = form
        self.config = _config_of_shapes(tensors) if config is None else config
        embedding = foreign_tensor("token_embedding/embeddings", form).name
        self._check_names([embedding])
        self.dtype = tensors.dtype(embedding)

    def read(self, path: str, shape: tuple[int, ...]) -> np.ndarray:
        """The variable `path` of a `GriffinBackbone`, in the checkpoint's dtype.

        Raises:
            ValueError: the tensor is missing or of another shape; the message names it.
        """
        foreign = foreign_tensor(path, self.form)
        self._check_names([foreign.name])
        found, expected = tuple(self.tensors.shape(foreign.name)), foreign.shape(tuple(shape))
        if found != expected:
            raise ValueError(
                f"{self.tensors.place}: the tensor {foreign.name!r} has shape {found}; "
                f"this config needs {expected}."
            )
        return foreign.to_ours(self.tensors.read(foreign.name))

    def check_complete(self) -> None:
        """`ValueError` that names the tensors which the config needs and which are missing."""
        self._check_names(
            [foreign_tensor(path, self.form).name for path in griffin_shapes(self.config)]
        )

    def _check_names(self, names: list[str]) -> None:
        missing = sorted(set(names) - set(self.tensors.names()))
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise ValueError(
                f"{self.tensors.place}: missing the tensor {', '.join(missing[:3])}{more}."
            )


def open_recurrent_gemma(folder: str | Path) -> RecurrentGemmaCheckpoint | None:
    """The RecurrentGemma checkpoint in a folder, or `None` if there is none.

    Knows Hugging Face's form (config.json of model_type "recurrent_gemma" and
    safetensors), Kaggle's torch form (a `.pt` file) and Kaggle's Flax form (an orbax
    checkpoint, in the folder itself or one below it, beside the text tokenizer).

    Raises:
        ValueError: a config that Griffin has no room for, or a broken file.
    """
    folder = Path(folder)
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") != "recurrent_gemma":
            return None
        ours = _config_of_hugging_face(config)
        return RecurrentGemmaCheckpoint(SafetensorsTensors(folder), "hugging_face", ours)
    if files := sorted(folder.glob("*.pt")):
        return RecurrentGemmaCheckpoint(TorchTensors(files[0]), "torch")
    for place in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        if OrbaxTensors.lies_in(place):
            return RecurrentGemmaCheckpoint(OrbaxTensors(place), "flax")
    return None


def griffin_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Shapes of all variables of a `GriffinBackbone`, by their paths."""
    width, inner = config["hidden_dim"], config["intermediate_dim"]
    heads, lru = config["num_heads"], config.get("lru_width") or config["hidden_dim"]
    gate, head = lru // heads, width // heads
    recurrent = {
        "linear_x/kernel": (width, lru),
        "linear_x/bias": (lru,),
        "linear_y/kernel": (width, lru),
        "linear_y/bias": (lru,),
        "linear_out/kernel": (lru, width),
        "linear_out/bias": (width,),
        "conv_1d/kernel": (4, lru),
        "conv_1d/bias": (lru,),
        "rg_lru/a_param": (lru,),
    }
    for name in ("input_gate", "a_gate"):
        recurrent[f"rg_lru/{name}/kernel"] = (heads, gate, gate)
        recurrent[f"rg_lru/{name}/bias"] = (heads, gate)
    attention = {
        "query_dense/kernel": (width, heads * head),
        "key_dense/kernel": (width, head),
        "value_dense/kernel": (width, head),
        "output_dense/kernel": (heads * head, width),
        "output_dense/bias": (width,),
    }
    shared = {
        "temporal_pre_norm/scale": (width,),
        "channel_pre_norm/scale": (width,),
        "mlp_block/down_dense/kernel": (inner, width),
        "mlp_block/down_dense/bias": (width,),
    }
    for name in ("gate_dense", "up_dense"):
        shared[f"mlp_block/{name}/kernel"] = (width, inner)
        shared[f"mlp_block/{name}/bias"] = (inner,)
    shapes = {
        "token_embedding/embeddings": (config["vocabulary_size"], width),
        "final_norm/scale": (width,),
    }
    pattern = config["block_pattern"]
    for number in range(config["num_layers"]):
        kind = pattern[number % len(pattern)]
        temporal = recurrent if kind == "recurrent" else attention
        block = {f"temporal_block/{name}": shape for name, shape in temporal.items()} | shared
        shapes |= {f"griffin_block_{number}/{name}": shape for name, shape in block.items()}
    return shapes


def _config_of_hugging_face(config: dict) -> dict:
    """Arguments of `GriffinBackbone` for a config.json of Hugging Face."""
    needed = "hidden_size num_attention_heads vocab_size num_hidden_layers intermediate_size"
    for name in (*needed.split(), "attention_window_size"):
        if not isinstance(config.get(name), int):
            raise ValueError(f"config.json has no number {name}: it is no RecurrentGemma's.")
    if "block_types" not in config and "_block_types" not in config:
        raise ValueError("config.json has no block_types: it is no RecurrentGemma's.")
    rope = config.get("rope_parameters") or {}
    expected = {
        "num_key_value_heads": (config.get("num_key_value_heads", 1), 1),
        "conv1d_width": (config.get("conv1d_width", 4), 4),
        "hidden_activation": (config.get("hidden_activation"), "gelu_pytorch_tanh"),
        "rms_norm_eps": (config.get("rms_norm_eps", 1e-6), 1e-6),
        "attention_bias": (config.get("attention_bias", False), False),
        "partial_rotary_factor": (
            config.get("partial_rotary_factor", rope.get("partial_rotary_factor", 0.5)),
            0.5,
        ),
        "rope_theta": (config.get("rope_theta", rope.get("rope_theta", 10_000.0)), 10_000.0),
        "head_dim": (
            config.get("head_dim", config["hidden_size"] // config["num_attention_heads"]),
            config["hidden_size"] // config["num_attention_heads"],
        ),
        "tie_word_embeddings": (config.get("tie_word_embeddings", True), True),
    }
    for name, (found, needed) in expected.items():
        if found != needed:
            raise ValueError(f"config.json has {name} {found!r}; Griffin here needs {needed!r}.")
    return {
        "vocabulary_size": config["vocab_size"],
        "num_layers": config["num_hidden_layers"],
        "hidden_dim": config["hidden_size"],
        # Theirs counts both branches of the gated MLP.
        "intermediate_dim": config["intermediate_size"] // 2,
        "num_heads": config["num_attention_heads"],
        "lru_width": config.get("lru_width") or config["hidden_size"],
        "attention_window": config["attention_window_size"],
        "block_pattern": list(config.get("block_types") or config["_block_types"]),
        "logit_soft_cap": config.get("logits_soft_cap") or None,
    }


def _config_of_shapes(tensors) -> dict:
    """Arguments of `GriffinBackbone` for a checkpoint of the reference, from its shapes."""
    shapes = {name.replace("/", "."): tuple(tensors.shape(name)) for name in tensors.names()}

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise ValueError(f"{tensors.place}: missing the tensor {name}.")
        return shapes[name]

    numbers = {int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")}
    kinds = [
        "recurrent" if f"blocks.{n}.recurrent_block.rg_lru.a_param" in shapes else "attention"
        for n in range(len(numbers))
    ]
    if "recurrent" not in kinds:
        raise ValueError(f"{tensors.place}: no recurrent block, so this is no RecurrentGemma.")
    first = f"blocks.{kinds.index('recurrent')}"
    vocabulary_size, width = shape("embedder.input_embedding")
    return {
        "vocabulary_size": vocabulary_size,
        "num_layers": len(kinds),
        "hidden_dim": width,
        "intermediate_dim": shape(f"{first}.mlp_block.ffw_up.w")[2],
        "num_heads": shape(f"{first}.recurrent_block.rg_lru.a_gate.w")[0],
        "lru_width": shape(f"{first}.recurrent_block.rg_lru.a_param")[0],
        "attention_window": PUBLISHED_WINDOW,
        "block_pattern": _shortest_pattern(kinds),
        "logit_soft_cap": _SOFT_CAP,
    }


def _shortest_pattern(kinds: list[str]) -> list[str]:
    """The shortest beginning whose repetition gives all kinds."""
    for length in range(1, len(kinds) + 1):
        if all(kind == kinds[n % length] for n, kind in enumerate(kinds)):
            return kinds[:length]
    raise ValueError("A checkpoint without layers.")
