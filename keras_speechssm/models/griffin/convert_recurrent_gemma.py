"""RecurrentGemma's published checkpoints: names of tensors, reading, writing.

`open_recurrent_gemma` gives the config of a checkpoint, as arguments of `GriffinBackbone`, and any
variable of the backbone by its path. At most one tensor (one layer of a Flax checkpoint) is in
memory at a time, and nothing in a checkpoint is executed. `write_recurrent_gemma` and
`save_as_hugging_face` write a checkpoint that `transformers` loads.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import ml_dtypes
import numpy as np

from keras_speechssm.files import replace_folder, write_json
from keras_speechssm.models.checkpoint_files import OrbaxTensors, SafetensorsTensors, TorchTensors
from keras_speechssm.models.checkpoint_weights import is_embedding
from keras_speechssm.presets import read_json_file

PUBLISHED_WINDOW = 2048
"""Attention window of both published sizes, which the Flax and torch forms do not state."""

_SOFT_CAP = 30.0

_DENSE, _PLAIN, _CONVOLUTION, _BRANCH_KERNEL, _BRANCH_BIAS = range(5)


@dataclass(frozen=True)
class ForeignTensor:
    """The tensor of a checkpoint that corresponds to one variable of a `GriffinBackbone`.

    Attributes:
        name: Name of the tensor in the checkpoint.
        form: Form of the checkpoint: "flax", "torch" or "hugging_face".
        kind: How the forms lay the tensor out: one of the constants above.
        branch: Index of the variable in a tensor that stacks both branches of the MLP.
    """

    name: str
    form: str
    kind: int
    branch: int = 0

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the tensor's shape for a variable of shape `ours`."""
        if self.kind == _DENSE and self.form != "flax":
            return ours[::-1]
        if self.kind == _CONVOLUTION and self.form == "hugging_face":
            return ours[1], 1, ours[0]
        if self.form != "hugging_face" and self.kind == _BRANCH_KERNEL:
            return 2, *ours
        if self.form != "hugging_face" and self.kind == _BRANCH_BIAS:
            return 2, 1, 1, *ours
        return ours[::-1] if self.kind == _BRANCH_KERNEL else ours

    def to_keras(self, tensor: np.ndarray) -> np.ndarray:
        """Converts the tensor to the layout of the variable."""
        if self.kind == _CONVOLUTION and self.form == "hugging_face":
            return tensor[:, 0].T
        if self.form == "hugging_face":
            return tensor.T if self.kind in (_DENSE, _BRANCH_KERNEL) else tensor
        if self.kind == _BRANCH_KERNEL:
            return tensor[self.branch]
        if self.kind == _BRANCH_BIAS:
            return tensor[self.branch, 0, 0]
        return tensor.T if self.kind == _DENSE and self.form == "torch" else tensor

    def from_keras(self, array: np.ndarray) -> np.ndarray:
        """Converts the variable to the layout of Hugging Face's form."""
        if self.kind == _CONVOLUTION:
            return np.ascontiguousarray(array.T[:, None])
        return np.ascontiguousarray(array.T if self.kind in (_DENSE, _BRANCH_KERNEL) else array)


