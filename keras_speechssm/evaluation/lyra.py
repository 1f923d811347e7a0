"""Lyra V2 as a peer: its published TFLite files, run as they are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from keras_speechssm.shapes import SAMPLES_PER_FRAME

_MAX_QUANTIZERS = 46


def lyra_round_trip(
    folder: str | Path, num_quantizers: int = 16
) -> Callable[[np.ndarray], np.ndarray]:
    """A function that sends a waveform through Lyra V2 and back.

    Args:
        folder: holds `soundstream_encoder.tflite`, `quantizer.tflite` and
            `lyragan.tflite` of Lyra 1.3.
        num_quantizers: 16, 30 or 46 for 3.2, 6 or 9.2 kbps.

    Returns:
        function from float (samples,) at 16 kHz to float32 (samples,) of equal length.

    Needs the package `ai-edge-litert` or TensorFlow.
    """
    folder = Path(folder)

    def round_trip(waveform: np.ndarray) -> np.ndarray:
        # The graphs keep their streaming state inside: a new waveform takes new ones.
        encoder = _load(folder / "soundstream_encoder.tflite").get_signature_runner()
        quantizer = _load(folder / "quantizer.tflite")
        encode = quantizer.get_signature_runner("encode")
        decode = quantizer.get_signature_runner("decode")
        decoder = _load(folder / "lyragan.tflite").get_signature_runner()
        fill = -len(waveform) % SAMPLES_PER_FRAME
        frames = np.pad(waveform, (0, fill)).astype("float32").reshape(-1, 1, SAMPLES_PER_FRAME)
        decoded = []
        for frame in frames:
            features = encoder(input_audio=frame)["output_0"]
            codes = encode(input_frames=features, num_quantizers=np.int32(num_quantizers))
            indices = _indices(codes)
            indices[num_quantizers:] = -1
            latent = decode(encoding_indices=indices)["output_0"]
            decoded.append(decoder(input_audio=latent)["output_0"].reshape(-1))
        return np.concatenate(decoded)[: len(waveform)]

    return round_trip


def _indices(outputs: dict) -> np.ndarray:
    for value in outputs.values():
        if value.size == _MAX_QUANTIZERS:
            return value.reshape(_MAX_QUANTIZERS, 1, 1).astype("int32")
    raise ValueError(f"quantizer.tflite gave no {_MAX_QUANTIZERS} indices.")


def _load(path: Path):
    if not path.exists():
        raise ValueError(f"Lyra's file {path} is missing.")
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow

        Interpreter = tensorflow.lite.Interpreter
    return Interpreter(str(path))
