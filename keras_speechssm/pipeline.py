"""`SpeechContinuation`: all models in a row, from a recording to its continuation."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_speechssm.audio.io import read_speech
from keras_speechssm.config import draw_seed
from keras_speechssm.models.preset_mixin import load_part
from keras_speechssm.presets import (
    DEFAULT_PRESET,
    PARTS,
    fetch_pipeline,
    presets_of,
    read_json_file,
    save_parts,
)
from keras_speechssm.shapes import SAMPLE_RATE, SAMPLES_PER_TOKEN, TOKEN_RATE
from keras_speechssm.synthesis import SynthesisConfig, Synthesizer, read_synthesis_config

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


class SpeechContinuation:
    """Continues a recording of speech in the same voice, for any length.

    The prompt becomes semantic tokens; the language model continues them; SoundStorm gives each
    window of tokens the voice of the prompt's first seconds; SoundStream decodes the result to a
    waveform. After the prompt, memory does not grow with the length of the continuation.

    Args:
        semantic_tokenizer: A `SemanticTokenizer`.
        speech_lm: A `SpeechSSM`, or another model with its `stream`.
        soundstorm: A `SoundStorm`.
        soundstream: A `SoundStream`.
        synthesis: A `SynthesisConfig`, or a dict of its settings. Defaults to `None` (the
            default settings).
        sampling: A `Sampling`, or a dict of its fields: the defaults of the language model's
            `temperature`, `top_k`, and `top_p`. Defaults to `None` (temperature 1).

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
        soundstorm,
        soundstream,
        synthesis: SynthesisConfig | dict | None = None,
        sampling: Sampling | dict | None = None,
    ):
        if not isinstance(synthesis, SynthesisConfig):
            synthesis = SynthesisConfig.from_config(synthesis or {})
        self.semantic_tokenizer = semantic_tokenizer
        self.speech_lm = speech_lm
        self.synthesizer = Synthesizer(soundstorm, soundstream, synthesis)
        self.sampling = _read_sampling(sampling)
        self.metadata: dict | None = None

    @property
    def soundstorm(self):
        """The `SoundStorm`."""
        return self.synthesizer.soundstorm

    @property
    def soundstream(self):
        """The `SoundStream`."""
        return self.synthesizer.soundstream

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
        dtype=None,
        load_weights: bool = True,
        synthesis: dict | None = None,
        sampling: dict | None = None,
    ) -> "SpeechContinuation":
        """Load the four models and the settings of a pipeline preset.

        Args:
            preset: Name, folder, or `hf://` or `kaggle://` handle of a pipeline preset.
            semantic_tokenizer: Preset of a model to use instead of the pipeline's, such as the
                folder `preset/` of a training run. Defaults to `None`.
            speech_lm: As `semantic_tokenizer`.
            soundstorm: As `semantic_tokenizer`.
            soundstream: As `semantic_tokenizer`.
            dtype: Dtype policy of all four models. Defaults to `None` (Keras' default).
            load_weights: Whether to load the weights; `False` gives random ones.
                Defaults to `True`.
            synthesis: Settings of `SynthesisConfig` that override those of the preset.
            sampling: Fields of `Sampling` that override those of the preset.

        Raises:
            ValueError: A preset is unknown or damaged, or the models do not fit together.
        """
        given = dict(
            zip(PARTS, (semantic_tokenizer, speech_lm, soundstorm, soundstream), strict=True)
        )
        others = {part: os.fspath(name) for part, name in given.items() if name}
        options = {"load_weights": load_weights, **({} if dtype is None else {"dtype": dtype})}
        # The other presets first: a wrong name then fails without loading the pipeline.
        models = {part: load_part(name, part, **options) for part, name in others.items()}
        folder, config = fetch_pipeline(preset)
        for part in PARTS:
            models[part] = models.get(part) or load_part(folder, part, **options)
        _check_models_fit(**models)
        settings = {**read_synthesis_config(config).get_config(), **(synthesis or {})}
        speech = cls(
            **models,
            synthesis=settings,
            sampling={**config.get("sampling", {}), **(sampling or {})},
        )
        if (Path(folder) / "metadata.json").is_file():
            speech.metadata = read_json_file(Path(folder), "metadata.json")
            speech.metadata |= {"parts_of_other_presets": others} if others else {}
        return speech

    def save_to_preset(self, preset_dir: str | os.PathLike, metadata: dict | None = None) -> None:
        """Save the four models (weights as float16) and the settings as a pipeline preset.

        Args:
            preset_dir: Folder of the preset, written atomically. Other files in an existing
                folder, such as a model card, are kept.
            metadata: JSON values for `metadata.json`, such as the training data and its licenses.
                Defaults to those of the loaded preset, if any.
        """
        models = {part: getattr(self, part) for part in PARTS}
        config = {
            "pipeline": "SpeechContinuation",
            "synthesis": self.synthesis.get_config(),
            "sampling": self.sampling._asdict(),
        }
        save_parts(preset_dir, models, config, self.metadata if metadata is None else metadata)

    def __repr__(self) -> str:
        lines = [
            f"  {part}={type(model).__name__}({_num_parameters(model)}),"
            for part, model in ((part, getattr(self, part)) for part in PARTS)
        ]
        return "\n".join(["SpeechContinuation(", *lines, ")"])

    def summary(self, **kwargs) -> None:
        """Print the Keras summaries of the four models and the settings.

        Args:
            **kwargs: Arguments of `keras.Model.summary`, such as `line_length` and `print_fn`.
        """
        for part in PARTS:
            getattr(self, part).summary(**kwargs)
        (kwargs.get("print_fn") or print)(f"{self!r}\n{self.synthesis}\n{self.sampling}")

    # === Continue a recording ===

    def continue_speech(
        self, prompt, seconds: float, seed: int | None = None, **options
    ) -> np.ndarray | list[np.ndarray]:
        """Continue a recording, or several. The prompt is not part of the result.

        `generate` is the same method under KerasHub's name.

        Args:
            prompt: Path of an audio file, or waveform (samples,) or (samples, channels). Or a
                list of them: each is continued as it would be alone, with the same seed.
            seconds: Length of the new speech.
            seed: Non-negative int. The same seed gives the same audio, and a longer continuation
                starts with the shorter one. Defaults to `None`: drawn from the generator that
                `keras.utils.set_random_seed` seeds.
            **options: `temperature`, `top_k`, `top_p`, and `sample_rate`; see `stream`.

        Returns:
            float32 (round(seconds * 16000),), in [-1, 1]; for a list of prompts, a list of these.

        Raises:
            ValueError: `seconds` is not positive or exceeds what the language model can continue,
                or the prompt is too short, silent, or not audio.
        """
        if seconds is None:
            raise ValueError("seconds is None; pass a length, or use `stream` for endless speech.")
        if _is_batch(prompt):
            return [self.continue_speech(one, seconds, seed, **options) for one in prompt]
        return np.concatenate(list(self.stream(prompt, seed=seed, seconds=seconds, **options)))

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
    ) -> Iterator[np.ndarray]:
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

        Returns:
            Iterator of float32 (samples,): by default blocks of 8 s, then 23 s each.
        """
        num_samples = _num_samples(seconds)
        prompt = read_speech(prompt, sample_rate=sample_rate)
        # Drop a fraction of a token at the beginning, so the continuation starts where the
        # prompt ends.
        prompt = prompt[len(prompt) % SAMPLES_PER_TOKEN :]
        seed = draw_seed() if seed is None else seed
        tokens = np.asarray(self.semantic_tokenizer.tokenize(prompt), "int32")
        blocks = self.speech_lm.stream(
            tokens[None],
            block_size=self.synthesis.first_window + 1,  # One more token completes the window.
            seed=seed,
            **self._sampling_options(temperature, top_k, top_p),
            **self._length_limit(num_samples, len(tokens)),
        )
        new_tokens = (np.asarray(block)[0] for block in blocks)
        voice = self.synthesizer.encode_voice(prompt, tokens)
        return _truncate(self.synthesizer.stream(new_tokens, voice, seed), num_samples)

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
            float32 (samples,) at 16 kHz, as long as the recording.
        """
        waveform = read_speech(audio, sample_rate=sample_rate)
        tokens = np.asarray(self.semantic_tokenizer.tokenize(waveform), "int32")
        voice = self.synthesizer.encode_voice(waveform, tokens)
        return self.synthesizer(tokens, voice, seed)[: len(waveform)]

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

    def _length_limit(self, num_samples: int | None, num_prompt_tokens: int) -> dict:
        """Limit `num_tokens` for a model with a `max_length`, so that windows can look ahead."""
        max_length = getattr(self.speech_lm, "max_length", None)
        if max_length is None or num_samples is None:
            return {}
        max_new_tokens = max_length - num_prompt_tokens
        if num_samples > max_new_tokens * SAMPLES_PER_TOKEN:
            raise ValueError(
                f"seconds={num_samples / SAMPLE_RATE:g} exceeds the "
                f"{max_new_tokens / TOKEN_RATE:g} s that fit in this model's `max_length`."
            )
        return {"num_tokens": max_new_tokens}


