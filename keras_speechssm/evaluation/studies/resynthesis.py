"""How much of a recording survives a codec: STOI, PESQ-WB, log-mel distance, SI-SDR."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.audio.mel import mel_filters
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.data.token_store import open_tokens
from keras_speechssm.evaluation.studies.lyra import RATES, lyra_round_trip
from keras_speechssm.evaluation.studies.token_perplexity import (
    check_vocabulary,
    evaluate_token_perplexity,
)
from keras_speechssm.models.preset_mixin import load_part
from keras_speechssm.models.soundstream.soundstream import SoundStream
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.presets import DEFAULT_PRESET
from keras_speechssm.shapes import SAMPLE_RATE

_WINDOW, _HOP, _BANDS = 1024, 256, 80


def log_mel_distance(reference: np.ndarray, decoded: np.ndarray) -> float:
    """Mean absolute difference of natural-log mel spectra (80 bands, 64 ms, hop 16 ms).

    Args:
        reference, decoded: float (samples,), of equal length, at 16 kHz.
    """
    return float(np.mean(np.abs(log_mel(reference) - log_mel(decoded))))


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """Natural logarithm of the mel magnitudes, float (frames, 80), every 16 ms."""
    starts = range(0, max(len(waveform) - _WINDOW, 0) + 1, _HOP)
    padded = np.pad(waveform, (0, max(0, _WINDOW - len(waveform))))
    frames = np.stack([padded[start : start + _WINDOW] for start in starts])
    magnitude = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), axis=-1))
    return np.log(np.maximum(magnitude @ mel_filters(_BANDS, _WINDOW), 1e-2))


def si_sdr(reference: np.ndarray, decoded: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019)."""
    reference = reference - reference.mean()
    decoded = decoded - decoded.mean()
    target = reference * (decoded @ reference) / max(reference @ reference, 1e-9)
    return float(
        10 * np.log10(max(target @ target, 1e-9) / max(np.sum((decoded - target) ** 2), 1e-9))
    )


