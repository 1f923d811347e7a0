"""Phoneme errors of a tokenizer: how well its tokens distinguish phonemes."""

from collections.abc import Sequence
from pathlib import Path

from keras_speechssm.audio.io import read_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import PHONEMES, find_audio, read_segments
from keras_speechssm.evaluation.metrics.word_error import error_rate
from keras_speechssm.models import SemanticTokenizer
from keras_speechssm.presets import DEFAULT_PRESET


def evaluate_phoneme_error(
    audio_folders: Sequence[str | Path],
    *,
    preset: str = DEFAULT_PRESET,
    max_segments: int = 200,
    margin: float = 0.1,
) -> dict:
    """Measure the phoneme error rate of a tokenizer on transcribed speech.

    Each segment is cut out and tokenized without its context; its phonemes are read from the
    tokens alone, by greedy CTC decoding.

    Args:
        audio_folders: Folders of recordings with their phonemes in sidecar files, from `speechssm
            prepare synthesized` or `speechssm prepare transcribed`.
        preset: Preset of the tokenizer, or of a pipeline.
        max_segments: Maximal number of segments, spread evenly.
        margin: Seconds of audio to keep on each side of a segment.

    Returns:
        `phoneme_error_rate`, `num_phonemes` and `num_segments`.

    Raises:
        ValueError: There is no transcribed speech, or the tokenizer was not trained with phonemes.
    """
    check_at_least(1, max_segments=max_segments)
    check_at_least(0, margin=margin)
    segments = [
        (path, segment)
        for path in find_audio(audio_folders)
        for segment in read_segments(path) or ()
        if segment.phonemes
    ]
    if not segments:
        folders = ", ".join(map(str, audio_folders))
        raise ValueError(f"No recording in {folders} has phonemes in a sidecar file.")
    chosen = segments[:: max(1, -(-len(segments) // max_segments))]
    tokenizer = SemanticTokenizer.from_preset(preset)
    if tokenizer.labels is not None:
        raise ValueError(f"The tokenizer {preset!r} was trained with text, not with phonemes.")
    ids = {phoneme: number for number, phoneme in enumerate(PHONEMES, start=1)}
    references, hypotheses = [], []
    for path, segment in chosen:
        start = max(0.0, segment.start - margin)
        waveform = read_audio(path, start=start, duration=segment.end + margin - start)
        hypotheses.append(tokenizer.phonemes(tokenizer.tokenize(waveform)))
        references.append([ids[phoneme] for phoneme in segment.phonemes])
    return {
        "phoneme_error_rate": error_rate(references, hypotheses),
        "num_phonemes": sum(map(len, references)),
        "num_segments": len(chosen),
    }
