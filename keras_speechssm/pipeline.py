"""Speech in, more speech out: the stages in a row (SpeechSSM, sections 3 and 5).

Knows the order of the stages and the arithmetic of time; what each stage does inside
is its own affair. Everything between the stages is a plain NumPy array.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import read_speech
from keras_speechssm.models.preset_mixin import load_part
from keras_speechssm.models.soundstorm.soundstorm import check_guidance_scale
from keras_speechssm.presets import (
    DEFAULT_PRESET,
    PARTS,
    fetch_pipeline,
    read_json_file,
    save_parts,
)
from keras_speechssm.shapes import SAMPLE_RATE, SAMPLES_PER_TOKEN, TOKEN_RATE
from keras_speechssm.synthesis import WindowSynthesis
from keras_speechssm.windows import OVERLAP, PROMPT_TOKENS, SYNTHESIS_WINDOW, StreamingWindows


def load_parts(preset: str, **parts: str | None) -> tuple[dict, dict, dict | None]:
    """The models of a pipeline by their parts' names, its config, and its metadata.

    Args:
        preset: the pipeline's name, folder or handle.
        **parts: presets that give a part in place of the pipeline's own; `None` is none. The
            metadata, which tell where weights come from, then name them.

    Raises:
        ValueError: a preset is unknown or of another part, or the parts do not fit together:
            language model and SoundStorm need the tokenizer's vocabulary, SoundStorm the
            levels and codes of the SoundStream.
    """
    others = {part: os.fspath(given) for part, given in parts.items() if given}
    # First, since a name that is wrong costs nothing then.
    models = {part: load_part(given, part) for part, given in others.items()}
    folder, config = fetch_pipeline(preset)
    models = {part: models.get(part) or load_part(folder, part) for part in PARTS}
    _check_fit(**models)
    metadata = None
    if (Path(folder) / "metadata.json").is_file():
        metadata = read_json_file(Path(folder), "metadata.json")
        metadata |= {"parts_of_other_presets": others} if others else {}
    return models, config, metadata


def _check_fit(semantic_tokenizer, speech_lm, soundstorm, soundstream) -> None:
    tokens = semantic_tokenizer.vocabulary_size
    levels = (soundstream.num_quantizers, soundstream.codebook_size)
    for name, found, expected, what in (
        ("speech_lm", speech_lm.backbone.vocabulary_size, tokens, "tokens"),
        ("soundstorm", soundstorm.semantic_vocabulary_size, tokens, "tokens"),
        ("soundstorm", soundstorm.num_levels, levels[0], "levels"),
        ("soundstorm", soundstorm.codebook_size, levels[1], "codes"),
    ):
        if found != expected:
            raise ValueError(
                f"The {name} is of {found} {what}, the others of {expected}: train it on theirs."
            )


FIRST_WINDOW = 10 * TOKEN_RATE
"""Tokens of the first window of a continuation (250, 10 s), which is soon heard."""

_VOICE_SECONDS = 30.0
"""What is tokenized of a recording whose voice is borrowed: one window of the tokenizer."""

SETTINGS = (
    "window",
    "overlap",
    "voice_tokens",
    "synthesis_temperature",
    "first_window",
    "windows_at_once",
    "synthesis_guidance_scale",
    "synthesis_iterations",
)


class SpeechContinuation:
    """Continues a recording of speech, in the same voice, for as long as you like.

    What is it for: the whole way from a waveform to a waveform. The prompt becomes
    semantic tokens; the language model continues them; SoundStorm gives each window of
    tokens the voice of the prompt's first seconds; SoundStream turns the result into
    sound. After the prompt, memory does not grow with what has been spoken.

    Args:
        semantic_tokenizer: a `SemanticTokenizer`.
        speech_lm: a `SpeechSSM`, or another model with its `stream`.
        soundstorm: a `SoundStorm`.
        soundstream: a `SoundStream`.
        window: int. Tokens that are synthesized together. Defaults to `675` (27 s).
        overlap: int. Tokens that neighboring windows share; each neighbor gives half
            of them. Defaults to `100` (4 s).
        voice_tokens: int. Tokens of voice prompt before each window, taken from the
            start of the prompt. Defaults to `75` (3 s).
        synthesis_temperature: float. Of SoundStorm's samples. Defaults to `1.0`.
        first_window: int. Tokens of a continuation's first window, at most `window`. Defaults
            to `250` (10 s): it is heard sooner, and has no tokens after them to look ahead to.
        windows_at_once: int. Windows that are synthesized as one batch, where there is memory:
            what is spoken stays the same, an accelerator is faster, and blocks come so many at
            a time, all but the first. Defaults to `1`.
        synthesis_guidance_scale: float. Above 1, SoundStorm's choices are drawn towards the
            semantic tokens, for twice its work (see `SoundStorm.generate`). Defaults to `1.0`.
        synthesis_iterations: as `iterations` of `SoundStorm.generate`. Defaults to `None`.

    Example:

    ```python
    speech = keras_speechssm.SpeechContinuation.from_preset("speech_ssm_demo_en")
    waveform = speech.continue_speech("prompt.flac", seconds=60, seed=0)
    for block in speech.stream("prompt.flac", seed=0):  # without end
        play(block)
    ```
    """

    def __init__(
        self,
        semantic_tokenizer,
        speech_lm,
        soundstorm,
        soundstream,
        window: int = SYNTHESIS_WINDOW,
        overlap: int = OVERLAP,
        voice_tokens: int = PROMPT_TOKENS,
        synthesis_temperature: float = 1.0,
        first_window: int | None = None,
        windows_at_once: int = 1,
        synthesis_guidance_scale: float = 1.0,
        synthesis_iterations: Sequence[int] | None = None,
    ):
        if first_window is None:
            first_window = min(window, max(FIRST_WINDOW, 2 * overlap))
        StreamingWindows(window, overlap, first_window)  # Refuses lengths that do not fit.
        if windows_at_once < 1:
            raise ValueError(f"windows_at_once must be at least 1, got {windows_at_once}.")
        check_guidance_scale(synthesis_guidance_scale)
        if voice_tokens < 1:
            raise ValueError(f"voice_tokens must be at least 1, got {voice_tokens}.")
        self.semantic_tokenizer = semantic_tokenizer
        self.speech_lm = speech_lm
        self.soundstorm = soundstorm
        self.soundstream = soundstream
        self.window = window
        self.overlap = overlap
        self.voice_tokens = voice_tokens
        self.synthesis_temperature = synthesis_temperature
        self.first_window = first_window
        self.windows_at_once = windows_at_once
        self.synthesis_guidance_scale = synthesis_guidance_scale
        self.synthesis_iterations = synthesis_iterations
        self.metadata: dict | None = None

    @classmethod
    def from_preset(
        cls,
        preset: str = DEFAULT_PRESET,
        *,
        semantic_tokenizer: str | None = None,
        speech_lm: str | None = None,
        soundstorm: str | None = None,
        soundstream: str | None = None,
    ) -> "SpeechContinuation":
        """Loads the four models of a pipeline preset: a name, a folder, or a handle.

        Args:
            preset: the pipeline's.
            semantic_tokenizer, speech_lm, soundstorm, soundstream: preset of another such
                model, such as `preset/` of a training run, in place of the pipeline's.
                Default to `None`.

        Raises:
            ValueError: a preset is unknown, broken or no pipeline, or the models do not fit
                together: two are of different tokens, levels or codes.
        """
        parts = (semantic_tokenizer, speech_lm, soundstorm, soundstream)
        models, config, metadata = load_parts(preset, **dict(zip(PARTS, parts, strict=True)))
        speech = cls(**models, **{name: config[name] for name in SETTINGS if name in config})
        speech.metadata = metadata
        return speech

    def save_to_preset(self, preset_dir: str | os.PathLike, metadata: dict | None = None) -> None:
        """Writes the four models, weights as float16, and the settings as a pipeline preset.

        Args:
            preset_dir: the folder, written whole or not at all. One that exists keeps its
                other files, such as its model card.
            metadata: dict of JSON values for `metadata.json`, such as the training data
                and its licenses. Defaults to those of the preset that was loaded, if any.
        """
        models = {part: getattr(self, part) for part in PARTS}
        settings = {name: getattr(self, name) for name in SETTINGS}
        config = {"pipeline": "SpeechContinuation", **settings}
        save_parts(preset_dir, models, config, self.metadata if metadata is None else metadata)

    def tokenize(self, audio) -> np.ndarray:
        """Semantic tokens int32 (time,) at 25 Hz of a path or a waveform (samples,)."""
        return np.asarray(self.semantic_tokenizer.tokenize(read_speech(audio)), "int32")

    def continue_speech(
        self, prompt, seconds: float, seed: int | None = None, **sampling
    ) -> np.ndarray:
        """Speech that goes on where the prompt ends; the prompt itself is left out.

        Args:
            prompt: path of an audio file, or waveform (samples,) at 16 kHz.
            seconds: float above 0. Length of the new speech.
            seed: int. The same seed gives the same audio, and a longer continuation
                begins with the shorter one. Defaults to `None`: a new one each time.
            **sampling: `temperature`, `top_k` and `top_p`, as in `stream`.

        Returns:
            float32 (round(seconds * 16000),), in [-1, 1].

        Raises:
            ValueError: `seconds` is no positive number or more than the language model can go
                on for, or the prompt is too short, silent, not finite or no waveform.
        """
        if seconds is None:
            raise ValueError("seconds is None: give a length; `stream` goes on without end.")
        blocks = self.stream(prompt, seed=seed, seconds=seconds, **sampling)
        return np.concatenate(list(blocks))

    def stream(
        self,
        prompt,
        seed: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seconds: float | None = None,
    ) -> Iterator[np.ndarray]:
        """Blocks of the continuation as they are made, without end unless asked.

        A `SpeechTransformer` ends at its `max_length`.

        Args:
            prompt: path of an audio file, or waveform (samples,) at 16 kHz.
            seed: int. Defaults to `None`: a new one each time.
            temperature: float. Of the language model's samples. Defaults to `1.0`.
            top_k: int. Samples among the k likeliest tokens only. Defaults to `None`.
            top_p: float. Samples among the likeliest tokens that together have this
                probability. Defaults to `None`.
            seconds: float. Where to stop. Defaults to `None`: never.

        Returns:
            Iterator of float32 (samples,), the first of 8 s, the others of 23 s.
        """
        remaining = _num_samples(seconds)
        prompt = read_speech(prompt)
        # The continuation starts where the prompt ends: a fraction of a token is cut
        # from the prompt's beginning.
        prompt = prompt[len(prompt) % SAMPLES_PER_TOKEN :]
        seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        # Checked above, when it still had its last fraction of a token.
        tokens = np.asarray(self.semantic_tokenizer.tokenize(prompt), "int32")
        blocks = self.speech_lm.stream(
            tokens[None],
            block_size=self.first_window + 1,  # what decides the first window, and no more
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            **self._room(remaining, len(tokens)),
        )
        new_tokens = (np.asarray(block)[0] for block in blocks)
        windows = StreamingWindows(self.window, self.overlap, self.first_window)
        synthesizer = self._synthesizer(self._voice(prompt, tokens))
        return _take(synthesizer.speak(new_tokens, windows, seed), remaining)

    def _room(self, num_samples: int | None, prompt_tokens: int) -> dict:
        """`num_tokens` for a model that goes no further, so that windows look ahead in its room."""
        longest = getattr(self.speech_lm, "max_length", None)
        if longest is None or num_samples is None:
            return {}
        room = longest - prompt_tokens
        if num_samples > room * SAMPLES_PER_TOKEN:
            raise ValueError(f"The language model goes on for {room / TOKEN_RATE:g} s at most.")
        return {"num_tokens": room}

    def resynthesize(self, audio, seed: int = 0) -> np.ndarray:
        """The recording sent through the tokens and back, in the speaker's own voice.

        Args:
            audio: path of an audio file, or waveform (samples,) at 16 kHz.
            seed: int. Defaults to `0`.

        Returns:
            float32 (samples,), as long as the recording.
        """
        waveform = read_speech(audio)
        tokens = self.tokenize(waveform)
        return self._speak(tokens, self._voice(waveform, tokens), seed)[: len(waveform)]

    def speak_tokens(self, tokens, voice, seed: int = 0) -> np.ndarray:
        """Semantic tokens as speech, in the voice of a recording.

        Args:
            tokens: int (time,), of this pipeline's tokenizer, at least one.
            voice: path of an audio file, or waveform (samples,) at 16 kHz, whose first 3 s
                give the voice.
            seed: int. Defaults to `0`.

        Returns:
            float32 (640 * time,).
        """
        tokens, size = np.asarray(tokens), self.semantic_tokenizer.vocabulary_size
        if tokens.ndim != 1 or not len(tokens) or tokens.dtype.kind not in "iu":
            raise ValueError(
                f"Expected tokens int (time,), at least one; got {tokens.dtype} {tokens.shape}."
            )
        if tokens.min() < 0 or tokens.max() >= size:
            raise ValueError(
                f"Expected tokens from 0 to {size - 1}, got {tokens.min()} to {tokens.max()}."
            )
        tokens = tokens.astype("int32")
        waveform = read_speech(voice, duration=_VOICE_SECONDS)
        return self._speak(tokens, self._voice(waveform, self.tokenize(waveform)), seed)

    def _speak(self, tokens: np.ndarray, voice: tuple, seed: int) -> np.ndarray:
        windows = StreamingWindows(self.window, self.overlap)
        blocks = self._synthesizer(voice).speak([tokens], windows, seed)
        return np.concatenate(list(blocks))

    def _voice(self, waveform: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The voice prompt: semantic (time,) and acoustic (2 time, levels) tokens."""
        length = min(self.voice_tokens, len(waveform) // SAMPLES_PER_TOKEN)
        acoustic = self.soundstream.encode(waveform[: length * SAMPLES_PER_TOKEN])
        return tokens[:length], np.asarray(acoustic)

    def _synthesizer(self, voice: tuple) -> WindowSynthesis:
        return WindowSynthesis(
            self.soundstorm,
            self.soundstream,
            voice,
            temperature=self.synthesis_temperature,
            guidance_scale=self.synthesis_guidance_scale,
            iterations=self.synthesis_iterations,
            windows_at_once=self.windows_at_once,
        )


def _num_samples(seconds: float | None) -> int | None:
    if seconds is None:
        return None
    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds must be a positive number, got {seconds}.")
    return max(1, round(seconds * SAMPLE_RATE))


def _take(blocks: Iterator[np.ndarray], remaining: int | None) -> Iterator[np.ndarray]:
    """The blocks up to `remaining` samples in all; all of them for `None`."""
    for block in blocks:
        if remaining is None:
            yield block
            continue
        yield block[:remaining]
        remaining -= len(block)
        if remaining <= 0:
            return
