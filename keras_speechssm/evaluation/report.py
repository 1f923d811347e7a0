"""Measures of a preset's models, taken from folders: what `speechssm evaluate` prints."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.data.token_source import open_tokens
from keras_speechssm.evaluation.codec_quality import codec_round_trip, evaluate_codec
from keras_speechssm.evaluation.lyra import RATES, lyra_round_trip
from keras_speechssm.evaluation.token_perplexity import check_vocabulary, evaluate_token_perplexity
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.preset_registry import DEFAULT_PRESET, load_part
from keras_speechssm.soundstream import SoundStream


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
