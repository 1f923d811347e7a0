"""Turn semantic tokens into speech, window by window: SoundStorm and SoundStream, or S3Gen."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from keras_speechssm.checks import check_at_least, check_between, to_int
from keras_speechssm.models.soundstorm.decoding import check_guidance_scale, check_iterations
from keras_speechssm.presets import read_section
from keras_speechssm.shapes import FRAMES_PER_TOKEN, SAMPLE_RATE, SAMPLES_PER_TOKEN, TOKEN_RATE
from keras_speechssm.windows import (
    FIRST_WINDOW,
    OVERLAP,
    PROMPT_TOKENS,
    SYNTHESIS_WINDOW,
    StreamingWindows,
    Window,
    crop_window,
    growing_windows,
)

WINDOW_PLANS = ("growing", "paper")
"""Plans of the windows of a continuation."""

_MAX_SECONDS = 3600.0
"""Longest window or voice prompt. Windows are synthesized in memory."""

_TOKEN_SETTINGS = {
    "window": "window_seconds",
    "overlap": "overlap_seconds",
    "first_window": "first_window_seconds",
    "voice_tokens": "voice_seconds",
}
_RENAMED_SETTINGS = {
    "synthesis_temperature": "temperature",
    "synthesis_guidance_scale": "guidance_scale",
    "synthesis_iterations": "iterations",
    "windows_at_once": "windows_per_batch",
}


class VoicePrompt(NamedTuple):
    """The voice to speak in: the tokens of a short recording of it.

    Attributes:
        semantic_tokens: int32 (time,) at 25 Hz.
        acoustic_tokens: int32 (2 * time, levels) at 50 Hz.
    """

    semantic_tokens: np.ndarray
    acoustic_tokens: np.ndarray


@dataclasses.dataclass
class SynthesisState:
    """Where a stream of windows is: what the next windows need.

    Attributes:
        tokens: int32 (time,), the semantic tokens from the start of the next window on.
        start: Position of the first of these tokens in the whole sequence.
        num_windows: Number of windows whose audio has been returned.
    """

    tokens: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, "int32"))
    start: int = 0
    num_windows: int = 0

    @property
    def num_tokens(self) -> int:
        """Number of tokens that have arrived."""
        return self.start + len(self.tokens)

    def finish_window(self, next_start: int) -> None:
        """Count a window, and forget the tokens before the start of the next one."""
        self.tokens = self.tokens[next_start - self.start :]
        self.start = next_start
        self.num_windows += 1


@dataclasses.dataclass(frozen=True)
class SynthesisConfig:
    """Settings of the synthesis. Lengths are multiples of 0.04 s, one semantic token.

    Args:
        window_seconds: Length of a synthesis window. Defaults to `27.0`.
        overlap_seconds: Length that neighboring windows share; each contributes half of it.
            Defaults to `4.0`.
        windows: Plan of the windows of a continuation. `"growing"`: the first one is short, which
            reduces latency, and each later one twice as long, up to `window_seconds`. `"paper"`:
            all are `window_seconds` long, with seams after 25, 48, 71 s and so on. Defaults to
            `"growing"`.
        first_window_seconds: Length of the first of growing windows. Defaults to `4.0`.
        voice_seconds: Length of the voice prompt before each window, taken from the beginning of
            the prompt. Defaults to `3.0`.
        temperature: Temperature of SoundStorm's samples; like the next two, not used with S3Gen.
            Defaults to `1.0`.
        guidance_scale: Above 1, SoundStorm follows the semantic tokens more closely, at twice the
            work; one number, or one for each level. See `SoundStorm.generate`. Defaults to `1.0`.
        iterations: Decoding passes for each level; see `SoundStorm.generate`. Defaults to `None`.
        windows_per_batch: Number of windows that are synthesized as one batch. The audio is the
            same. A larger batch is faster on accelerators, needs more memory, and makes blocks
            arrive several at a time (except the first). Defaults to `1`.

    Raises:
        ValueError: A setting is out of range.

    Example:

    ```python
    from keras_speechssm.synthesis import SynthesisConfig

    config = SynthesisConfig(window_seconds=12.0, overlap_seconds=2.0, guidance_scale=2.5)
    config.window  # 300 tokens
    ```

    Reference: SpeechSSM (Park et al. 2024), sections 3 and 5, appendix B.1.
    """

    window_seconds: float = SYNTHESIS_WINDOW / TOKEN_RATE
    overlap_seconds: float = OVERLAP / TOKEN_RATE
    windows: str = "growing"
    first_window_seconds: float = FIRST_WINDOW / TOKEN_RATE
    voice_seconds: float = PROMPT_TOKENS / TOKEN_RATE
    temperature: float = 1.0
    guidance_scale: float | Sequence[float] = 1.0
    iterations: Sequence[int] | None = None
    windows_per_batch: int = 1

    def __post_init__(self):
        numbers = {name: getattr(self, name) for name in (*_TOKEN_SETTINGS.values(), "temperature")}
        if missing := [name for name in numbers if numbers[name] is None]:
            raise ValueError(f"{missing[0]} is None; expected a number.")
        check_at_least(0, temperature=numbers.pop("temperature"))
        check_between(0, _MAX_SECONDS, **numbers)
        if self.windows not in WINDOW_PLANS:
            raise ValueError(f"windows is {self.windows!r}; expected 'growing' or 'paper'.")
        self.plan()
        if self.voice_tokens < 1:
            raise ValueError(f"voice_seconds is {self.voice_seconds}; expected at least 0.04.")
        check_at_least(1, windows_per_batch=to_int("windows_per_batch", self.windows_per_batch))
        guidance_scale = check_guidance_scale(self.guidance_scale)
        object.__setattr__(self, "guidance_scale", guidance_scale)
        if self.iterations is not None:
            check_iterations(self.iterations)
            object.__setattr__(self, "iterations", tuple(self.iterations))

    @property
    def window(self) -> int:
        """Length of a window in tokens."""
        return _tokens(self.window_seconds)

    @property
    def overlap(self) -> int:
        """Number of tokens that neighboring windows share."""
        return _tokens(self.overlap_seconds)

    @property
    def first_windows(self) -> tuple[int, ...]:
        """Lengths in tokens of the growing windows that are shorter than `window`."""
        return growing_windows(self.window, _tokens(self.first_window_seconds))

    @property
    def voice_tokens(self) -> int:
        """Length of the voice prompt in tokens."""
        return _tokens(self.voice_seconds)

    def plan(self, streaming: bool = True, num_tokens: int = 0, num_returned: int = 0):
        """Start or resume a plan of windows.

        Args:
            streaming: Whether the first windows may be short. Defaults to `True`.
            num_tokens: See `StreamingWindows`, as `num_returned`.
            num_returned: Number of windows that need not be returned again.
        """
        growing = streaming and self.windows == "growing"
        first_windows = self.first_windows if growing else ()
        return StreamingWindows(self.window, self.overlap, first_windows, num_tokens, num_returned)

    def get_config(self) -> dict:
        """Return the settings as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict) -> "SynthesisConfig":
        """Create the settings from `get_config`, or from those of an older preset.

        Args:
            config: Settings by name. Older presets have lengths in tokens (`window`, `overlap`,
                `first_window`, `voice_tokens`), and other names for four settings.

        Raises:
            ValueError: A name is unknown, or a value is out of range.
        """
        settings = {}
        for name, value in config.items():
            if name in _TOKEN_SETTINGS:
                check_between(0, _MAX_SECONDS * TOKEN_RATE, **{name: value})
                name = _TOKEN_SETTINGS[name]
                value = None if value is None else value / TOKEN_RATE
            if name == "first_window_seconds" and value is None:
                continue  # the default of older presets
            settings[_RENAMED_SETTINGS.get(name, name)] = value
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(settings) - set(known)):
            raise ValueError(
                f"Unknown synthesis setting {unknown[0]!r}; expected a subset of {known}."
            )
        return cls(**settings)


