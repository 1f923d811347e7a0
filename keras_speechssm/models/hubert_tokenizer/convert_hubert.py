"""Weights of HuBERT from the files of `transformers`, and centers of k-means from their files."""

from pathlib import Path

import numpy as np

from keras_speechssm.models.checkpoint_files import open_tensors
from keras_speechssm.models.checkpoint_weights import Target, assign_tensors
from keras_speechssm.models.hubert_tokenizer.kmeans_file import read_kmeans
from keras_speechssm.presets import read_json_file

_ARGUMENTS = {
    "num_attention_heads": "num_heads",
    "hidden_size": "hidden_dim",
    "intermediate_size": "intermediate_dim",
    "conv_dim": "conv_channels",
    "conv_kernel": "conv_kernels",
    "conv_stride": "conv_strides",
    "num_conv_pos_embeddings": "position_kernel",
    "num_conv_pos_embedding_groups": "position_groups",
}
"""Entry of `config.json` -> argument of `HubertTokenizer`."""

_SUPPORTED = {
    "feat_extract_norm": "group",
    "conv_bias": False,
    "do_stable_layer_norm": False,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "hidden_act": "gelu",
}
"""Entries of `config.json` that must have this value: those of HuBERT base."""

_POSITIONS = "encoder.pos_conv_embed.conv"


class HubertCheckpoint:
    """A checkpoint of HuBERT base or mHuBERT, with centers of k-means.

    Args:
        folder: Folder with `config.json` and the tensors.
        config: Content of `config.json`.
        layer: Number of the layer whose features are clustered, counted from 1.
        kmeans: Path of the centers, see `read_kmeans`.

    Attributes:
        config: Arguments of `HubertTokenizer`.

    Raises:
        ValueError: If the model is not a HuBERT base, or `layer` or `kmeans` do not fit it.
    """

    def __init__(self, folder: Path, config: dict, layer: int | None, kmeans):
        for name, expected in _SUPPORTED.items():
            if (found := config.get(name, expected)) != expected:
                raise ValueError(
                    f"{str(folder)!r} is a HuBERT with {name}={found!r}; only HuBERT base and "
                    f"mHuBERT can be read, with {expected!r}."
                )
        missing = sorted({*_ARGUMENTS, "num_hidden_layers"} - set(config))
        if missing:
            raise ValueError(
                f"{str(folder / 'config.json')!r} does not have the entry {missing[0]!r}; "
                "download the checkpoint again."
            )
        if layer is None or kmeans is None:
            raise ValueError(
                "HubertTokenizer.from_preset needs layer= and kmeans= for a HuBERT without "
                "centers, such as layer=11 and kmeans='km500.bin' for mHuBERT-25Hz."
            )
        if not 1 <= layer <= config["num_hidden_layers"]:
            raise ValueError(f"layer is {layer}; expected 1 to {config['num_hidden_layers']}.")
        self.centers = read_kmeans(kmeans)
        if self.centers.shape[1] != config["hidden_size"]:
            raise ValueError(
                f"{str(kmeans)!r} has centers of {self.centers.shape[1]} dimensions; this HuBERT "
                f"has {config['hidden_size']}. Use centers of the same model."
            )
        arguments = {ours: config[theirs] for theirs, ours in _ARGUMENTS.items()}
        self.config = {
            "vocabulary_size": len(self.centers),
            "num_layers": layer,
            **arguments,
        }
        self._folder = folder

    def assign(self, model) -> None:
        """Sets the weights of a `HubertTokenizer` of this config.

        Raises:
            ValueError: If a tensor is missing, unexpected or has another shape; the message names
                it.
        """
        tensors, encoder = open_tensors(self._folder), model.encoder
        tasks = [name for name in tensors.names() if name.startswith("hubert.")]
        prefix = "hubert." if tasks else ""
        layers = {
            "feature_projection.layer_norm": encoder.projection_norm,
            "feature_projection.projection": encoder.projection,
            "encoder.layer_norm": encoder.input_norm,
        }
        for number, block in enumerate(encoder.blocks):
            place = f"encoder.layers.{number}"
            layers |= {
                f"{place}.attention.q_proj": block.query_dense,
                f"{place}.attention.k_proj": block.key_dense,
                f"{place}.attention.v_proj": block.value_dense,
                f"{place}.attention.out_proj": block.output_dense,
                f"{place}.layer_norm": block.attention_norm,
                f"{place}.feed_forward.intermediate_dense": block.feedforward_intermediate,
                f"{place}.feed_forward.output_dense": block.feedforward_output,
                f"{place}.final_layer_norm": block.feedforward_norm,
            }
        targets = {
            "feature_extractor.conv_layers.0.layer_norm.weight": Target(encoder.gamma),
            "feature_extractor.conv_layers.0.layer_norm.bias": Target(encoder.beta),
            f"{_POSITIONS}.bias": Target(encoder.position_bias),
        }
        for number, convolution in enumerate(encoder.convolutions):
            targets[f"feature_extractor.conv_layers.{number}.conv.weight"] = Target(
                convolution.kernel
            )
        for name, layer in layers.items():
            for suffix, variable in zip(("weight", "bias"), layer.weights, strict=True):
                targets[f"{name}.{suffix}"] = Target(variable)
        # Two spellings of the same weight normalization: of PyTorch before and after 2.1.
        names = {name[len(prefix) :] for name in tensors.names()}
        scale, direction = f"{_POSITIONS}.weight_g", f"{_POSITIONS}.weight_v"
        if scale not in names:
            scale = f"{_POSITIONS}.parametrizations.weight.original0"
            direction = f"{_POSITIONS}.parametrizations.weight.original1"
        groups, taps, size, _ = encoder.position_kernels.shape

        def to_kernels(weight):
            """Applies the weight normalization, and separates the groups."""
            norm = np.sqrt(np.sum(weight**2, axis=(0, 1), keepdims=True))
            weight = np.asarray(tensors.read(prefix + scale), "float32") * weight / norm
            return weight.reshape(groups, size, size, taps).transpose(0, 3, 2, 1)

        targets[scale] = Target(None, (1, 1, taps))
        targets[direction] = Target(
            encoder.position_kernels, (groups * size, size, taps), to_kernels
        )
        ignored = {"masked_spec_embed"}
        for name in names:
            if name.startswith("encoder.layers."):
                number = name.split(".")[2]
                if number.isdigit() and int(number) >= len(encoder.blocks):
                    ignored.add(name)
        assign_tensors(tensors, targets, prefix, ignored)
        model.quantizer.set_codebook(self.centers)


def open_hubert(
    folder: str | Path, layer: int | None = None, kmeans: str | Path | None = None
) -> HubertCheckpoint | None:
    """Open the HuBERT in a folder; return `None` if there is none.

    Args:
        folder: Folder with `config.json` of model type "hubert", and `model.safetensors` or
            `pytorch_model.bin`, such as that of `slprl/mhubert-base-25hz`.
        layer: Number of the layer whose features are clustered, counted from 1.
        kmeans: Path of the centers, see `read_kmeans`.

    Raises:
        ValueError: If the model is not a HuBERT base, or `layer` or `kmeans` do not fit it.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        return None
    config = read_json_file(folder)
    if config.get("model_type") != "hubert":
        return None
    return HubertCheckpoint(folder, config, layer, kmeans)
