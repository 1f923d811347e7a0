"""Convert the weights of Lyra V2, which are TFLite files, to a `SoundStream`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_speechssm.models.soundstream.soundstream import SoundStream

_KINDS = {
    "CONV_2D": "convolution",
    "DEPTHWISE_CONV_2D": "depthwise",
    "TRANSPOSE_CONV": "transposed",
}


class Convolution(NamedTuple):
    """One convolution of a TFLite graph.

    Attributes:
        kind: `"convolution"`, `"depthwise"`, or `"transposed"`.
        kernel: float32 in TFLite's layout: (outputs, time, 1, inputs per group), or (1, time, 1,
            channels) if depthwise.
        bias: float32 (outputs,).
        num_inputs: Number of input channels of all groups.
    """

    kind: str
    kernel: np.ndarray
    bias: np.ndarray
    num_inputs: int


def open_interpreter(path: Path) -> Any:
    """Open a TFLite file with the interpreter of `ai_edge_litert`."""
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(_existing(path)))


def read_convolutions(path: Path) -> list[Convolution]:
    """Read all convolutions of the first graph of a file, in execution order.

    Integer weights are dequantized.

    Args:
        path: The TFLite file.

    Raises:
        ValueError: The file is not a TFLite file, or the graph computes a weight.
    """
    from ai_edge_litert import schema_py_generated as schema

    contents = _existing(path).read_bytes()
    if contents[4:8] != b"TFL3":
        raise ValueError(f"{path} is not a TFLite file.")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(contents, 0))
    operators = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    graph = model.subgraphs[0]
    found = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = _KINDS.get(operators[max(code.builtinCode, code.deprecatedBuiltinCode)])
        if kind is None:
            continue
        # A transposed convolution has the shape of its output first, and its input third.
        places = (1, 3, 2) if kind == "transposed" else (1, 2, 0)
        kernel, bias, inputs = (graph.tensors[operator.inputs[place]] for place in places)
        weights = (_read(model, tensor, path) for tensor in (kernel, bias))
        found.append(Convolution(kind, *weights, num_inputs=int(inputs.shape[-1])))
    return found


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"The TFLite file {path} is missing.")
    return path


def _read(model, tensor, path) -> np.ndarray:
    from ai_edge_litert.schema_py_generated import TensorType

    types = {
        TensorType.FLOAT32: np.float32,
        TensorType.INT8: np.int8,
        TensorType.INT32: np.int32,
    }
    data = model.buffers[tensor.buffer].data
    if data is None or tensor.type not in types:
        raise ValueError(
            f"{path}: the weight {tensor.name.decode()!r} is not stored as a constant."
        )
    values = np.frombuffer(bytes(data), types[tensor.type]).reshape(tensor.shape)
    if tensor.type == TensorType.FLOAT32:
        return values
    scale, zero = tensor.quantization.scale, tensor.quantization.zeroPoint
    shape = [1] * values.ndim
    shape[tensor.quantization.quantizedDimension] = len(scale)
    return ((values.astype("float64") - zero.reshape(shape)) * scale.reshape(shape)).astype(
        "float32"
    )


ENCODER, QUANTIZER, DECODER = "soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite"
"""The three files of a Lyra 1.3 model."""

NUM_LEVELS, NUM_CODES = 46, 16
"""Levels of Lyra's quantizer, and codes of each level (4 bits)."""

SOUND_STREAM = {
    "strides": (5, 2, 2),
    "channels": (64, 128, 256, 512),
    "stem_stride": 16,
    "stem_kernel_size": 64,
    "dilations": (1, 3, 9),
    "residual_kernel_size": 3,
    "separable": True,
    "activation": {
        "module": "keras.layers",
        "class_name": "LeakyReLU",
        "config": {"negative_slope": 0.3},
        "registered_name": None,
    },
    "latent_dim": 64,
    "codebook_size": NUM_CODES,
}
"""Arguments of the `SoundStream` that is Lyra V2, except `num_quantizers`."""


def is_lyra(folder: str | Path) -> bool:
    """Return whether the folder contains one of Lyra's files."""
    return any((Path(folder) / name).is_file() for name in (ENCODER, QUANTIZER, DECODER))