# Path of a variable below its block -> Flax name, Hugging Face name, kind, branch.
_BLOCK = {
    "temporal_pre_norm/scale": ("temporal_pre_norm/scale", "temporal_pre_norm.weight", _PLAIN),
    "channel_pre_norm/scale": ("channel_pre_norm/scale", "channel_pre_norm.weight", _PLAIN),
    "mlp_block/gate_dense/kernel": (
        "mlp_block/ffw_up/w",
        "mlp_block.gate_proj.weight",
        _BRANCH_KERNEL,
        0,
    ),
    "mlp_block/gate_dense/bias": (
        "mlp_block/ffw_up/b",
        "mlp_block.gate_proj.bias",
        _BRANCH_BIAS,
        0,
    ),
    "mlp_block/up_dense/kernel": (
        "mlp_block/ffw_up/w",
        "mlp_block.up_proj.weight",
        _BRANCH_KERNEL,
        1,
    ),
    "mlp_block/up_dense/bias": ("mlp_block/ffw_up/b", "mlp_block.up_proj.bias", _BRANCH_BIAS, 1),
    "mlp_block/down_dense/kernel": (
        "mlp_block/ffw_down/kernel",
        "mlp_block.down_proj.weight",
        _DENSE,
    ),
    "mlp_block/down_dense/bias": ("mlp_block/ffw_down/bias", "mlp_block.down_proj.bias", _PLAIN),
}
for _linear in ("linear_x", "linear_y", "linear_out"):
    for _ours, _theirs, _kind in (("kernel", "weight", _DENSE), ("bias", "bias", _PLAIN)):
        _BLOCK[f"temporal_block/{_linear}/{_ours}"] = (
            f"recurrent_block/{_linear}/{_ours}",
            f"temporal_block.{_linear}.{_theirs}",
            _kind,
        )
_BLOCK["temporal_block/conv_1d/kernel"] = (
    "recurrent_block/conv_1d/w",
    "temporal_block.conv_1d.weight",
    _CONVOLUTION,
)
_BLOCK["temporal_block/conv_1d/bias"] = (
    "recurrent_block/conv_1d/b",
    "temporal_block.conv_1d.bias",
    _PLAIN,
)
_BLOCK["temporal_block/rg_lru/a_param"] = (
    "recurrent_block/rg_lru/a_param",
    "temporal_block.rg_lru.recurrent_param",
    _PLAIN,
)
for _gate, _theirs in (("input_gate", "input_gate"), ("a_gate", "recurrent_gate")):
    for _ours, _short, _long in (("kernel", "w", "weight"), ("bias", "b", "bias")):
        _BLOCK[f"temporal_block/rg_lru/{_gate}/{_ours}"] = (
            f"recurrent_block/rg_lru/{_gate}/{_short}",
            f"temporal_block.rg_lru.{_theirs}_{_long}",
            _PLAIN,
        )
for _dense, _flax, _theirs in (
    ("query_dense", "proj_q", "q_proj"),
    ("key_dense", "proj_k", "k_proj"),
    ("value_dense", "proj_v", "v_proj"),
    ("output_dense", "proj_final", "o_proj"),
):
    _BLOCK[f"temporal_block/{_dense}/kernel"] = (
        f"attention_block/{_flax}/kernel",
        f"temporal_block.{_theirs}.weight",
        _DENSE,
    )
_BLOCK["temporal_block/output_dense/bias"] = (
    "attention_block/proj_final/bias",
    "temporal_block.o_proj.bias",
    _PLAIN,
)

_WHOLE = {
    "token_embedding/embeddings": ("embedder/input_embedding", "model.embed_tokens.weight"),
    "final_norm/scale": ("final_norm/scale", "model.final_norm.weight"),
}


def foreign_tensor(path: str, form: str) -> ForeignTensor:
    """Returns the tensor of the variable `path` of a `GriffinBackbone` in a form's checkpoint."""
    if path in _WHOLE:
        flax, hugging_face = _WHOLE[path]
        kind, branch = _PLAIN, 0
    else:
        block, _, rest = path.partition("/")
        flax, hugging_face, kind, *branches = _BLOCK[rest]
        number, branch = block.removeprefix("griffin_block_"), sum(branches)
        flax, hugging_face = f"blocks.{number}/{flax}", f"model.layers.{number}.{hugging_face}"
    if form == "hugging_face":
        return ForeignTensor(hugging_face, form, kind, branch)
    if form == "torch":
        flax = flax.replace("/", ".").replace(".kernel", ".weight")
    return ForeignTensor(flax, form, kind, branch)


