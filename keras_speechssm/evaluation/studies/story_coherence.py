"""Spoken stories: are their sentences in the grammar, and do their characters return?"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import name_recordings
from keras_speechssm.data.recipes.stories.story_parser import (
    ParsedTranscript,
    check_story,
    named_character,
    normalize_words,
    parse_transcript,
)
from keras_speechssm.evaluation.models.moonshine import MOONSHINE
from keras_speechssm.evaluation.models.transcribers import load_transcriber
from keras_speechssm.evaluation.models.transcript import Word, words_to_text
from keras_speechssm.evaluation.studies.recognizer_agreement import recognize_minutes

logger = logging.getLogger(__name__)


def evaluate_story_coherence(
    audio: Sequence[str | Path],
    *,
    transcriber: str = MOONSHINE,
    max_word_errors: int = 1,
    delays: Sequence[float] = (15, 30, 60, 120),
    max_seconds: float | None = None,
) -> dict:
    """Measure how much of recordings are sentences of the story grammar, and what becomes of names.

    For models that were trained on the stories of `prepare stories` or `prepare spoken-stories`.
    Run it on true stories as well: recognizers mishear words in those too.

    A name *returns* after a delay d if it is said again between d and 2 d later. Names that are
    said less than 2 d before the end do not count. Chance is how often a name of one recording is
    said at these times in the other recordings. Sentences are *consistent* if each of their
    characters was introduced, and pronouns agree with them.

    Args:
        audio: Recordings, or folders of them, such as the output of `evaluate generate`.
        transcriber: `moonshine-tiny`, `pocketsphinx`, `whisper-base`, `whisper-tiny-en`, or
            another name that `evaluate continuations` takes.
        max_word_errors: Largest number of wrong words of a sentence.
        delays: Seconds after which names return.
        max_seconds: Use only the first seconds of each recording. Defaults to `None`: all.

    Returns:
        `sentence_fraction`, the estimated fraction of sentences that are in the grammar;
        `word_fraction`, that of the words inside them; both also in `by_minute`;
        `consistent_fraction` of these sentences; `name_returns` and `name_returns_by_chance` per
        delay, `None` where nothing can be counted; and under `recordings` the numbers and the
        transcript of each recording.

    Raises:
        ValueError: There is no audio, or an option is out of range.
    """
    check_at_least(0, max_word_errors=max_word_errors)
    check_at_least(1, max_seconds=max_seconds, delays=min(delays, default=None))
    recognizer = load_transcriber(transcriber)
    words = {}
    for name, path in name_recordings(audio).items():
        logger.info("Transcribing %s.", name)
        waveform = read_audio(path, duration=max_seconds)
        words[name] = [minute for (minute,) in recognize_minutes(waveform, [recognizer])]
    return summarize_stories(words, max_word_errors, delays)


def summarize_stories(
    words: Mapping[str, Sequence[Sequence[Word]]],
    max_word_errors: int = 1,
    delays: Sequence[float] = (15, 30, 60, 120),
) -> dict:
    """Summarize the words of recordings.

    Args:
        words: For each recording the words of each minute.
        max_word_errors: Largest number of wrong words of a sentence.
        delays: Seconds after which names return.

    Returns:
        See `evaluate_story_coherence`.
    """
    texts = {name: [words_to_text(m) for m in minutes] for name, minutes in words.items()}
    parses = {
        name: [parse_transcript(text, max_word_errors) for text in minutes]
        for name, minutes in texts.items()
    }
    names = {name: _mentions(minutes) for name, minutes in words.items()}
    checks = {
        name: _check(texts[name], minutes, max_word_errors) for name, minutes in parses.items()
    }
    longest = max(map(len, parses.values()))
    return {
        **_fractions([parse for minutes in parses.values() for parse in minutes]),
        "consistent_fraction": _consistent(list(checks.values())),
        "by_minute": [
            _fractions([minutes[n] for minutes in parses.values() if n < len(minutes)])
            for n in range(longest)
        ],
        "name_returns": {f"{delay:g}": _return_rate(names, delay) for delay in delays},
        "name_returns_by_chance": {
            f"{delay:g}": _return_rate(names, delay, by_chance=True) for delay in delays
        },
        "recordings": {
            name: {
                **_fractions(minutes),
                "consistent_fraction": _consistent([checks[name]]),
                "transcript": " ".join(texts[name]).strip(),
            }
            for name, minutes in parses.items()
        },
    }


def _fractions(parses: Sequence[ParsedTranscript]) -> dict[str, float]:
    together = ParsedTranscript(
        sum(parse.num_words for parse in parses),
        [sentence for parse in parses for sentence in parse.sentences],
    )
    return {
        "sentence_fraction": together.sentence_fraction,
        "word_fraction": together.word_fraction,
    }


def _check(
    texts: Sequence[str], parses: Sequence[ParsedTranscript], max_word_errors: int
) -> tuple[int, int]:
    """Return the numbers of sentences without and with problems."""
    sentences = [
        " ".join(normalize_words(text)[start:end])
        for text, parse in zip(texts, parses, strict=True)
        for start, end, _ in parse.sentences
    ]
    check = check_story(sentences, max_word_errors=max_word_errors)
    return check.num_parsed - len(check.problems), len(check.problems)


def _consistent(checks: Sequence[tuple[int, int]]) -> float | None:
    good, bad = np.sum(checks, axis=0)
    return float(good / (good + bad)) if good + bad else None


def _mentions(minutes: Sequence[Sequence[Word]]) -> tuple[float, list[tuple[float, str]]]:
    """Return the end of the last word, and the time and name of each mention of a character."""
    words = [word for minute in minutes for word in minute]
    named = [(word.start, named_character(word.text)) for word in words]
    end = words[-1].end if words else 0.0
    return end, [(start, name) for start, name in named if name]


def _return_rate(names: Mapping[str, tuple], delay: float, by_chance: bool = False) -> float | None:
    """Return how often a name is said again after a delay, in its recording or in the others."""
    returned = [
        any(name == said and delay <= later - time < 2 * delay for later, said in heard)
        for recording, (_, mentions) in names.items()
        for other, (end, heard) in names.items()
        if (other != recording) == by_chance
        for time, name in mentions
        if time + 2 * delay <= end
    ]
    return float(np.mean(returned)) if returned else None
