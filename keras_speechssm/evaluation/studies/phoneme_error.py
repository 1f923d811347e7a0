"""How well a tokenizer's tokens tell phonemes apart: the phoneme error rate of its CTC head."""

from collections.abc import Sequence
from pathlib import Path

from keras_speechssm.audio.io import read_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import PHONEMES, find_audio, read_segments
from keras_speechssm.evaluation.metrics.edit_distance import edit_distance
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.presets import DEFAULT_PRESET


def phoneme_error_rate(references: Sequence[Sequence], hypotheses: Sequence[Sequence]) -> float:
    """Edits per reference phoneme, over all utterances together.

    Args:
        references: what was said, a sequence of phonemes for each utterance.
        hypotheses: what was recognized, likewise.

    Returns:
        0 if all is right; may pass 1 where much is inserted.
    """
    total = sum(len(reference) for reference in references)
    if total == 0 or len(references) != len(hypotheses):
        raise ValueError(
            f"Expected as many hypotheses as references and at least one phoneme, got "
            f"{len(references)} references ({total} phonemes), {len(hypotheses)} hypotheses."
        )
    pairs = zip(references, hypotheses, strict=True)
    return sum(edit_distance(reference, found) for reference, found in pairs) / total


def evaluate_phoneme_error(
    audio_folders: Sequence[str | Path],
    *,
    preset: str = DEFAULT_PRESET,
    max_segments: int = 200,
    margin: float = 0.1,
) -> dict:
    """Phoneme error of a tokenizer over folders of transcribed speech.

    Each segment is cut out, tokenized by itself, and read back from its tokens alone by
    greedy CTC decoding.

    Args:
        audio_folders: folders of recordings with sidecars of what is said in them, as
            `speechssm prepare synthesized` writes them.
        preset: the tokenizer, or a pipeline that has one.
        max_segments: segments used at most, spread evenly over all there are.
        margin: seconds of audio kept on each side of a segment.

    Returns:
        `{"phoneme_error_rate", "num_phonemes", "num_segments"}`.
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
        raise ValueError(f"No transcribed speech in {[str(f) for f in audio_folders]}.")
    stride = max(1, -(-len(segments) // max_segments))
    chosen = segments[::stride]
    tokenizer = SemanticTokenizer.from_preset(preset)
    ids = {phoneme: number for number, phoneme in enumerate(PHONEMES, start=1)}
    references, hypotheses = [], []
    for path, segment in chosen:
        start = max(0.0, segment.start - margin)
        waveform = read_audio(path, start=start, duration=segment.end + margin - start)
        hypotheses.append(tokenizer.phonemes(tokenizer.tokenize(waveform)))
        references.append([ids[phoneme] for phoneme in segment.phonemes])
    return {
        "phoneme_error_rate": phoneme_error_rate(references, hypotheses),
        "num_phonemes": sum(map(len, references)),
        "num_segments": len(chosen),
    }
