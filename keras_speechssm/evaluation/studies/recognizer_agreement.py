"""Do two recognizers hear the same words? A test of words without listeners or texts."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import name_recordings
from keras_speechssm.data.segmentation import cut_at_pauses, speech_turns
from keras_speechssm.evaluation.metrics.word_error import mutual_word_error_rate, normalize_words
from keras_speechssm.evaluation.models.moonshine import MOONSHINE
from keras_speechssm.evaluation.models.transcribers import Transcriber, load_transcriber
from keras_speechssm.evaluation.models.transcript import Word, words_to_text
from keras_speechssm.evaluation.models.whisper import WHISPER_BASE
from keras_speechssm.shapes import SAMPLE_RATE

logger = logging.getLogger(__name__)


def evaluate_recognizer_agreement(
    audio: Sequence[str | Path],
    *,
    transcriber: str = MOONSHINE,
    second_transcriber: str = WHISPER_BASE,
    max_seconds: float | None = None,
    minute_seconds: float = 60.0,
) -> dict:
    """Measure how much two speech recognizers disagree on recordings, minute by minute.

    Two good recognizers agree on clear words and disagree on babble, so their mutual word error
    rate is low for speech with words. Run it on true recordings of the same kind as well:
    the disagreement of the recognizers on those is the best that can be reached.

    Both recognizers get the same pieces of about a minute, which are cut at pauses.

    Args:
        audio: Recordings, or folders of them, such as the output of `evaluate generate`.
        transcriber: `moonshine-tiny`, `pocketsphinx`, `whisper-base`, `whisper-tiny-en`, or
            another name that `evaluate continuations` takes.
        second_transcriber: Another transcriber.
        max_seconds: Use only the first seconds of each recording. Defaults to `None`: all.
        minute_seconds: Longest piece.

    Returns:
        `mutual_word_error_rate` over all recordings; `by_minute`, the same per minute of the
        recordings; `num_words` per transcriber; and under `recordings` the rate and both
        transcripts of each recording.
    """
    check_at_least(1, max_seconds=max_seconds, minute_seconds=minute_seconds)
    if transcriber == second_transcriber:
        raise ValueError(f"Both transcribers are {transcriber}; expected two different ones.")
    recognizers = [load_transcriber(name) for name in (transcriber, second_transcriber)]
    texts = {}
    for name, path in name_recordings(audio).items():
        logger.info("Transcribing %s.", name)
        waveform = read_audio(path, duration=max_seconds)
        texts[name] = transcribe_minutes(waveform, recognizers, minute_seconds)
    return summarize_agreement(texts, (transcriber, second_transcriber))


def transcribe_minutes(
    waveform: np.ndarray, transcribers: Sequence[Transcriber], minute_seconds: float = 60.0
) -> list[tuple[str, ...]]:
    """Transcribe each minute of a recording with several transcribers.

    Args:
        waveform: float (samples,) at 16 kHz.
        transcribers: What transcribes.
        minute_seconds: Longest piece; pieces are cut at pauses. Defaults to `60.0`.

    Returns:
        For each minute the text of each transcriber; empty where there is no speech.
    """
    minutes = recognize_minutes(waveform, transcribers, minute_seconds)
    return [tuple(map(words_to_text, minute)) for minute in minutes]


def recognize_minutes(
    waveform: np.ndarray, transcribers: Sequence[Transcriber], minute_seconds: float = 60.0
) -> list[tuple[list[Word], ...]]:
    """Recognize the words of each minute of a recording with several transcribers.

    Args:
        waveform: float (samples,) at 16 kHz.
        transcribers: What transcribes.
        minute_seconds: Longest piece; pieces are cut at pauses. Defaults to `60.0`.

    Returns:
        For each minute the words of each transcriber, with times from the start of the
        recording; none where there is no speech.
    """
    minutes = []
    for start, stop in cut_at_pauses(waveform, minute_seconds):
        piece = waveform[round(start * SAMPLE_RATE) : round(stop * SAMPLE_RATE)]
        # Recognizers hear words in silence and noise too.
        spoken = bool(speech_turns(piece))
        heard = [t(piece) if spoken else [] for t in transcribers]
        minutes.append(tuple([_delayed(word, start) for word in words] for words in heard))
    return minutes


def _delayed(word: Word, seconds: float) -> Word:
    return dataclasses.replace(word, start=word.start + seconds, end=word.end + seconds)


def summarize_agreement(
    texts: Mapping[str, Sequence[tuple[str, ...]]], names: tuple[str, str]
) -> dict:
    """Summarize the texts of two transcribers.

    Args:
        texts: For each recording the two texts of each minute, from `transcribe_minutes`.
        names: Names of the two transcribers.

    Returns:
        See `evaluate_recognizer_agreement`.
    """

    def rate(pairs: Sequence[tuple[str, ...]]) -> float:
        return mutual_word_error_rate([one for one, _ in pairs], [other for _, other in pairs])

    pairs = [pair for minutes in texts.values() for pair in minutes]
    longest = max(map(len, texts.values()))
    return {
        "mutual_word_error_rate": rate(pairs),
        "by_minute": [
            rate([minutes[n] for minutes in texts.values() if n < len(minutes)])
            for n in range(longest)
        ],
        "num_words": {
            name: sum(len(normalize_words(pair[place])) for pair in pairs)
            for place, name in enumerate(names)
        },
        "recordings": {
            recording: {
                "mutual_word_error_rate": rate(minutes),
                **{
                    name: " ".join(pair[place] for pair in minutes).strip()
                    for place, name in enumerate(names)
                },
            }
            for recording, minutes in texts.items()
        },
    }