class RecurrentGemmaCheckpoint:
    """A checkpoint of any of the three forms.

    Args:
        tensors: Reader of the tensors by their names in the checkpoint, with `names()`,
            `shape(name)`, `dtype(name)` and `read(name)`; see `checkpoint_files`.
        form: "flax", "torch" or "hugging_face".
        config: Arguments of `GriffinBackbone`. Defaults to `None`: read off the shapes.

    Attributes:
        config: Arguments of `GriffinBackbone`.
        dtype: Name of the dtype of the embeddings.
    """

    def __init__(self, tensors, form: str, config: dict | None = None):
        self.tensors = tensors
        self.form = form
        self.config = _config_of_shapes(tensors) if config is None else config
        embedding = foreign_tensor("token_embedding/embeddings", form).name
        self._check_names([embedding])
        self.dtype = tensors.dtype(embedding)

    def read(self, path: str, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the variable `path` of a `GriffinBackbone`, in the checkpoint's dtype.

        Args:
            path: Path of the variable, such as `"final_norm/scale"`.
            shape: Shape of the variable.

        Raises:
            ValueError: If the tensor is missing or has another shape; the message names it.
        """
        foreign = foreign_tensor(path, self.form)
        self._check_names([foreign.name])
        found, expected = tuple(self.tensors.shape(foreign.name)), foreign.shape(tuple(shape))
        if found != expected:
            raise ValueError(
                f"{self.tensors.place}: the tensor {foreign.name!r} has shape {found}; "
                f"this config needs {expected}."
            )
        return foreign.to_keras(self.tensors.read(foreign.name))

    def check_complete(self) -> None:
        """Raises a `ValueError` that names the tensors that are missing for the config."""
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


def load_checkpoint_weights(
    backbone: keras.Model, checkpoint: RecurrentGemmaCheckpoint, skip_embeddings: bool = False
) -> None:
    """Assigns the tensors of a checkpoint to the variables of a backbone, one by one.

    Args:
        backbone: A `GriffinBackbone` of the checkpoint's config.
        checkpoint: The checkpoint to read.
        skip_embeddings: Keeps the values of the token embeddings, whose size may then differ.
            Defaults to `False`.

    Raises:
        ValueError: If a tensor is missing or has another shape; the message names it.
    """
    checkpoint.check_complete()
    for variable in backbone.weights:
        if not (skip_embeddings and is_embedding(variable.path)):
            variable.assign(checkpoint.read(variable.path, variable.shape))


def open_recurrent_gemma(folder: str | Path) -> RecurrentGemmaCheckpoint | None:
    """Opens the RecurrentGemma checkpoint in a folder; returns `None` if there is none.

    Three forms are supported: Hugging Face (config.json of model_type "recurrent_gemma", and
    safetensors), Kaggle torch (a `.pt` file), and Kaggle Flax (an orbax checkpoint, in the folder
    itself or in a subfolder next to the text tokenizer).

    Raises:
        ValueError: If a file is damaged, or `GriffinBackbone` cannot express the config.
    """
    folder = Path(folder)
    if (folder / "config.json").is_file():
        config = read_json_file(folder)
        if config.get("model_type") != "recurrent_gemma":
            return None
        ours = _config_of_hugging_face(config)
        return RecurrentGemmaCheckpoint(SafetensorsTensors(folder), "hugging_face", ours)
    if files := sorted(folder.glob("*.pt")):
        return RecurrentGemmaCheckpoint(TorchTensors(files[0]), "torch")
    for place in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        if OrbaxTensors.exists_in(place):
            return RecurrentGemmaCheckpoint(OrbaxTensors(place), "flax")
    return None


def griffin_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all variables of a `GriffinBackbone` by their paths.

    Args:
        config: Arguments of `GriffinBackbone`.
    """
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


_ROPE_FIELDS = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}


