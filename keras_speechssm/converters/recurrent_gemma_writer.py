"""Writing a RecurrentGemma checkpoint in Hugging Face's form, shard by shard."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from keras_speechssm.converters.recurrent_gemma import griffin_shapes
from keras_speechssm.converters.recurrent_gemma_names import foreign_tensor
from keras_speechssm.preset_files import replace_folder
from keras_speechssm.whole_files import write_json


def write_recurrent_gemma(
    folder: str | Path,
    config: dict,
    read: Callable[[str, tuple[int, ...]], np.ndarray],
    dtype: str,
    max_shard_bytes: int = 10**9,
) -> None:
    """Writes config.json and sharded safetensors that `transformers` loads.

    Args:
        folder: where to; it appears whole or not at all.
        config: arguments of `GriffinBackbone`.
        read: function from a variable's path and shape to its array; called once for each,
            and no more than a shard of arrays, or one array that is larger, is held.
        dtype: "float32" or "bfloat16", of the file and of its config.
        max_shard_bytes: int. Size of a shard. Defaults to 1 GB.

    Raises:
        ValueError: a config that `RecurrentGemmaConfig` cannot express.
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
                array = foreign.from_ours(np.asarray(read(path, shapes[path])))
                tensors[foreign.name] = array.astype(_numpy_dtype(dtype), copy=False)
                weight_map[foreign.name] = name
                total += tensors[foreign.name].nbytes
            save_file(tensors, partial / name, metadata={"format": "pt"})
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(partial / "model.safetensors.index.json", index)
        write_json(partial / "config.json", content)


def _numpy_dtype(dtype: str):
    import ml_dtypes

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
            "Hugging Face's RecurrentGemma always has rotary positions and a soft cap: a "
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
