"""Everything that is measured on one continuation of one item."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_speechssm.data.segments import Span
from keras_speechssm.data.speaker_embedding import (
    OFFLINE_SPEAKER_EMBEDDER,
    SpeakerEmbedder,
    open_speaker_embedder,
)
from keras_speechssm.data.voice_activity import speech_turns
from keras_speechssm.evaluation.auto_bleu import auto_bleu, slamkit_auto_bleu
from keras_speechssm.evaluation.naturalness import (
    DNSMOSPredictor,
    MOSPredictor,
    naturalness_over_time,
)
from keras_speechssm.evaluation.non_speech import share_outside
from keras_speechssm.evaluation.repetition import repeated_share, repetition_over_time
from keras_speechssm.evaluation.semantic_similarity import semantic_coherence, semantic_similarity
from keras_speechssm.evaluation.sentence_embedding import SentenceEmbedder, open_embedder
from keras_speechssm.evaluation.silence import silent_share
from keras_speechssm.evaluation.text_models import TextModel, open_text_model
from keras_speechssm.evaluation.transcript_store import TranscriptStore
from keras_speechssm.evaluation.transcription import (
    Transcriber,
    open_transcriber,
    plain_words,
    words_to_text,
)
from keras_speechssm.shapes import SAMPLE_RATE

MINUTE = 60.0

SHORT_FORM_SECONDS = 15.0
"""Continuations up to here are rated as a whole (N-MOS), the paper's 7 s among them."""


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
    speaker_embedder: SpeakerEmbedder
    mos_predictor: MOSPredictor

    def names(self) -> dict[str, str]:
        """What each is called, for the record."""
        return {
            "transcriber": self.transcriber.name,
            "text_model": self.text_model.name,
            "sentence_embedder": self.sentence_embedder.name,
            "speaker_embedder": self.speaker_embedder.name,
            "mos_predictor": self.mos_predictor.name,
        }


def open_instruments(
    transcripts: Path,
    transcriber: str,
    text_model: str,
    embedder: str,
    embedder_prompt: str | None = None,
    speaker_embedder: str = OFFLINE_SPEAKER_EMBEDDER,
) -> Instruments:
    """Instruments by their names, with transcripts kept in a folder; see `Instruments`."""
    return Instruments(
        TranscriptStore(open_transcriber(transcriber), transcripts),
        open_text_model(text_model),
        open_embedder(embedder, embedder_prompt),
        open_speaker_embedder(speaker_embedder),
        DNSMOSPredictor(),
    )


def measure_item(
    prompt: np.ndarray,
    continuation: np.ndarray,
    reference: np.ndarray | None,
    instruments: Instruments,
    spans: Sequence[tuple[float, float] | None],
    judged_seconds: float,
    planned_seconds: float,
) -> dict:
    """All measures of one continuation.

    Args:
        prompt, continuation: float (samples,).
        reference: the true continuation, or `None` where there is none of that length.
        instruments: what measures.
        spans: of N-MOS-T, from `naturalness.minute_spans`.
        judged_seconds: how long the continuation was to be. Whoever stops before is silent for
            the rest, in what is measured minute by minute.
        planned_seconds: the same for all that are compared; the truth's may be shorter.

    Returns:
        dict of numbers, of lists over time or length, and of the transcripts `text` and
        `prompt_text`; measures that cannot be taken, such as the voice of silence, are `None`.
    """
    prompt_text = words_to_text(instruments.transcriber(prompt))
    turns = speech_turns(continuation) if len(continuation) else []
    # Recognisers make words of digital silence too, and sure ones.
    words = instruments.transcriber(continuation) if turns else []
    text = words_to_text(words)
    plain = plain_words(text)
    nats, units = instruments.text_model.negative_log_likelihood(text)
    seconds = len(prompt) / SAMPLE_RATE
    return {
        "text": text,
        "prompt_text": prompt_text,
        "seconds": len(continuation) / SAMPLE_RATE,
        "num_words": len(words),
        "words_per_minute": len(words) / (judged_seconds / MINUTE),
        "word_confidence": float(np.mean([word.confidence for word in words])) if words else None,
        "nll_nats_per_unit": nats / units if units else None,
        "nats": nats,
        "units": units,
        "semantic_similarity": _similarity(text, reference, instruments),
        "sc_l": semantic_coherence(prompt_text, text, instruments.sentence_embedder),
        # Nobody's voice is like nobody's.
        "speaker_similarity": _cosine(prompt, continuation, instruments.speaker_embedder)
        if turns and speech_turns(prompt)
        else None,
        "n_mos": _short_form(continuation, turns, planned_seconds, instruments.mos_predictor),
        "n_mos_t": naturalness_over_time(continuation, spans, seconds, instruments.mos_predictor),
        "auto_bleu": auto_bleu(plain),
        "auto_bleu_arithmetic": auto_bleu(plain, geometric=False),
        "slamkit_auto_bleu": slamkit_auto_bleu(plain),
        "repeated_4_grams": repeated_share(plain),
        "over_time": _over_time(words, turns, continuation, judged_seconds, planned_seconds),
    }


def _similarity(text: str, reference: np.ndarray | None, tools: Instruments) -> float | None:
    """Of what was said to what is true, both transcribed alike."""
    if reference is None:
        return None
    # As of what was said: recognisers make words of silence.
    true_text = words_to_text(tools.transcriber(reference)) if speech_turns(reference) else ""
    return float(semantic_similarity([text], [true_text], tools.sentence_embedder)[0])


def _short_form(
    continuation: np.ndarray, turns: list[Span], planned_seconds: float, predict: MOSPredictor
) -> float | None:
    """Opinion of a whole short continuation: the worst of one without speech."""
    if planned_seconds > SHORT_FORM_SECONDS:
        return None
    return float(predict(continuation)) if turns else 1.0


def _cosine(first: np.ndarray, second: np.ndarray, embed: Callable) -> float | None:
    cosine = float(np.asarray(embed(first)) @ np.asarray(embed(second)))
    return cosine if np.isfinite(cosine) else None


def _over_time(
    words: list,
    turns: list[Span],
    continuation: np.ndarray,
    judged_seconds: float,
    planned_seconds: float,
) -> list[dict]:
    """Silence, non-speech and repetition of each minute of what was to be said.

    A rest of less than half a minute is left out: a second without a word has not failed. Only
    where no more was planned does it count as a minute.
    """
    minutes = max(int(planned_seconds <= MINUTE / 2), round(judged_seconds / MINUTE))
    missing = round(judged_seconds * SAMPLE_RATE) - len(continuation)
    silent = silent_share(np.pad(continuation, (0, max(0, missing))), MINUTE)
    outside = share_outside(turns, judged_seconds, MINUTE)
    said = [
        (plain, word.start)
        for word in words
        if word.start < judged_seconds
        for plain in plain_words(word.text)
    ]
    texts, starts = [text for text, _ in said], [start for _, start in said]
    repeated = repetition_over_time(texts, starts, MINUTE, judged_seconds)
    return [
        {
            "silent_share": quiet,
            "non_speech_share": other,
            "repeated_4_grams": found["repeated_share"],
            "words": found["num"],
        }
        for quiet, other, found in zip(silent, outside, repeated, strict=False)
    ][:minutes]
