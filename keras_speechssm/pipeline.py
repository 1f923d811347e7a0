"""`SpeechContinuation`: all models in a row, from a recording to its continuation."""

import dataclasses
import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_speechssm.audio.io import read_speech
from keras_speechssm.checks import is_number, shown
from keras_speechssm.config import draw_seed
from keras_speechssm.files import atomic_write, open_arrays
from keras_speechssm.models.generation import (
    GenerationState,
    load_generation_state,
    save_generation_state,
)
from keras_speechssm.models.preset_mixin import check_rate, load_part
from keras_speechssm.presets import (
    DEFAULT_PRESET,
    PARTS,
    S3_GEN_PARTS,
    fetch_pipeline,
    pipeline_parts,
    presets_of,
    read_json_file,
    read_section,
    save_parts,
)
from keras_speechssm.shapes import SAMPLE_RATE, SAMPLES_PER_TOKEN, TOKEN_RATE
from keras_speechssm.synthesis import (
    SynthesisConfig,
    SynthesisState,
    Synthesizer,
    VoicePrompt,
    read_synthesis_config,
)

_VOICE_RECORDING_SECONDS = 30.0
"""Seconds of a voice recording to tokenize: one tokenizer window."""


class Sampling(NamedTuple):
    """Default sampling of the language model.

    Attributes:
        temperature: Temperature; 0 takes the most likely token. Defaults to `1.0`.
        top_k: Sample from the k most likely tokens. Defaults to `None` (all).
        top_p: Nucleus sampling: sample from the smallest set of tokens whose probabilities sum
            to at least `top_p`. Defaults to `None` (all).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None


@dataclasses.dataclass
class ContinuationState:
    """All that the rest of a continuation depends on, besides the models.

    Attributes:
        generation: A `GenerationState` of the language model after the tokens that have arrived.
            The prompt's tokens, int32 (time,), if the model has only `stream`.
        synthesis: State of the synthesis: tokens of the next windows.
        voice: Voice to speak in.
        config: Settings of the synthesis.
        sampling: `temperature`, `top_k` and `top_p` of the language model.
        seed: Seed of the continuation.
        num_prompt_tokens: Length of the prompt in tokens.
        num_samples: Number of samples that have been returned.
        num_skipped: How many of them belong to the next window, which is synthesized again.
    """

    generation: GenerationState | np.ndarray
    synthesis: SynthesisState
    voice: VoicePrompt
    config: SynthesisConfig
    sampling: dict
    seed: int
    num_prompt_tokens: int
    num_samples: int = 0
    num_skipped: int = 0


class SpeechStream(Iterator[np.ndarray]):
    """The blocks of a continuation, and its state after each of them.

    `SpeechContinuation.stream` returns it.

    Args:
        blocks: Iterator of float32 (samples,), which changes `state` as it proceeds.
        state: A `ContinuationState`.

    Example:

    ```python
    import keras_speechssm

    speech = keras_speechssm.SpeechContinuation.from_preset("speech_ssm_demo_en")
    stream = speech.stream("examples/prompt.flac", seed=0)
    block = next(stream)
    stream.save_state("state.npz")
    following = next(speech.resume("state.npz"))  # what next(stream) returns
    ```
    """

    def __init__(self, blocks: Iterator[np.ndarray], state: ContinuationState):
        self._blocks = blocks
        self.state = state

    def __next__(self) -> np.ndarray:
        return next(self._blocks)

    def close(self) -> None:
        """End the continuation."""
        self._blocks.close()

    def save_state(self, path: str | os.PathLike) -> None:
        """Save the state after the last block to one `.npz` file, atomically.

        Args:
            path: Path of the file, for `SpeechContinuation.resume`.

        Raises:
            ValueError: The language model has no state that can be saved, or continues several
                prompts.
        """
        state = self.state
        if not isinstance(state.generation, GenerationState):
            raise ValueError(
                "The state cannot be saved: this language model has no `start_generation`, or it "
                "continues several prompts as one batch."
            )
        settings = {
            "synthesis": state.config.get_config(),
            "sampling": state.sampling,
            "seed": state.seed,
            "num_prompt_tokens": state.num_prompt_tokens,
            "num_samples": state.num_samples,
            "num_skipped": state.num_skipped,
            "start": state.synthesis.start,
            "num_windows": state.synthesis.num_windows,
        }
        with tempfile.TemporaryDirectory() as folder:
            generation = Path(folder) / "generation.npz"
            save_generation_state(state.generation, generation)
            content = generation.read_bytes()
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file,
                settings=np.frombuffer(json.dumps(settings).encode(), "uint8"),
                generation=np.frombuffer(content, "uint8"),
                tokens=state.synthesis.tokens,
                **{f"voice_{name}": values for name, values in state.voice._asdict().items()},
            )


class SpeechContinuation:
    """Continues a recording of speech in the same voice, for any length.

    The prompt becomes semantic tokens; the language model continues them; SoundStorm gives each
    window of tokens the voice of the prompt's first seconds; SoundStream decodes the result to a
    waveform. An `S3Gen` can replace these two. After the prompt, memory does not grow with the
    length of the continuation.

    Args:
        semantic_tokenizer: A `SemanticTokenizer`.
        speech_lm: A `SpeechSSM`, or another model with its `stream`. A continuation can be saved
            and resumed if it has `start_generation` and `continue_generation`, too.
        soundstorm: A `SoundStorm`.
        soundstream: A `SoundStream`.
        synthesis: A `SynthesisConfig`, or a dict of its settings. Defaults to `None` (the
            default settings).
        sampling: A `Sampling`, or a dict of its fields: the defaults of the language model's
            `temperature`, `top_k`, and `top_p`. Defaults to `None` (temperature 1).
        s3_gen: An `S3Gen` instead of `soundstorm` and `soundstream`.

    Raises:
        ValueError: The models are neither a `SoundStorm` and a `SoundStream`, nor an `S3Gen`, or
            they do not fit together.

    Example:

    ```python
    import keras_speechssm

    speech = keras_speechssm.SpeechContinuation.from_preset("speech_ssm_demo_en")
    waveform = speech.continue_speech("examples/prompt.flac", seconds=10, seed=0)
    for block in speech.stream("examples/prompt.flac", seed=0):  # Never ends on its own.
        print(len(block))
        break
    ```

    Reference: SpeechSSM (Park et al. 2024), sections 3 and 5.
    """

    presets = presets_of("SpeechContinuation")

    def __init__(
        self,
        semantic_tokenizer,
        speech_lm,
        soundstorm=None,
        soundstream=None,
        synthesis: SynthesisConfig | dict | None = None,
        sampling: Sampling | dict | None = None,
        s3_gen=None,
    ):
        if not isinstance(synthesis, SynthesisConfig):
            synthesis = SynthesisConfig.from_config(synthesis or {})
        self.semantic_tokenizer = semantic_tokenizer
        self.speech_lm = speech_lm
        self.synthesizer = Synthesizer(soundstorm, soundstream, synthesis, s3_gen)
        self.sampling = _read_sampling(sampling)
        self.metadata: dict | None = None
        _check_models_fit(**self.parts)

    @property
    def soundstorm(self):
        """The `SoundStorm`, or `None` with an `S3Gen`."""
        return self.synthesizer.soundstorm

    @property
    def soundstream(self):
        """The `SoundStream`, or `None` with an `S3Gen`."""
        return self.synthesizer.soundstream

    @property
    def s3_gen(self):
        """The `S3Gen`, or `None`."""
        return self.synthesizer.s3_gen

    @property
    def sample_rate(self) -> int:
        """Samples of generated speech per second: 16,000, or 24,000 with an `S3Gen`."""
        return self.synthesizer.sample_rate

    @property
    def parts(self) -> dict:
        """The models by the names of their parts."""
        names = PARTS if self.s3_gen is None else S3_GEN_PARTS
        return {part: getattr(self, part) for part in names}

    @property
    def synthesis(self) -> SynthesisConfig:
        """The settings of the synthesis."""
        return self.synthesizer.config

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike = DEFAULT_PRESET,
        *,
        semantic_tokenizer: str | os.PathLike | None = None,
        speech_lm: str | os.PathLike | None = None,
        soundstorm: str | os.PathLike | None = None,
        soundstream: str | os.PathLike | None = None,
        s3_gen: str | os.PathLike | None = None,
        dtype=None,
        load_weights: bool = True,
        synthesis: dict | None = None,
        sampling: dict | None = None,
    ) -> "SpeechContinuation":
        """Load the models and the settings of a pipeline preset.

        Args:
            preset: Name, folder, or `hf://` or `kaggle://` handle of a pipeline preset.
            semantic_tokenizer: Preset of a model to use instead of the pipeline's, such as the
                folder `preset/` of a training run. Defaults to `None`.
            speech_lm: As `semantic_tokenizer`.
            soundstorm: As `semantic_tokenizer`.
            soundstream: As `semantic_tokenizer`.
            s3_gen: As `semantic_tokenizer`; it replaces `soundstorm` and `soundstream`.
            dtype: Dtype policy of all models. Defaults to `None` (Keras' default).
            load_weights: Whether to load the weights; `False` gives random ones.
                Defaults to `True`.
            synthesis: Settings of `SynthesisConfig` that override those of the preset.
            sampling: Fields of `Sampling` that override those of the preset.

        Raises:
            ValueError: A preset is unknown or damaged, or the models do not fit together.
        """
        if s3_gen and (soundstorm or soundstream):
            raise ValueError("s3_gen replaces soundstorm and soundstream; give it alone.")
        given = {
            "semantic_tokenizer": semantic_tokenizer,
            "speech_lm": speech_lm,
            "soundstorm": soundstorm,
            "soundstream": soundstream,
            "s3_gen": s3_gen,
        }
        others = {part: os.fspath(name) for part, name in given.items() if name}
        options = {"load_weights": load_weights, **({} if dtype is None else {"dtype": dtype})}
        # The other presets first: a wrong name then fails without loading the pipeline.
        models = {part: load_part(name, part, **options) for part, name in others.items()}
        folder, config = fetch_pipeline(preset)
        parts = pipeline_parts(config)
        if s3_gen or soundstorm or soundstream:
            parts = S3_GEN_PARTS if s3_gen else PARTS
        for part in parts:
            models[part] = models.get(part) or load_part(folder, part, **options)
        settings = {**read_synthesis_config(config).get_config(), **(synthesis or {})}
        speech = cls(
            **models,
            synthesis=settings,
            sampling={**read_section(config, "sampling"), **(sampling or {})},
        )
        if (Path(folder) / "metadata.json").is_file():
            speech.metadata = read_json_file(Path(folder), "metadata.json")
            speech.metadata |= {"parts_of_other_presets": others} if others else {}
        return speech

    def save_to_preset(self, preset_dir: str | os.PathLike, metadata: dict | None = None) -> None:
        """Save the models (weights as float16) and the settings as a pipeline preset.

        Args:
            preset_dir: Folder of the preset, written atomically. Other files in an existing
                folder, such as a model card, are kept.
            metadata: JSON values for `metadata.json`, such as the training data and its licenses.
                Defaults to those of the loaded preset, if any.
        """
        config = {
            "pipeline": "SpeechContinuation",
            "synthesis": self.synthesis.get_config(),
            "sampling": self.sampling._asdict(),
        }
        save_parts(preset_dir, self.parts, config, self.metadata if metadata is None else metadata)

    def __getattr__(self, name: str):
        message = f"{type(self).__name__} has no attribute {name!r}"
        if not name.startswith("_") and hasattr(self.__dict__.get("speech_lm"), name):
            message += f"; it is one of the language model: `speech_lm.{name}`"
        raise AttributeError(f"{message}.", name=name, obj=self)

    def __repr__(self) -> str:
        lines = [
            f"  {part}={type(model).__name__}({_num_parameters(model)}),"
            for part, model in self.parts.items()
        ]
        return "\n".join(["SpeechContinuation(", *lines, ")"])

    def summary(self, **kwargs) -> None:
        """Print the Keras summaries of the models and the settings.

        Args:
            **kwargs: Arguments of `keras.Model.summary`, such as `line_length` and `print_fn`.
        """
        for model in self.parts.values():
            model.summary(**kwargs)
        (kwargs.get("print_fn") or print)(f"{self!r}\n{self.synthesis}\n{self.sampling}")

    # === Continue a recording ===

    def continue_speech(
        self, prompt, seconds: float | None = None, seed: int | None = None, **options
    ) -> np.ndarray | list[np.ndarray]:
        """Continue a recording, or several. The prompt is not part of the result.

        `generate` is the same method under KerasHub's name.

        Args:
            prompt: Path of an audio file, or waveform (samples,) or (samples, channels). Or a
                list of them: each is continued as it would be alone with the same seed, up to
                rounding errors. The language model continues all of them as one batch.
            seconds: Length of the new speech; required.
            seed: Non-negative int. The same seed gives the same audio, and a longer continuation
                starts with the shorter one. Defaults to `None`: drawn from the generator that
                `keras.utils.set_random_seed` seeds.
            **options: `temperature`, `top_k`, `top_p`, `windows`, and `sample_rate`; see `stream`.

        Returns:
            float32 (round(seconds * sample_rate),), in [-1, 1], at the pipeline's `sample_rate`;
            for a list of prompts, a list of these.

        Raises:
            ValueError: `seconds` is not positive or exceeds what the language model can continue,
                or the prompt is too short, silent, or not audio.
        """
        if seconds is None:
            raise ValueError(
                "seconds is missing; pass the length of the new speech, such as seconds=60, or use "
                "`stream` for endless speech."
            )
        if not _is_batch(prompt):
            return np.concatenate(list(self.stream(prompt, seed=seed, seconds=seconds, **options)))
        seed = draw_seed() if seed is None else seed
        streams = self.stream_batch(prompt, [seed] * len(prompt), seconds=seconds, **options)
        return [np.concatenate(list(stream)) for stream in streams]

    generate = continue_speech

    def stream(
        self,
        prompt,
        seed: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seconds: float | None = None,
        sample_rate: float = SAMPLE_RATE,
        windows: str | None = None,
    ) -> SpeechStream:
        """Continue a recording block by block, in constant memory.

        Args:
            prompt: Path of an audio file, or waveform (samples,) or (samples, channels).
            seed: Non-negative int; see `continue_speech`. Defaults to `None`.
            temperature: Temperature of the language model. Defaults to `None` (the preset's).
            top_k: Sample from the k most likely tokens. Defaults to `None` (the preset's).
            top_p: Nucleus sampling; see `Sampling`. `1.0` samples from all tokens. Defaults to
                `None` (the preset's).
            seconds: Length of the new speech. Defaults to `None`: endless, or up to the
                `max_length` of a `SpeechTransformer`.
            sample_rate: Sample rate of a waveform in Hz. Defaults to `16000`.
            windows: Plan of the windows, `"growing"` or `"paper"`; see `SynthesisConfig`. With
                `"paper"` and `seconds`, the last window ends where the speech ends, so a longer
                continuation differs in it. Defaults to `None` (the preset's).

        Returns:
            Iterator of float32 (samples,), a `SpeechStream`: by default blocks of 3, 5, and 12 s,
            then 23 s each.
        """
        num_samples = self._num_samples(seconds)
        state = self._read_prompt(prompt, seed, temperature, top_k, top_p, sample_rate, windows)
        limit = self._token_limit(state, num_samples)
        if hasattr(self.speech_lm, "start_generation"):
            state.generation = self.speech_lm.start_generation(
                state.generation[None], seed=state.seed
            )
        tokens = (block[0] for block in self._token_blocks(state, limit))
        return self._stream_from(state, num_samples, tokens)

    def stream_batch(
        self, prompts, seeds: Sequence[int], seconds: float | None = None, **options
    ) -> list[SpeechStream]:
        """Continue several recordings block by block; the language model takes them as one batch.

        Each is continued as it would be alone, up to rounding errors. The streams can be read one
        after the other: tokens wait for those that are read later.

        Args:
            prompts: Paths of audio files, or waveforms (samples,) or (samples, channels).
            seeds: A seed for each prompt.
            seconds: Length of the new speech. Defaults to `None`: as in `stream`.
            **options: See `stream`.

        Returns:
            One `SpeechStream` per prompt. Their states cannot be saved.
        """
        num_samples = self._num_samples(seconds)
        if len(prompts) < 2 or not hasattr(self.speech_lm, "start_generation"):
            return [
                self.stream(prompt, seed=seed, seconds=seconds, **options)
                for prompt, seed in zip(prompts, seeds, strict=True)
            ]
        states = [
            self._read_prompt(prompt, seed, **options)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        limits = [self._token_limit(state, num_samples) for state in states]
        tokens = [state.generation for state in states]
        generation = self.speech_lm.start_generation(tokens, seed=list(seeds))
        batch = dataclasses.replace(states[0], generation=generation)
        blocks = self._token_blocks(batch, None if None in limits else min(limits))

        def stream(row, state, blocks):
            return self._stream_from(state, num_samples, (block[row] for block in blocks))

        copies = itertools.tee(blocks, len(states))
        return [stream(*one) for one in zip(range(len(states)), states, copies, strict=True)]

    def _read_prompt(
        self,
        prompt,
        seed: int | None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        sample_rate: float = SAMPLE_RATE,
        windows: str | None = None,
    ) -> ContinuationState:
        """Return the state after the prompt, before the language model has read it."""
        prompt = read_speech(prompt, sample_rate=sample_rate)
        # Drop a fraction of a token at the beginning, so the continuation starts where the
        # prompt ends.
        prompt = prompt[len(prompt) % SAMPLES_PER_TOKEN :]
        seed = draw_seed() if seed is None else seed
        tokens = np.asarray(self.semantic_tokenizer.tokenize(prompt), "int32")
        config = self.synthesis
        if windows is not None:
            config = dataclasses.replace(config, windows=windows)
        return ContinuationState(
            generation=tokens,
            synthesis=SynthesisState(),
            voice=self.synthesizer.encode_voice(prompt, tokens),
            config=config,
            sampling=self._sampling_options(temperature, top_k, top_p),
            seed=seed,
            num_prompt_tokens=len(tokens),
        )

    def resume(self, path: str | os.PathLike, seconds: float | None = None) -> SpeechStream:
        """Resume a continuation whose state `SpeechStream.save_state` wrote.

        With the same models, the audio is that of the uninterrupted continuation.

        Args:
            path: Path of the state.
            seconds: Length of the whole continuation, what was returned before the state was
                saved included. Defaults to `None`: as in `stream`.

        Returns:
            The rest of the continuation, as `stream` returns it.

        Raises:
            ValueError: The file is damaged, or was saved with other models.
        """
        num_samples = self._num_samples(seconds)
        state = _load_state(path, self.speech_lm, self.synthesizer.voice_class)
        blocks = self._token_blocks(state, self._token_limit(state, num_samples))
        return self._stream_from(state, num_samples, (block[0] for block in blocks))

    def _stream_from(
        self, state: ContinuationState, num_samples: int | None, tokens: Iterator[np.ndarray]
    ) -> SpeechStream:
        models = self.soundstorm, self.soundstream
        synthesizer = Synthesizer(*models, state.config, self.s3_gen)
        blocks = synthesizer.stream(tokens, state.voice, state.seed, state.synthesis)
        return SpeechStream(_count_samples(blocks, state, num_samples), state)

    def _token_blocks(self, state: ContinuationState, limit: int | None) -> Iterator[np.ndarray]:
        """Generate what each window needs, and no more: int32 (batch, time) each."""
        plan = state.config.plan(
            num_tokens=state.synthesis.num_tokens, num_returned=state.synthesis.num_windows
        )
        if not isinstance(state.generation, GenerationState):
            blocks = self.speech_lm.stream(
                state.generation[None],
                block_size=plan.num_missing,
                seed=state.seed,
                **({} if limit is None else {"num_tokens": limit}),
                **state.sampling,
            )
            yield from map(np.asarray, blocks)
            return
        plan.feed(0)
        while limit is None or plan.num_tokens < limit:
            size = plan.num_missing
            if limit is not None:
                size = min(size, limit - plan.num_tokens)
            block, state.generation = self.speech_lm.continue_generation(
                state.generation, size, **state.sampling
            )
            plan.feed(size)
            yield block

    # === Work with tokens ===

    def tokenize(self, audio, sample_rate: float = SAMPLE_RATE) -> np.ndarray:
        """Tokenize a recording.

        Args:
            audio: Path of an audio file, or waveform (samples,) or (samples, channels).
            sample_rate: Sample rate of a waveform in Hz. Defaults to `16000`.

        Returns:
            Semantic tokens, int32 (time,) at 25 Hz.
        """
        waveform = read_speech(audio, sample_rate=sample_rate)
        return np.asarray(self.semantic_tokenizer.tokenize(waveform), "int32")

    def resynthesize(self, audio, seed: int = 0, sample_rate: float = SAMPLE_RATE) -> np.ndarray:
        """Convert a recording to tokens and back to speech, in the speaker's own voice.

        Args:
            audio: Path of an audio file, or waveform (samples,) or (samples, channels).
            seed: Non-negative int. Defaults to `0`.
            sample_rate: Sample rate of a waveform in Hz. Defaults to `16000`.

        Returns:
            float32 (samples,) at `sample_rate` of the pipeline, as long as the recording.
        """
        waveform = read_speech(audio, sample_rate=sample_rate)
        tokens = np.asarray(self.semantic_tokenizer.tokenize(waveform), "int32")
        voice = self.synthesizer.encode_voice(waveform, tokens)
        length = round(len(waveform) * self.sample_rate / SAMPLE_RATE)
        return self.synthesizer(tokens, voice, seed)[:length]

    def speak_tokens(
        self, tokens, voice, seed: int = 0, sample_rate: float = SAMPLE_RATE
    ) -> np.ndarray:
        """Synthesize semantic tokens in the voice of a recording.

        Args:
            tokens: int (time,), tokens of this pipeline's tokenizer, at least one.
            voice: Path of an audio file, or waveform (samples,) or (samples, channels). Its first
                3 s (`voice_seconds`) give the voice.
            seed: Non-negative int. Defaults to `0`.
            sample_rate: Sample rate of a waveform in Hz. Defaults to `16000`.

        Returns:
            float32 (640 * time,) at 16 kHz, or (960 * time,) at 24 kHz with an `S3Gen`.
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
        waveform = read_speech(voice, _VOICE_RECORDING_SECONDS, sample_rate)
        voice_tokens = np.asarray(self.semantic_tokenizer.tokenize(waveform), "int32")
        prompt = self.synthesizer.encode_voice(waveform, voice_tokens)
        return self.synthesizer(tokens.astype("int32"), prompt, seed)

    def _sampling_options(self, temperature, top_k, top_p) -> dict:
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        options = self.sampling._asdict()
        options |= {name: value for name, value in given.items() if value is not None}
        if options["top_p"] == 1.0:
            options["top_p"] = None  # Exactly all tokens, whatever their sum rounds to.
        return options

    def _num_samples(self, seconds: float | None) -> int | None:
        if seconds is None:
            return None
        if not (is_number(seconds) and 0 < seconds < float("inf")):
            raise ValueError(f"seconds must be a positive number, got {shown(seconds)}.")
        return max(1, round(seconds * self.sample_rate))

    def _token_limit(self, state: ContinuationState, num_samples: int | None) -> int | None:
        """Return how many tokens to generate. Windows look ahead as far as the model can."""
        size = self.synthesizer.samples_per_token
        needed = None if num_samples is None else -(-num_samples // size)
        limit = needed if state.config.windows == "paper" else None
        max_length = getattr(self.speech_lm, "max_length", None)
        if max_length is None:
            return limit
        room = max_length - state.num_prompt_tokens
        if needed is not None and needed > room:
            raise ValueError(
                f"seconds={num_samples / self.sample_rate:g} exceeds the {room / TOKEN_RATE:g} s "
                "that fit in this model's `max_length`."
            )
        return room if limit is None else limit


def _load_state(path: str | os.PathLike, speech_lm, voice_class: type) -> ContinuationState:
    path = os.fspath(path)
    with open_arrays(path, "the state of a continuation") as arrays:
        settings = json.loads(arrays["settings"].tobytes())
        generation = arrays["generation"].tobytes()
        synthesis = SynthesisState(arrays["tokens"], settings["start"], settings["num_windows"])
        state = ContinuationState(
            generation=None,
            synthesis=synthesis,
            voice=voice_class(*(arrays[f"voice_{name}"] for name in voice_class._fields)),
            config=SynthesisConfig.from_config(settings["synthesis"]),
            sampling=_read_sampling(settings["sampling"])._asdict(),
            seed=settings["seed"],
            num_prompt_tokens=settings["num_prompt_tokens"],
            num_samples=settings["num_samples"],
            num_skipped=settings["num_skipped"],
        )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "generation.npz").write_bytes(generation)
        state.generation = load_generation_state(speech_lm, Path(folder) / "generation.npz")
    return state


def _read_sampling(sampling: Sampling | dict | None) -> Sampling:
    if isinstance(sampling, Sampling):
        return sampling
    if unknown := sorted(set(sampling or {}) - set(Sampling._fields)):
        raise ValueError(
            f"Unknown sampling setting {unknown[0]!r}; expected a subset of "
            f"{list(Sampling._fields)}."
        )
    return Sampling(**(sampling or {}))


def _check_models_fit(
    semantic_tokenizer, speech_lm, soundstorm=None, soundstream=None, s3_gen=None
) -> None:
    """Refuse models that do not fit together, as far as they have the attributes of ours."""
    check_rate(semantic_tokenizer, "semantic_tokenizer")
    check_rate(soundstream, "soundstream")
    size = getattr(semantic_tokenizer, "vocabulary_size", None)
    for name, model, attribute in (
        ("speech_lm", getattr(speech_lm, "backbone", None), "vocabulary_size"),
        ("soundstorm", soundstorm, "semantic_vocabulary_size"),
        ("s3_gen", s3_gen, "vocabulary_size"),
    ):
        if (found := getattr(model, attribute, size)) != size:
            raise ValueError(
                f"`{name}` expects a vocabulary of {found} semantic tokens, but "
                f"`semantic_tokenizer` has {size}. Use models trained with the same tokenizer."
            )
    found = [getattr(soundstream, name, None) for name in ("num_quantizers", "codebook_size")]
    expected = [getattr(soundstorm, name, None) for name in ("num_levels", "codebook_size")]
    if found != expected and None not in [*found, *expected]:
        raise ValueError(
            f"`soundstorm` expects {expected[0]} levels of {expected[1]} codes, but `soundstream` "
            f"has {found[0]} of {found[1]}. Use models trained with the same codec."
        )


def _is_batch(prompt) -> bool:
    """Whether a prompt is a list of paths or waveforms, and not the samples of one."""
    return isinstance(prompt, list | tuple) and all(
        isinstance(one, str | os.PathLike) or np.ndim(one) > 0 for one in prompt
    )


def _num_parameters(model) -> str:
    count = model.count_params() if hasattr(model, "count_params") else 0
    return f"{count:,} parameters"


def _count_samples(
    blocks: Iterator[np.ndarray], state: ContinuationState, num_samples: int | None
) -> Iterator[np.ndarray]:
    """Yield the rest of a continuation, up to `num_samples` in total."""
    while num_samples is None or state.num_samples < num_samples:
        before = dataclasses.replace(state.synthesis), state.generation
        block = next(blocks, None)
        if block is None:
            return
        skipped, state.num_skipped = state.num_skipped, 0
        block = block[skipped:]
        if num_samples is not None and state.num_samples + len(block) >= num_samples:
            # If the continuation is resumed and becomes longer, it needs this window again.
            block = block[: num_samples - state.num_samples]
            state.synthesis, state.generation = before
            state.num_skipped = skipped + len(block)
        state.num_samples += len(block)
        yield block