def read_synthesis_config(preset_config: dict) -> SynthesisConfig:
    """Read the synthesis settings of a pipeline preset's `config.json`, new or old."""
    old = (*_TOKEN_SETTINGS, *_RENAMED_SETTINGS)
    settings = {name: preset_config[name] for name in old if name in preset_config}
    return SynthesisConfig.from_config({**settings, **read_section(preset_config, "synthesis")})


class Synthesizer:
    """Synthesizes semantic tokens in the voice of a prompt.

    Args:
        soundstorm: A `SoundStorm`.
        soundstream: A `SoundStream`.
        config: A `SynthesisConfig`. Defaults to `None` (the default settings).
        s3_gen: An `S3Gen`, instead of both of these models.

    Raises:
        ValueError: The models are neither a `SoundStorm` and a `SoundStream`, nor an `S3Gen`.

    Example:

    ```python
    import keras_speechssm
    from keras_speechssm.audio import read_speech
    from keras_speechssm.synthesis import SynthesisConfig, Synthesizer

    speech = keras_speechssm.SpeechContinuation.from_preset("speech_ssm_demo_en")
    synthesizer = Synthesizer(speech.soundstorm, speech.soundstream, SynthesisConfig())
    recording = read_speech("examples/prompt.flac")
    tokens = speech.tokenize(recording)
    voice = synthesizer.encode_voice(recording, tokens)
    waveform = synthesizer(tokens, voice, seed=0)  # float32 (640 * len(tokens),)
    ```

    Reference: SpeechSSM (Park et al. 2024), sections 3 and 5, appendix B.1.
    """

    def __init__(
        self,
        soundstorm=None,
        soundstream=None,
        config: SynthesisConfig | None = None,
        s3_gen=None,
    ):
        pair = [model is not None for model in (soundstorm, soundstream)]
        if any(pair) if s3_gen is not None else not all(pair):
            raise ValueError("Expected a SoundStorm and a codec, or an S3Gen alone.")
        self.soundstorm = soundstorm
        self.soundstream = soundstream
        self.s3_gen = s3_gen
        self.config = config or SynthesisConfig()

    @property
    def sample_rate(self) -> int:
        """Samples of the result per second."""
        return SAMPLE_RATE if self.s3_gen is None else self.s3_gen.sample_rate

    @property
    def samples_per_token(self) -> int:
        """Samples of the result per semantic token."""
        return self.sample_rate // TOKEN_RATE

    @property
    def voice_class(self) -> type:
        """The class of a voice: `VoicePrompt`, or that of `S3Gen`."""
        return VoicePrompt if self.s3_gen is None else self.s3_gen.voice_class

    def encode_voice(self, waveform: np.ndarray, tokens: np.ndarray) -> VoicePrompt:
        """Create the voice prompt from the beginning of a recording.

        Args:
            waveform: float32 (samples,) at 16 kHz.
            tokens: int32 (time,), its semantic tokens.
        """
        length = min(self.config.voice_tokens, len(waveform) // SAMPLES_PER_TOKEN)
        if self.s3_gen is not None:
            return self.s3_gen.encode_voice(waveform, tokens[:length])
        # Prompts of all lengths share one compiled program: the codec is causal, so padding at the
        # end does not change what is before it.
        padded = np.zeros(self.config.voice_tokens * SAMPLES_PER_TOKEN, "float32")
        padded[: length * SAMPLES_PER_TOKEN] = waveform[: length * SAMPLES_PER_TOKEN]
        acoustic_tokens = np.asarray(self.soundstream.encode(padded))
        return VoicePrompt(tokens[:length], acoustic_tokens[: length * FRAMES_PER_TOKEN])

    def __call__(self, tokens: np.ndarray, voice: VoicePrompt, seed: int) -> np.ndarray:
        """Synthesize a whole sequence of tokens.

        Args:
            tokens: int32 (time,), at least one.
            voice: The voice to speak in.
            seed: Seed of SoundStorm's samples.

        Returns:
            float32 (640 * time,), or (960 * time,) with S3Gen.
        """
        state = SynthesisState()
        return np.concatenate(list(self._synthesize([tokens], voice, seed, state, False)))

    def stream(
        self,
        blocks: Iterable[np.ndarray],
        voice: VoicePrompt,
        seed: int,
        state: SynthesisState | None = None,
    ) -> Iterator[np.ndarray]:
        """Synthesize blocks of tokens as they arrive, in bounded memory.

        Args:
            blocks: int32 (time,) each, in order; may be endless.
            voice: The voice to speak in.
            seed: Seed of SoundStorm's samples. Each window draws from it and its own index.
            state: State of an earlier stream, to resume from its next window. The stream changes
                it as it proceeds. Defaults to `None`: from the beginning.

        Returns:
            Iterator of float32 (samples,), one for each window.
        """
        return self._synthesize(blocks, voice, seed, state or SynthesisState())

    def _synthesize(self, blocks, voice, seed, state, streaming=True):
        check_at_least(0, seed=to_int("seed", seed))
        windows = self.config.plan(streaming, state.num_tokens, state.num_windows)
        pending: list[Window] = []
        for block in itertools.chain([np.zeros(0, "int32")], blocks, [None]):
            if block is None:
                pending += windows.finish()
            else:
                state.tokens = np.concatenate([state.tokens, block])
                pending += windows.feed(len(block))
            # Synthesize the first window on its own to keep latency low.
            while pending:
                size = self.config.windows_per_batch if state.num_windows else 1
                if block is not None and len(pending) < size:
                    break
                batch, pending = pending[:size], pending[size:]
                following = [window.start for window in [*batch, *pending][1:]]
                following = [*following, windows.next_start][: len(batch)]
                waveforms = self._synthesize_batch(batch, windows, state, voice, seed)
                for waveform, start in zip(waveforms, following, strict=True):
                    state.finish_window(start)
                    yield waveform

    def _synthesize_batch(
        self,
        batch: list[Window],
        windows: StreamingWindows,
        state: SynthesisState,
        voice: VoicePrompt,
        seed: int,
    ) -> list[np.ndarray]:
        """Synthesize the next windows of a stream, and crop the results."""
        indices = range(state.num_windows, state.num_windows + len(batch))
        contents = [
            state.tokens[window.start - state.start :][: windows.length_of(index)]
            for index, window in zip(indices, batch, strict=True)
        ]
        longest = max(map(len, contents))
        # Few lengths have to be compiled: those of the growing windows.
        lengths = (*self.config.first_windows, self.config.window)
        length = next(length for length in lengths if length >= longest)
        semantic_tokens = np.zeros((len(batch), longest), "int32")
        padding_mask = np.zeros(semantic_tokens.shape, bool)
        for row, tokens in enumerate(contents):
            semantic_tokens[row, : len(tokens)], padding_mask[row, : len(tokens)] = tokens, True
        size = self.samples_per_token
        # A voice is usually `voice_tokens` long; a longer one, of a caller, is possible.
        pad_to = max(self.config.voice_tokens, len(voice.semantic_tokens)) + length
        if self.s3_gen is not None:
            starts = [window.start for window in batch]
            waveforms = self.s3_gen.generate(
                semantic_tokens,
                voice,
                seed=seed,
                padding_mask=padding_mask,
                starts=starts,
                seams=[(w.keep_start - w.start, w.keep_end - w.start) for w in batch],
                pad_to=pad_to,
            )
            return [
                crop_window(waveform, window, size)
                for waveform, window in zip(waveforms, batch, strict=True)
            ]
        acoustic_tokens = self.soundstorm.generate(
            semantic_tokens,
            prompt_semantic=voice.semantic_tokens,
            prompt_acoustic=voice.acoustic_tokens,
            temperature=self.config.temperature,
            guidance_scale=self.config.guidance_scale,
            iterations=self.config.iterations,
            seed=[
                int(np.random.SeedSequence([seed, index]).generate_state(1)[0]) for index in indices
            ],
            padding_mask=padding_mask,
            pad_to=pad_to,
        )
        padding = FRAMES_PER_TOKEN * (pad_to - len(voice.semantic_tokens) - longest)
        prompts = np.broadcast_to(voice.acoustic_tokens, (len(batch), *voice.acoustic_tokens.shape))
        frames = np.concatenate([prompts, acoustic_tokens], axis=1)
        frames = np.pad(frames, ((0, 0), (0, padding), (0, 0)))
        waveforms = np.asarray(self.soundstream.decode(frames), "float32")
        start = len(voice.semantic_tokens) * SAMPLES_PER_TOKEN
        contents = [
            waveform[start : start + len(tokens) * SAMPLES_PER_TOKEN]
            for waveform, tokens in zip(waveforms, contents, strict=True)
        ]
        return [
            crop_window(content, window, SAMPLES_PER_TOKEN)
            for content, window in zip(contents, batch, strict=True)
        ]


def _tokens(seconds: float) -> int:
    return round(seconds * TOKEN_RATE)