def _config_of_hugging_face(config: dict) -> dict:
    """Arguments of `GriffinBackbone` for a config.json of Hugging Face."""
    needed = "hidden_size num_attention_heads vocab_size num_hidden_layers intermediate_size"
    for name in (*needed.split(), "attention_window_size"):
        if not isinstance(config.get(name), int):
            raise ValueError(
                f"config.json has no number {name}; expected the config of a RecurrentGemma."
            )
    if "block_types" not in config and "_block_types" not in config:
        raise ValueError("config.json has no block_types; expected the config of a RecurrentGemma.")
    rope = config.get("rope_parameters") or {}
    expected = {
        "num_key_value_heads": (config.get("num_key_value_heads", 1), 1),
        "conv1d_width": (config.get("conv1d_width", 4), 4),
        "hidden_activation": (config.get("hidden_activation"), "gelu_pytorch_tanh"),
        "rms_norm_eps": (config.get("rms_norm_eps", 1e-6), 1e-6),
        "attention_bias": (config.get("attention_bias", False), False),
        "partial_rotary_factor": (config.get("partial_rotary_factor", 0.5), 0.5),
        "rope_theta": (config.get("rope_theta", 10_000.0), 10_000.0),
        "head_dim": (
            config.get("head_dim", config["hidden_size"] // config["num_attention_heads"]),
            config["hidden_size"] // config["num_attention_heads"],
        ),
        "tie_word_embeddings": (config.get("tie_word_embeddings", True), True),
        "embeddings_scale_by_sqrt_dim": (config.get("embeddings_scale_by_sqrt_dim", True), True),
        "rope_scaling": (config.get("rope_scaling"), None),
        "rope_parameters partial_rotary_factor": (rope.get("partial_rotary_factor", 0.5), 0.5),
        "rope_parameters rope_theta": (rope.get("rope_theta", 10_000.0), 10_000.0),
        "rope_parameters rope_type": (
            rope.get("rope_type", rope.get("type", "default")),
            "default",
        ),
        "quantization_config": (config.get("quantization_config"), None),
    }
    if unknown := sorted(set(rope) - _ROPE_FIELDS):
        raise ValueError(
            f"config.json has rope_parameters {', '.join(unknown)}; GriffinBackbone supports "
            f"{', '.join(sorted(_ROPE_FIELDS))} only."
        )
    for name, (found, needed) in expected.items():
        if found != needed:
            raise ValueError(
                f"config.json has {name} {found!r}; GriffinBackbone supports {needed!r} only."
            )
    return {
        "vocabulary_size": config["vocab_size"],
        "num_layers": config["num_hidden_layers"],
        "hidden_dim": config["hidden_size"],
        # Hugging Face counts both branches of the gated MLP.
        "intermediate_dim": config["intermediate_size"] // 2,
        "num_heads": config["num_attention_heads"],
        "lru_width": config.get("lru_width") or config["hidden_size"],
        "attention_window": config["attention_window_size"],
        "block_pattern": list(config.get("block_types") or config["_block_types"]),
        "logit_soft_cap": config.get("logits_soft_cap") or None,
    }


def _config_of_shapes(tensors) -> dict:
    """Arguments of `GriffinBackbone` from the shapes of a Flax or torch checkpoint."""
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
        raise ValueError(f"{tensors.place}: no recurrent block; expected a RecurrentGemma.")
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
    """The shortest prefix of `kinds` that, repeated, gives all of them."""
    for length in range(1, len(kinds) + 1):
        if all(kind == kinds[n % length] for n, kind in enumerate(kinds)):
            return kinds[:length]
    raise ValueError("The checkpoint has no layers.")


def write_recurrent_gemma(
    folder: str | Path,
    config: dict,
    read: Callable[[str, tuple[int, ...]], np.ndarray],
    dtype: str,
    max_shard_bytes: int = 10**9,
) -> None:
    """Writes config.json and sharded safetensors that `transformers` loads, atomically.

    At most one shard, or one array that is larger than a shard, is in memory.

    Args:
        folder: Path of the folder to write.
        config: Arguments of `GriffinBackbone`.
        read: Function from the path and shape of a variable to its array, called once for each.
        dtype: "float32" or "bfloat16": the dtype of the arrays, also stated in config.json.
        max_shard_bytes: Size of a shard in bytes. Defaults to 10^9.

    Raises:
        ValueError: If `RecurrentGemmaConfig` cannot express the config.
    """
    from safetensors.numpy import save_file

    shapes = griffin_shapes(config)
    shards = _plan_shards(shapes, np.dtype(_numpy_dtype(dtype)).itemsize, max_shard_bytes)
    content = _hugging_face_config(config, dtype)
    with replace_folder(folder) as partial:
        weight_map, total = {}, 0
        for number, paths in enumerate(shards, start=1):
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            tensors = {}
            for path in paths:
                foreign = foreign_tensor(path, "hugging_face")
                array = foreign.from_keras(np.asarray(read(path, shapes[path])))
                tensors[foreign.name] = array.astype(_numpy_dtype(dtype), copy=False)
                weight_map[foreign.name] = name
                total += tensors[foreign.name].nbytes
            save_file(tensors, partial / name, metadata={"format": "pt"})
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(partial / "model.safetensors.index.json", index)
        write_json(partial / "config.json", content)


def save_as_hugging_face(
    backbone: keras.Model, folder: str | os.PathLike, max_shard_bytes: int = 10**9
) -> None:
    """Writes a `GriffinBackbone` in the form that `transformers` loads, atomically.

    Args:
        backbone: The backbone. float32 and bfloat16 weights keep their dtype.
        folder: Path of the folder to write.
        max_shard_bytes: Size of a safetensors file in bytes. Defaults to 10^9.

    Raises:
        ValueError: If the backbone has no rotary positions or no soft cap.
    """
    dtype = keras.backend.standardize_dtype(backbone.weights[0].dtype)
    write_recurrent_gemma(
        Path(folder), backbone.get_config(), weight_reader(backbone), dtype, max_shard_bytes
    )


def weight_reader(backbone: keras.Model) -> Callable[[str, tuple[int, ...]], np.ndarray]:
    """Returns a function from the path and shape of a variable to its array."""
    variables = {variable.path: variable for variable in backbone.weights}
    return lambda path, shape: keras.ops.convert_to_numpy(variables[path])


def _numpy_dtype(dtype: str):
    return ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)


