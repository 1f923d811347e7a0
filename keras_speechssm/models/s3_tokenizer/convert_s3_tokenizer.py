"""Weights of S3TokenizerV2 from the published files."""

import re
from pathlib import Path

from keras_speechssm.models.checkpoint_files import SafetensorsTensors, TorchTensors
from keras_speechssm.models.checkpoint_weights import Target, assign_tensors, check_names

_FILES = {
    "model.safetensors": "",  # ResembleAI/s3tokenizer-v2
    "s3gen.safetensors": "tokenizer.",  # ResembleAI/chatterbox
    "s3gen_meanflow.safetensors": "tokenizer.",  # ResembleAI/chatterbox-turbo
}
"""Published files, and the beginning of the tensors' names in each."""

_DERIVED = ("_mel_filters", "window")
"""Tensors that Chatterbox may store although they follow from the sizes."""

_HEAD_SIZE = 64  # of every S3 tokenizer


class S3Checkpoint:
    """A checkpoint of S3TokenizerV2.

    Args:
        tensors: A reader of `checkpoint_files`.
        prefix: Beginning of the tensors' names.

    Attributes:
        config: Arguments of `S3Tokenizer`.

    Raises:
        ValueError: If a tensor is missing or unexpected.
    """

    def __init__(self, tensors, prefix: str):
        self.tensors = tensors
        self.prefix = prefix
        numbers = [_block_number(name, prefix) for name in tensors.names()]
        num_layers = 1 + max(number for number in numbers if number is not None)
        check_names(tensors, _names(num_layers), prefix, _DERIVED)
        hidden_dim, num_mels, _ = self._shape("encoder.conv1.weight", 3)
        self.config = {
            "num_layers": num_layers,
            "num_heads": hidden_dim // _HEAD_SIZE,
            "hidden_dim": hidden_dim,
            "intermediate_dim": self._shape("encoder.blocks.0.mlp.0.weight", 2)[0],
            "num_mels": num_mels,
            "kernel_size": self._shape("encoder.blocks.0.attn.fsmn_block.weight", 3)[2],
            "code_dim": self._shape("quantizer._codebook.project_down.weight", 2)[0],
        }

    def assign(self, model) -> None:
        """Sets the weights of an `S3Tokenizer` of this config.

        Raises:
            ValueError: If a tensor has another shape; the message names it.
        """
        encoder = model.encoder
        layers = {
            "encoder.conv1": encoder.first_convolution,
            "encoder.conv2": encoder.second_convolution,
            "quantizer._codebook.project_down": encoder.code_dense,
        }
        targets = {}
        for number, block in enumerate(encoder.blocks):
            place = f"encoder.blocks.{number}"
            layers |= {
                f"{place}.attn.query": block.query_dense,
                f"{place}.attn.key": block.key_dense,
                f"{place}.attn.value": block.value_dense,
                f"{place}.attn.out": block.output_dense,
                f"{place}.attn_ln": block.attention_norm,
                f"{place}.mlp.0": block.feedforward_intermediate,
                f"{place}.mlp.2": block.feedforward_output,
                f"{place}.mlp_ln": block.feedforward_norm,
            }
            targets[f"{place}.attn.fsmn_block.weight"] = Target(
                block.memory_kernel, (model.hidden_dim, 1, model.kernel_size), lambda x: x[:, 0].T
            )
        for name, layer in layers.items():
            for suffix, variable in zip(("weight", "bias"), layer.weights, strict=False):
                targets[f"{name}.{suffix}"] = Target(variable)
        assign_tensors(self.tensors, targets, self.prefix, _DERIVED)

    def _shape(self, name: str, num_axes: int) -> tuple[int, ...]:
        shape = tuple(self.tensors.shape(self.prefix + name))
        if len(shape) != num_axes:
            raise ValueError(
                f"{self.tensors.place}: the tensor {self.prefix + name!r} has shape {shape}; "
                f"expected {num_axes} axes. The file is of another model, or damaged."
            )
        return shape


def open_s3_tokenizer(folder: str | Path) -> S3Checkpoint | None:
    """Open the S3TokenizerV2 in a folder; return `None` if there is none.

    These forms are read: `model.safetensors` of `ResembleAI/s3tokenizer-v2`, `s3gen.safetensors`
    of Chatterbox, and `speech_tokenizer_v2*.pt`, a dictionary of tensors.

    Args:
        folder: The folder of the files.

    Raises:
        ValueError: If a file is damaged, a tensor is missing or unexpected, or the model is there
            as an ONNX graph only.
    """
    folder = Path(folder)
    for name, prefix in _FILES.items():
        if (folder / name).is_file():
            tensors = SafetensorsTensors(folder, name)
            if any(_block_number(tensor, prefix) is not None for tensor in tensors.names()):
                return S3Checkpoint(tensors, prefix)
    for path in sorted(folder.glob("speech_tokenizer_v2*.pt")):
        tensors = TorchTensors(path)
        if any(_block_number(tensor, "") is not None for tensor in tensors.names()):
            return S3Checkpoint(tensors, "")
    if graphs := sorted(folder.glob("speech_tokenizer_v2*.onnx")):
        raise ValueError(
            f"{str(graphs[0])!r} is an ONNX graph, which cannot be read; use the same weights in "
            "hf://ResembleAI/s3tokenizer-v2."
        )
    return None


def _block_number(name: str, prefix: str) -> int | None:
    found = re.fullmatch(rf"{re.escape(prefix)}encoder\.blocks\.(\d+)\..*", name)
    return int(found[1]) if found else None


def _names(num_layers: int) -> list[str]:
    """The names of all tensors, without prefix."""
    both = ["encoder.conv1", "encoder.conv2", "quantizer._codebook.project_down"]
    names = []
    for number in range(num_layers):
        place = f"encoder.blocks.{number}"
        parts = ("attn.query", "attn.value", "attn.out", "attn_ln", "mlp.0", "mlp.2", "mlp_ln")
        both += [f"{place}.{part}" for part in parts]
        names += [f"{place}.attn.key.weight", f"{place}.attn.fsmn_block.weight"]
    return names + [f"{name}.{suffix}" for name in both for suffix in ("weight", "bias")]