def _read_sampling(sampling: Sampling | dict | None) -> Sampling:
    if isinstance(sampling, Sampling):
        return sampling
    if unknown := sorted(set(sampling or {}) - set(Sampling._fields)):
        raise ValueError(
            f"Unknown sampling setting {unknown[0]!r}; expected a subset of "
            f"{list(Sampling._fields)}."
        )
    return Sampling(**(sampling or {}))


def _check_models_fit(semantic_tokenizer, speech_lm, soundstorm, soundstream) -> None:
    vocabulary_size = semantic_tokenizer.vocabulary_size
    for name, found in (
        ("speech_lm", speech_lm.backbone.vocabulary_size),
        ("soundstorm", soundstorm.semantic_vocabulary_size),
    ):
        if found != vocabulary_size:
            raise ValueError(
                f"`{name}` expects a vocabulary of {found} semantic tokens, but "
                f"`semantic_tokenizer` has {vocabulary_size}. Use models trained with the same "
                "tokenizer."
            )
    expected = (soundstorm.num_levels, soundstorm.codebook_size)
    found = (soundstream.num_quantizers, soundstream.codebook_size)
    if found != expected:
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


def _num_samples(seconds: float | None) -> int | None:
    if seconds is None:
        return None
    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds must be a positive number, got {seconds}.")
    return max(1, round(seconds * SAMPLE_RATE))


def _truncate(blocks: Iterator[np.ndarray], num_samples: int | None) -> Iterator[np.ndarray]:
    for block in blocks:
        if num_samples is None:
            yield block
            continue
        yield block[:num_samples]
        num_samples -= len(block)
        if num_samples <= 0:
            return
