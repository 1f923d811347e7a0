"""Everything that is measured on one continuation of one item."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_speechssm.data.segments import Span
from keras_speechssm.data.voice_activity import speech_turns
from keras_speechssm.evaluation.auto_bleu import auto_bleu, slamkit_auto_bleu
from keras_speechssm.evaluation.naturalness import (
    MOSPredictor,
    minute_spans,
    naturalness_over_time,
)
from keras_speechssm.evaluation.non_speech import share_outside
from keras_speechssm.evaluation.repetition import repeated_share, repetition_over_time
from keras_speechssm.evaluation.semantic_similarity import semantic_coherence, semantic_similarity
from keras_speechssm.evaluation.sentence_embedding import SentenceEmbedder
from keras_speechssm.evaluation.silence import silent_share
from keras_speechssm.evaluation.text_models import TextModel
from keras_speechssm.evaluation.transcription import Transcriber, words_to_text
from keras_speechssm.shapes import SAMPLE_RATE

MINUTE = 60.0


@dataclass(frozen=True)
class Instruments:
    """What measures: see the modules of each.

    Attributes:
        transcriber: waveform -> words.
        text_model: text -> nats.
        sentence_embedder: texts -> vectors.
        speaker_embedder: waveform -> vector.
        mos_predictor: waveform -> opinion score.
    """

    transcriber: Transcriber
    text_model: TextModel
    sentence_embedder: SentenceEmbedder
    speaker_embedder: Callable[[np.ndarray], np.ndarray]
    mos_predictor: MOSPredictor

    def names(self) -> dict[str, str]:
        """What each is called, for the record."""
        return {
            "transcriber": self.transcriber.name,
            "text_model": self.text_model.name,
            "sentence_embedder": self.sentence_embedder.name,
            "speaker_embedder": "resemblyzer",
            "mos_predictor": self.mos_predictor.name,
        }


def measure_item(
    name: str,
    prompt: np.ndarray,
    continuation: np.ndarray,
    reference: np.ndarray,
    instruments: Instruments,
    end_seconds: float,
) -> dict:
    """All measures of one continuation.

    Args:
        name: of the item, which fixes the spans that are judged.
        prompt, continuation: float (samples,).
        reference: the true continuation.
        instruments: what measures.
        end_seconds: where the judged time ends, from the start of the prompt.

    Returns:
        dict of numbers, of lists over time or length, and of the transcripts `text` and
        `prompt_text`; measures that cannot be taken, such as the voice of silence, are `None`.
    """
    prompt_text = words_to_text(instruments.transcriber(prompt))
    words = instruments.transcriber(continuation)
    text = words_to_text(words)
    true_text = words_to_text(instruments.transcriber(reference))
    nats, units = instruments.text_model.negative_log_likelihood(text)
    seconds = len(prompt) / SAMPLE_RATE
    spans = minute_spans(name, seconds, end_seconds)
    turns = speech_turns(continuation)
    similarity = semantic_similarity([text], [true_text], instruments.sentence_embedder)
    return {
        "text": text,
        "prompt_text": prompt_text,
        "seconds": len(continuation) / SAMPLE_RATE,
        "num_words": len(words),
        "words_per_minute": _per_minute(len(words), continuation),
        "word_confidence": float(np.mean([word.confidence for word in words])) if words else None,
        "nll_nats_per_unit": nats / units if units else None,
        "nats": nats,
        "units": units,
        "semantic_similarity": float(similarity[0]),
        "sc_l": semantic_coherence(prompt_text, text, instruments.sentence_embedder),
        # Nobody's voice is like nobody's.
        "speaker_similarity": _cosine(prompt, continuation, instruments.speaker_embedder)
        if turns and speech_turns(prompt)
        else None,
        "n_mos_t": naturalness_over_time(continuation, spans, seconds, instruments.mos_predictor),
        "auto_bleu": auto_bleu(text.split()),
        "auto_bleu_arithmetic": auto_bleu(text.split(), geometric=False),
        "slamkit_auto_bleu": slamkit_auto_bleu(text.split()),
        "repeated_4_grams": repeated_share(text.split()),
        "over_time": _over_time(words, turns, continuation),
    }


def _per_minute(count: int, waveform: np.ndarray) -> float | None:
    return count / (len(waveform) / SAMPLE_RATE / MINUTE) if len(waveform) else None


def _cosine(first: np.ndarray, second: np.ndarray, embed: Callable) -> float:
    return float(np.asarray(embed(first)) @ np.asarray(embed(second)))


def _over_time(words: list, turns: list[Span], continuation: np.ndarray) -> list[dict]:
    """Silence, non-speech and repetition of each minute."""
    duration = len(continuation) / SAMPLE_RATE
    outside = share_outside(turns, duration, MINUTE)
    silent = silent_share(continuation, MINUTE)
    repeated = repetition_over_time(
        [word.text for word in words], [word.start for word in words], MINUTE, duration
    )
    return [
        {
            "silent_share": quiet,
            "non_speech_share": other,
            "repeated_4_grams": said["repeated_share"],
            "words": said["num"],
        }
        for quiet, other, said in zip(silent, outside, repeated, strict=False)
    ]
