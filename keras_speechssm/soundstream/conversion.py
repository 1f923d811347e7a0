"""Lyra V2 as a `SoundStream`: what `speechssm convert` does with its folder."""

from pathlib import Path

from keras_speechssm.converters.lyra import NUM_LEVELS, SOUND_STREAM, read_codebooks, read_lyra
from keras_speechssm.soundstream.soundstream import SoundStream


def convert_lyra(
    folder: str | Path, output: str | Path | None = None, num_quantizers: int = 16
) -> SoundStream:
    """Lyra V2's published weights in this package's codec: 16 kHz, 50 frames a second.

    The graphs compute part of their layers in 8-bit integers; here all is float32 of the same
    weights, so codes and sound are close to theirs and not the same.

    Args:
        folder: holds `soundstream_encoder.tflite`, `quantizer.tflite` and `lyragan.tflite` of
            Lyra 1.3 (Apache 2.0; `lyra/model_coeffs` in its repository).
        output: folder to write a preset to. Defaults to `None`: nothing is written.
        num_quantizers: levels of 16 codes to keep, from 1 to 46: 16, 30 and 46 are Lyra's 3.2, 6
            and 9.2 kbps. Defaults to 16.

    Returns:
        The codec.

    Raises:
        ValueError: files that are missing or not Lyra 1.3's, or a number out of range.

    Needs the extra `lyra`.
    """
    if not 1 <= num_quantizers <= NUM_LEVELS:
        raise ValueError(f"num_quantizers must lie in 1 .. {NUM_LEVELS}, got {num_quantizers}.")
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
