"""Quality of recordings after the codec, and after the whole chain of tokens."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio, to_mono_16khz
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.evaluation.metrics.codec_quality import codec_quality
from keras_speechssm.evaluation.studies.lyra import RATES, lyra_round_trip
from keras_speechssm.models import SoundStream
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.presets import DEFAULT_PRESET
from keras_speechssm.shapes import SAMPLE_RATE


def evaluate_codec_preset(
    audio_folders: Sequence[str | Path],
    *,
    preset: str = DEFAULT_PRESET,
    limit: int | None = None,
    num_levels: int | None = None,
    lyra_folder: str | Path | None = None,
) -> dict[str, dict[str, float]]:
    """Measure how well recordings survive the codec.

    Args:
        audio_folders: Folders of audio files.
        preset: Preset of a `SoundStream`, or of a pipeline.
        limit: Use only the first files.
        num_levels: Use only the first levels of the tokens.
        lyra_folder: Lyra V2's TFLite files, to measure Lyra at its three rates as well.

    Returns:
        `{"codec": means}`, and with `lyra_folder` `lyra_3200`, `lyra_6000` and `lyra_9200`, each
        as `mean_quality` returns it.
    """
    codec = SoundStream.from_preset(preset)
    if num_levels is not None and not 1 <= num_levels <= codec.num_quantizers:
        raise ValueError(f"num_levels is {num_levels}; expected 1 to {codec.num_quantizers}.")
    lyra = _measure_lyra(audio_folders, lyra_folder, limit)
    return {"codec": mean_quality(audio_folders, codec_round_trip(codec, num_levels), limit)} | lyra


def evaluate_resynthesis(
    audio_folders: Sequence[str | Path],
    *,
    preset: str = DEFAULT_PRESET,
    limit: int | None = None,
    seed: int = 0,
    lyra_folder: str | Path | None = None,
) -> dict[str, dict[str, float]]:
    """Measure how well recordings survive semantic tokens, SoundStorm and the codec.

    Args:
        audio_folders: Folders of audio files.
        preset: Pipeline preset.
        limit: Use only the first files.
        seed: Seed of SoundStorm's samples.
        lyra_folder: Lyra V2's TFLite files, to measure Lyra at its three rates as well.

    Returns:
        `{"resynthesis": means}`, and with `lyra_folder` Lyra's three rates, each as
        `mean_quality` returns it.
    """
    speech = SpeechContinuation.from_preset(preset)
    # Lyra first: if it cannot run, the long part has not been computed in vain.
    lyra = _measure_lyra(audio_folders, lyra_folder, limit)

    def restore(waveform: np.ndarray) -> np.ndarray:
        return to_mono_16khz(speech.resynthesize(waveform, seed=seed), speech.sample_rate)

    return {"resynthesis": mean_quality(audio_folders, restore, limit)} | lyra


def codec_round_trip(
    codec: SoundStream, num_levels: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Make a function that encodes and decodes a waveform (samples,).

    Args:
        codec: The codec.
        num_levels: Use only the first levels of its tokens. Defaults to `None`: all.
    """

    def round_trip(waveform: np.ndarray) -> np.ndarray:
        # Padded, so that few shapes are compiled. The codec is causal, so padding has no effect.
        padded = np.pad(waveform, (0, -len(waveform) % (4 * SAMPLE_RATE)))
        return codec.decode(codec.encode(padded)[:, :num_levels])[: len(waveform)]

    return round_trip


def mean_quality(
    audio_folders: Sequence[str | Path],
    restore: Callable[[np.ndarray], np.ndarray],
    limit: int | None = None,
) -> dict[str, float]:
    """Measure recordings after `restore` against the originals.

    Args:
        audio_folders: Folders of audio files.
        restore: Function from a waveform (samples,) to a waveform that is at least as long, such
            as `codec_round_trip(codec)`.
        limit: Use only the first files. Defaults to `None`: all.

    Returns:
        The means of `codec_quality`, and `num_recordings`.

    Raises:
        ValueError: PESQ finds no speech in a recording.
    """
    check_at_least(1, limit=limit)
    files = find_audio(audio_folders)[:limit]
    rows = []
    for path in files:
        reference = read_audio(path)
        decoded = np.asarray(restore(reference))[: len(reference)]
        try:
            rows.append(codec_quality(reference, decoded))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {**means, "num_recordings": len(rows)}


def _measure_lyra(
    audio_folders: Sequence[str | Path], lyra_folder: str | Path | None, limit: int | None
) -> dict[str, dict[str, float]]:
    if lyra_folder is None:
        return {}
    return {
        name: mean_quality(audio_folders, lyra_round_trip(lyra_folder, num_quantizers), limit)
        for name, num_quantizers in RATES.items()
    }
