"""Weights of the Descript Audio Codec from the files of `transformers`."""

from pathlib import Path

import numpy as np

from keras_speechssm.models.checkpoint_files import open_tensors
from keras_speechssm.models.checkpoint_weights import Target, assign_tensors
from keras_speechssm.presets import read_json_file
from keras_speechssm.shapes import SAMPLE_RATE

_ARGUMENTS = {
    "downsampling_ratios": "strides",
    "encoder_hidden_size": "encoder_channels",
    "decoder_hidden_size": "decoder_channels",
    "n_codebooks": "num_quantizers",
    "codebook_size": "codebook_size",
    "codebook_dim": "code_dim",
}
"""Entry of `config.json` -> argument of `DescriptAudioCodec`."""


class DescriptAudioCodecCheckpoint:
    """A checkpoint of DAC.

    Args:
        folder: Folder with `config.json` and the tensors.
        config: Content of `config.json`.

    Attributes:
        config: Arguments of `DescriptAudioCodec`.

    Raises:
        ValueError: If an entry of the config is missing, or the model is not one of 16 kHz.
    """

    def __init__(self, folder: Path, config: dict):
        rate = config.get("sampling_rate")
        if rate != SAMPLE_RATE:
            raise ValueError(
                f"{str(folder)!r} is a DAC of {rate} Hz; expected {SAMPLE_RATE} Hz. Use "
                "hf://descript/dac_16khz."
            )
        missing = sorted(set(_ARGUMENTS) - set(config))
        if missing:
            raise ValueError(
                f"{str(folder / 'config.json')!r} does not have the entry {missing[0]!r}; "
                "download the checkpoint again."
            )
        self.config = {ours: config[theirs] for theirs, ours in _ARGUMENTS.items()}
        self._folder = folder

    def assign(self, codec) -> None:
        """Sets the weights of a `DescriptAudioCodec` of this config.

        Raises:
            ValueError: If a tensor is missing, unexpected or has another shape; the message names
                it.
        """
        targets: dict[str, Target] = {}

        def layer(name, ours):
            targets[f"{name}.weight"] = Target(ours.kernel)
            targets[f"{name}.bias"] = Target(ours.bias)

        def pointwise(name, ours):
            outputs, inputs = ours.kernel.shape[::-1]
            targets[f"{name}.weight"] = Target(
                ours.kernel, (outputs, inputs, 1), lambda x: x[..., 0].T
            )
            targets[f"{name}.bias"] = Target(ours.bias)

        def snake(name, ours):
            shape = (1, ours.alpha.shape[0], 1)
            targets[f"{name}.alpha"] = Target(ours.alpha, shape, np.ravel)

        def units(name, ours):
            for number, unit in enumerate(ours, start=1):
                place = f"{name}.res_unit{number}"
                snake(f"{place}.snake1", unit.first_snake)
                layer(f"{place}.conv1", unit.dilated)
                snake(f"{place}.snake2", unit.second_snake)
                pointwise(f"{place}.conv2", unit.pointwise)

        def transposed(name, ours):
            inputs = ours.kernel.shape[0]
            targets[f"{name}.weight"] = Target(
                ours.kernel,
                (inputs, ours.filters, 2 * ours.strides),
                lambda x: x.transpose(0, 2, 1).reshape(len(x), -1),
            )
            targets[f"{name}.bias"] = Target(ours.bias)

        stem, *blocks, last_snake, last = codec.encoder_layers
        layer("encoder.conv1", stem)
        for number in range(len(codec.strides)):
            *residual, activation, down = blocks[5 * number : 5 * number + 5]
            place = f"encoder.block.{number}"
            units(place, residual)
            snake(f"{place}.snake1", activation)
            layer(f"{place}.conv1", down)
        snake("encoder.snake1", last_snake)
        layer("encoder.conv2", last)
        stem, *blocks, last_snake, last = codec.decoder_layers
        layer("decoder.conv1", stem)
        for number in range(len(codec.strides)):
            activation, up, *residual = blocks[5 * number : 5 * number + 5]
            place = f"decoder.block.{number}"
            snake(f"{place}.snake1", activation)
            transposed(f"{place}.conv_t1", up)
            units(place, residual)
        snake("decoder.snake1", last_snake)
        layer("decoder.conv2", last)
        quantizer = codec.quantizer
        for number in range(codec.num_quantizers):
            place = f"quantizer.quantizers.{number}"
            pointwise(f"{place}.in_proj", quantizer.input_denses[number])
            pointwise(f"{place}.out_proj", quantizer.output_denses[number])
            codebook = quantizer.codebooks[number]
            targets[f"{place}.codebook.weight"] = Target(
                codebook, tuple(codebook.shape), np.asarray
            )
        assign_tensors(open_tensors(self._folder), targets)


def open_descript_audio_codec(folder: str | Path) -> DescriptAudioCodecCheckpoint | None:
    """Open the DAC in a folder; return `None` if there is none.

    Args:
        folder: Folder with `config.json` of model type "dac", and `model.safetensors`, such as
            that of `descript/dac_16khz`.

    Raises:
        ValueError: If the model is not one of 16 kHz, or its config is incomplete.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        return None
    config = read_json_file(folder)
    if config.get("model_type") != "dac":
        return None
    return DescriptAudioCodecCheckpoint(folder, config)