def _plan_shards(shapes: dict, itemsize: int, max_shard_bytes: int) -> list[list[str]]:
    shards, size = [[]], 0
    for path, shape in shapes.items():
        nbytes = int(np.prod(shape)) * itemsize
        if shards[-1] and size + nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(path)
        size += nbytes
    return shards


def _hugging_face_config(config: dict, dtype: str) -> dict:
    if not config.get("use_rotary", True) or config.get("logit_soft_cap") is None:
        raise ValueError(
            "Hugging Face's RecurrentGemma always has rotary positions and a soft cap; a "
            "backbone with use_rotary=False or logit_soft_cap=None cannot be written in its form."
        )
    return {
        "architectures": ["RecurrentGemmaForCausalLM"],
        "model_type": "recurrent_gemma",
        "vocab_size": config["vocabulary_size"],
        "num_hidden_layers": config["num_layers"],
        "hidden_size": config["hidden_dim"],
        "intermediate_size": 2 * config["intermediate_dim"],
        "num_attention_heads": config["num_heads"],
        "num_key_value_heads": 1,
        "head_dim": config["hidden_dim"] // config["num_heads"],
        "lru_width": config.get("lru_width") or config["hidden_dim"],
        "attention_window_size": config["attention_window"],
        "conv1d_width": 4,
        "block_types": list(config["block_pattern"]),
        "logits_soft_cap": config["logit_soft_cap"],
        "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh",
        "partial_rotary_factor": 0.5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
    }
