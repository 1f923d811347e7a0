"""Lyra V2 for comparison: its published TFLite files, unchanged."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.models.soundstream.convert_lyra import (
    DECODER,
    ENCODER,
    NUM_LEVELS,
    QUANTIZER,
    convert_lyra,
    open_interpreter,
)
from keras_speechssm.shapes import SAMPLES_PER_FRAME

RATES = {"lyra_3200": 16, "lyra_6000": 30, "lyra_9200": 46}
"""Number of levels of Lyra's three rates, named by bits per second."""


def evaluate_lyra_conversion(
    lyra_folder: str | Path,
    audio_folders: Sequence[str | Path],
    *,
    num_quantizers: int = 16,
    limit: int | None = None,
) -> dict:
    """Compare the codec that `speechssm convert` makes of Lyra V2 with Lyra's own graphs.

    Args:
        lyra_folder: Lyra's TFLite files.
        audio_folders: Folders of recordings.
        num_quantizers: Number of levels: 16, 30 or 46 for 3.2, 6 or 9.2 kbps.
        limit: Use only the first files.

    Returns:
        `decoder_snr_db`, the signal-to-noise ratio over all recordings when both decode the same
        codes, with Lyra's waveform as the signal; `decoder_snr_db_mean`, the mean over the
        recordings; `equal_codes`, per level the fraction of codes that both encoders agree on;
        `num_recordings`.
    """
    check_at_least(1, limit=limit)
    codec = convert_lyra(lyra_folder, num_quantizers=num_quantizers)
    energies, agreements = [], []
    for path in find_audio(audio_folders)[:limit]:
        waveform = read_audio(path)
        codes = lyra_encode(lyra_folder, waveform, num_quantizers)
        theirs = lyra_decode(lyra_folder, codes)
        difference = codec.decode(codes) - np.clip(theirs, -1.0, 1.0)
        energies.append([np.sum(theirs**2), np.sum(difference**2)])
        agreements.append(codec.encode(waveform) == codes)
    signal, noise = np.array(energies, "float64").T
    return {
        "decoder_snr_db": float(10 * np.log10(signal.sum() / noise.sum())),
        "decoder_snr_db_mean": float(np.mean(10 * np.log10(signal / noise))),
        "equal_codes": np.concatenate(agreements).mean(axis=0).round(4).tolist(),
        "num_recordings": len(energies),
    }


def lyra_encode(folder: str | Path, waveform: np.ndarray, num_quantizers: int = 16) -> np.ndarray:
    """Encode a waveform with Lyra. Needs the extra `lyra`.

    Args:
        folder: Folder with `soundstream_encoder.tflite`, `quantizer.tflite` and `lyragan.tflite`
            of Lyra 1.3.
        waveform: float (samples,) at 16 kHz; the last frame is padded with zeros.
        num_quantizers: 16, 30 or 46 for 3.2, 6 or 9.2 kbps.

    Returns:
        int32 (frames, num_quantizers).
    """
    # The graphs keep their streaming state, so each waveform needs new interpreters.
    encoder = open_interpreter(Path(folder) / ENCODER).get_signature_runner()
    quantizer = open_interpreter(Path(folder) / QUANTIZER).get_signature_runner("encode")
    padding = -len(waveform) % SAMPLES_PER_FRAME
    codes = []
    for frame in np.pad(waveform, (0, padding)).astype("float32").reshape(-1, 1, SAMPLES_PER_FRAME):
        features = encoder(input_audio=frame)["output_0"]
        outputs = quantizer(input_frames=features, num_quantizers=np.int32(num_quantizers))
        indices = next((value for value in outputs.values() if value.size == NUM_LEVELS), None)
        if indices is None:
            raise ValueError(f"{QUANTIZER} has no output of {NUM_LEVELS} indices; use Lyra 1.3's.")
        codes.append(indices.reshape(NUM_LEVELS).astype("int32")[:num_quantizers])
    return np.stack(codes)


def lyra_decode(folder: str | Path, codes: np.ndarray) -> np.ndarray:
    """Decode codes (frames, levels) with Lyra into a waveform float32 (frames * 320,)."""
    decoder = open_interpreter(Path(folder) / DECODER).get_signature_runner()
    quantizer = open_interpreter(Path(folder) / QUANTIZER).get_signature_runner("decode")
    waveform = []
    for frame in np.asarray(codes, "int32"):
        indices = np.full((NUM_LEVELS, 1, 1), -1, "int32")
        indices[: len(frame), 0, 0] = frame
        latent = quantizer(encoding_indices=indices)["output_0"]
        waveform.append(decoder(input_audio=latent)["output_0"].reshape(-1))
    return np.concatenate(waveform)


def lyra_round_trip(
    folder: str | Path, num_quantizers: int = 16
) -> Callable[[np.ndarray], np.ndarray]:
    """Make a function that encodes and decodes a waveform (samples,) with Lyra V2.

    Args:
        folder: Folder with Lyra's TFLite files.
        num_quantizers: 16, 30 or 46 for 3.2, 6 or 9.2 kbps.
    """

    def round_trip(waveform: np.ndarray) -> np.ndarray:
        codes = lyra_encode(folder, waveform, num_quantizers)
        return lyra_decode(folder, codes)[: len(waveform)]

    return round_trip
