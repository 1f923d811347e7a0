"""Lyra V2's TFLite files: what is called what."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_speechssm.converters.tflite_files import (
    Convolution,
    open_interpreter,
    read_convolutions,
)

ENCODER, QUANTIZER, DECODER = "soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite"
"""The three files of a Lyra 1.3 model."""

NUM_LEVELS, NUM_CODES = 46, 16
"""Levels of Lyra's quantizer, and codes of each: 4 bits."""

SOUND_STREAM = {
    "strides": (5, 2, 2),
    "channels": (64, 128, 256, 512),
    "stem_stride": 16,
    "stem_kernel_size": 64,
    "dilations": (1, 3, 9),
    "residual_kernel_size": 3,
    "separable": True,
    "activation": "leaky_relu_0.3",
    "latent_dim": 64,
    "codebook_size": NUM_CODES,
}
"""Arguments of the `SoundStream` that is Lyra V2 (with `num_quantizers` beside them)."""


def is_lyra(folder: str | Path) -> bool:
    """Whether the folder holds one of Lyra's files."""
    return any((Path(folder) / name).is_file() for name in (ENCODER, QUANTIZER, DECODER))


def read_lyra(folder: str | Path) -> Iterator[tuple[str, list[np.ndarray]]]:
    """The weights of encoder and decoder, layer by layer.

    Groups become full kernels, zeros where no channel meets another: the same sums.

    Yields:
        `(name, [kernel, bias])`: the layer of `SoundStream`, one of a residual unit as
        `unit/layer`, and its weights in that layer's shapes.

    Raises:
        ValueError: a file is missing or is not what Lyra 1.3 has.
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
            raise ValueError(f"{path} is not the file of Lyra 1.3: its layers are others.")
        for (kind, layer), group in zip(layers, found, strict=True):
            yield layer, _weights(kind, group, layer.endswith(("/mixing", "/pointwise")))


def read_codebooks(folder: str | Path, num_levels: int = NUM_LEVELS) -> np.ndarray:
    """Codes of the first levels, float32 (num_levels, 16, 64), by asking the quantizer's graph.

    Its tables lie in an order of their own; a frame of one code alone tells which is which.
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
    """Transposed ones that follow each other are the groups of one: TFLite has no grouped ones."""
    joined = []
    for convolution in convolutions:
        if convolution.kind == "transposed" and joined and joined[-1][0].kind == "transposed":
            joined[-1].append(convolution)
        else:
            joined.append([convolution])
    return joined


def _weights(kind: str, group: list[Convolution], pointwise: bool) -> list[np.ndarray]:
    """Kernel and bias as `SoundStream`'s layers have them."""
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
    """Kernels (time, inputs, outputs) of groups as one over all inputs and outputs."""
    time, inputs, outputs = parts[0].shape
    kernel = np.zeros((time, len(parts) * inputs, len(parts) * outputs), "float32")
    for number, part in enumerate(parts):
        rows = slice(number * inputs, (number + 1) * inputs)
        kernel[:, rows, number * outputs : (number + 1) * outputs] = part
    return kernel