def codec_quality(reference: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
    """All measures for one recording.

    Args:
        reference, decoded: float (samples,), of equal length, at 16 kHz.

    Returns:
        dict of `stoi` (0 .. 1), `pesq_wb` (1 .. 4.6), `log_mel_l1` (natural log; less is
        better) and `si_sdr` (dB).

    Needs the packages `pystoi` and `pesq` (extra `eval`).

    Raises:
        ValueError: the lengths differ, or PESQ finds no speech in the recording.
    """
    import pesq
    import pystoi

    if reference.shape != decoded.shape:
        raise ValueError(
            f"reference and decoded must be equally long; got {reference.shape} and "
            f"{decoded.shape}."
        )
    if not reference.any():
        raise ValueError("no speech that PESQ could judge, but silence")
    try:
        pesq_wb = float(pesq.pesq(SAMPLE_RATE, reference, decoded, "wb"))
    except (pesq.NoUtterancesError, pesq.BufferTooShortError) as error:
        raise ValueError(f"no speech that PESQ could judge ({error})") from None
    return {
        "stoi": float(pystoi.stoi(reference, decoded, SAMPLE_RATE)),
        "pesq_wb": pesq_wb,
        "log_mel_l1": log_mel_distance(reference, decoded),
        "si_sdr": si_sdr(reference, decoded),
    }


def codec_round_trip(
    codec: SoundStream, num_levels: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """The function that sends a waveform (samples,) through a codec and back.

    Args:
        codec: the codec.
        num_levels: only the first so many levels of its tokens. Defaults to `None`: all.
    """

    def round_trip(waveform: np.ndarray) -> np.ndarray:
        # Filled up, so that few shapes are compiled; the codec is causal.
        filled = np.pad(waveform, (0, -len(waveform) % (4 * SAMPLE_RATE)))
        return codec.decode(codec.encode(filled)[:, :num_levels])[: len(waveform)]

    return round_trip


def evaluate_codec(
    audio_folders: Sequence[str | Path],
    round_trip: Callable[[np.ndarray], np.ndarray],
    limit: int | None = None,
) -> dict[str, float]:
    """Mean of every measure over folders of recordings.

    Args:
        audio_folders: folders of audio files.
        round_trip: waveform (samples,) -> decoded waveform, cut to the same length here
            if it is longer, such as `codec_round_trip(codec)`.
        limit: only the first so many files.

    Returns:
        dict of the means and `num_recordings`.
    """
    check_at_least(1, limit=limit)
    files = find_audio(audio_folders)[:limit]
    rows = []
    for path in files:
        reference = read_audio(path)
        decoded = np.asarray(round_trip(reference))[: len(reference)]
        try:
            rows.append(codec_quality(reference, decoded))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {**means, "num_recordings": len(rows)}


def evaluate_codec_preset(
    audio_folders: Sequence[str | Path],
    *,
    preset: str = DEFAULT_PRESET,
    limit: int | None = None,
    num_levels: int | None = None,
    lyra_folder: str | Path | None = None,
) -> dict[str, dict[str, float]]:
    """How recordings sound after the codec's tokens, against what they were.

    Args:
        audio_folders: folders of audio files.
        preset: of a `SoundStream` or a pipeline.
        limit: only the first so many files.
        num_levels: only the first so many levels of the tokens.
        lyra_folder: Lyra V2's TFLite files: the same files through Lyra at its three rates.

    Returns:
        `{"codec": means}`, and with `lyra_folder` `"lyra_3200"`, `"lyra_6000"` and `"lyra_9200"`;
        the means are those of `evaluate_codec`.
    """
    codec = SoundStream.from_preset(preset)
    if num_levels is not None and not 1 <= num_levels <= codec.num_quantizers:
        raise ValueError(f"num_levels is {num_levels}; expected 1 to {codec.num_quantizers}.")
    report = _evaluate_lyra(audio_folders, lyra_folder, limit)
    through_codec = codec_round_trip(codec, num_levels)
    return {"codec": evaluate_codec(audio_folders, through_codec, limit), **report}


def evaluate_resynthesis(
    audio_folders: Sequence[str | Path],
    *,
    preset: str = DEFAULT_PRESET,
    limit: int | None = None,
    seed: int = 0,
    lyra_folder: str | Path | None = None,
) -> dict[str, dict[str, float]]:
    """How recordings sound after the whole way: semantic tokens, SoundStorm and the codec.

    Args:
        audio_folders: folders of audio files.
        preset: a pipeline preset.
        limit: only the first so many files.
        seed: of SoundStorm's samples.
        lyra_folder: Lyra V2's TFLite files: the same files through Lyra at its three rates.

    Returns:
        `{"resynthesis": means}`, and with `lyra_folder` Lyra's three rates; the means are those
        of `evaluate_codec`.
    """
    speech = SpeechContinuation.from_preset(preset)

    def round_trip(waveform: np.ndarray) -> np.ndarray:
        return speech.resynthesize(waveform, seed=seed)

    # Lyra first: if it cannot run, that is known before the long part.
    report = _evaluate_lyra(audio_folders, lyra_folder, limit)
    return {"resynthesis": evaluate_codec(audio_folders, round_trip, limit), **report}


def _evaluate_lyra(
    audio_folders: Sequence[str | Path], lyra_folder: str | Path | None, limit: int | None
) -> dict[str, dict[str, float]]:
    if lyra_folder is None:
        return {}
    return {
        name: evaluate_codec(audio_folders, lyra_round_trip(lyra_folder, num_quantizers), limit)
        for name, num_quantizers in RATES.items()
    }


def evaluate_language_model(
    training_folders: Sequence[str | Path],
    held_out_folders: Sequence[str | Path],
    *,
    preset: str = DEFAULT_PRESET,
    batch_size: int = 8,
) -> dict[str, float]:
    """Perplexity a held-out token of the language model, a unigram and a trigram model.

    Args:
        training_folders: folders or stores of tokens that the n-gram models count.
        held_out_folders: folders of tokens that all three are judged on.
        preset: of a `SpeechSSM` or `SpeechTransformer`, or a pipeline.
        batch_size: recordings that the model reads side by side.

    Returns:
        `{"model", "unigram", "trigram": perplexity, "tokens": tokens judged}`.
    """
    sources = [open_tokens(folders) for folders in (training_folders, held_out_folders)]
    model = load_part(preset, "speech_lm")
    for source in sources:
        check_vocabulary(model, source, preset)
    training, held_out = (
        [source.read(number) for number in range(len(source.lengths))] for source in sources
    )
    return evaluate_token_perplexity(model, training, held_out, batch_size)