def read_lyra(folder: str | Path) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Read the weights of encoder and decoder, layer by layer.

    Grouped kernels become full ones with zeros between the groups, which compute the same sums.

    Args:
        folder: The folder of Lyra's files.

    Yields:
        `(name, [kernel, bias])`: the layer of `SoundStream` (`unit/layer` in a residual unit), and
        its weights in that layer's shapes.

    Raises:
        ValueError: A file is missing or is not that of Lyra 1.3.
    """
    blocks = range(len(SOUND_STREAM["strides"]))
    encoder = [("convolution", "encoder_stem")]
    for block in blocks:
        encoder += _units(f"encoder_{block}")
        encoder.append(("convolution", f"encoder_{block}_down"))
    encoder.append(("convolution", "encoder_output"))
    decoder = [("convolution", "decoder_input")]
    for block in reversed(blocks):
        decoder.append(("transposed", f"decoder_{block}_up"))
        decoder += _units(f"decoder_{block}")
    decoder.append(("transposed", "decoder_stem"))
    for name, layers in ((ENCODER, encoder), (DECODER, decoder)):
        path = Path(folder) / name
        found = _join_groups(read_convolutions(path))
        if [group[0].kind for group in found] != [kind for kind, _ in layers]:
            raise ValueError(f"{path} is not the file of Lyra 1.3: its layers differ.")
        for (kind, layer), group in zip(layers, found, strict=True):
            yield layer, _weights(kind, group, layer.endswith(("/mixing", "/pointwise")))


def read_codebooks(folder: str | Path, num_levels: int = NUM_LEVELS) -> np.ndarray:
    """Read the codes of the first levels by running the quantizer's graph.

    The order of the tables in the file is unspecified, so single codes are decoded.

    Args:
        folder: The folder of Lyra's files.
        num_levels: Number of levels. Defaults to `46` (all).

    Returns:
        float32 (num_levels, 16, 64).
    """
    decode = open_interpreter(Path(folder) / QUANTIZER).get_signature_runner("decode")
    codebooks = np.zeros((num_levels, NUM_CODES, SOUND_STREAM["latent_dim"]), "float32")
    for level in range(num_levels):
        for code in range(NUM_CODES):
            indices = np.full((NUM_LEVELS, 1, 1), -1, "int32")
            indices[level] = code
            codebooks[level, code] = decode(encoding_indices=indices)["output_0"].reshape(-1)
    return codebooks


def _units(prefix: str) -> list[tuple[str, str]]:
    return [
        (kind, f"{prefix}_unit_{unit}/{layer}")
        for unit in range(len(SOUND_STREAM["dilations"]))
        for kind, layer in (
            ("depthwise", "dilated"),
            ("convolution", "mixing"),
            ("convolution", "pointwise"),
        )
    ]


def _join_groups(convolutions: list[Convolution]) -> list[list[Convolution]]:
    """Join consecutive transposed convolutions, which are the groups of one convolution."""
    joined = []
    for convolution in convolutions:
        if convolution.kind == "transposed" and joined and joined[-1][0].kind == "transposed":
            joined[-1].append(convolution)
        else:
            joined.append([convolution])
    return joined


def _weights(kind: str, group: list[Convolution], pointwise: bool) -> list[np.ndarray]:
    """Return kernel and bias in the layout of `SoundStream`'s layers."""
    bias = np.concatenate([part.bias for part in group])
    if kind == "depthwise":
        return [group[0].kernel[0, :, 0], bias]
    # (outputs, time, 1, inputs) of each group -> (time, inputs, outputs).
    if kind == "transposed":
        parts = [part.kernel[:, :, 0].transpose(1, 2, 0) for part in group]
        kernel = _block_diagonal(parts).transpose(1, 0, 2)  # to (inputs, time, outputs)
        return [kernel.reshape(len(kernel), -1), bias]
    kernel = group[0].kernel[:, :, 0].transpose(1, 2, 0)
    num_groups = group[0].num_inputs // kernel.shape[1]
    kernel = _block_diagonal(np.split(kernel, num_groups, axis=2))
    return [kernel[0] if pointwise else kernel, bias]


def _block_diagonal(parts: list[np.ndarray]) -> np.ndarray:
    """Combine kernels (time, inputs, outputs) of groups into one over all channels."""
    time, inputs, outputs = parts[0].shape
    kernel = np.zeros((time, len(parts) * inputs, len(parts) * outputs), "float32")
    for number, part in enumerate(parts):
        rows = slice(number * inputs, (number + 1) * inputs)
        kernel[:, rows, number * outputs : (number + 1) * outputs] = part
    return kernel


def convert_lyra(
    folder: str | Path, output: str | Path | None = None, num_quantizers: int = 16
) -> SoundStream:
    """Convert the published weights of Lyra V2 to a `SoundStream`.

    Requires the extra `lyra`. Lyra computes some layers in 8-bit integers. The converted codec
    uses float32 for all of them, so codes and audio are close to Lyra's but not identical.

    Args:
        folder: Folder with `soundstream_encoder.tflite`, `quantizer.tflite`, and `lyragan.tflite`
            of Lyra 1.3 (Apache 2.0; `lyra/model_coeffs` in its repository).
        output: Folder of the preset to write. Defaults to `None` (none).
        num_quantizers: Number of levels to keep, from 1 to 46. 16, 30, and 46 levels are Lyra's
            3.2, 6, and 9.2 kbps. Defaults to `16`.

    Returns:
        The `SoundStream`.

    Raises:
        ValueError: Files are missing or are not those of Lyra 1.3, or `num_quantizers` is out of
            range.
    """
    if not 1 <= num_quantizers <= NUM_LEVELS:
        raise ValueError(f"num_quantizers must be in 1 .. {NUM_LEVELS}, got {num_quantizers}.")
    codec = SoundStream(num_quantizers=num_quantizers, **SOUND_STREAM)
    for name, weights in read_lyra(folder):
        layer, _, part = name.partition("/")
        layer = codec.get_layer(layer)
        target = getattr(layer, part) if part else layer
        target.set_weights(weights)
    codebooks = read_codebooks(folder, num_quantizers)
    for level, codebook in zip(codec.quantizer.levels, codebooks, strict=True):
        level.set_codebook(codebook)
    if output is not None:
        codec.save_to_preset(str(output))
    return codec
