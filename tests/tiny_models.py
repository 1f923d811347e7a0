"""Untrained models of the real classes at the smallest sizes, for tests of the whole way."""

import functools
import tempfile
from pathlib import Path

import keras
import keras_hub

from keras_speechssm.models import (
    GriffinBackbone,
    SemanticTokenizer,
    SoundStorm,
    SoundStream,
    SpeechSSM,
)
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.synthesis import SynthesisConfig

VOCABULARY = 12
LEVELS = 2


def tiny_models() -> list:
    """Semantic tokenizer, language model, SoundStorm and SoundStream that fit together."""
    keras.utils.set_random_seed(0)
    tokenizer = SemanticTokenizer(
        vocabulary_size=VOCABULARY,
        num_layers=1,
        num_decoder_layers=1,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=8,
        num_phonemes=5,
        num_mels=8,
    )
    backbone = GriffinBackbone(
        vocabulary_size=VOCABULARY,
        num_layers=3,
        hidden_dim=8,
        intermediate_dim=8,
        num_heads=2,
        attention_window=16,
        use_rotary=False,
    )
    soundstorm = SoundStorm(
        semantic_vocabulary_size=VOCABULARY,
        num_levels=LEVELS,
        codebook_size=16,
        num_layers=1,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=8,
    )
    codec = SoundStream(
        strides=(5, 4),
        channels=(4, 4, 4),
        stem_stride=16,
        stem_kernel_size=32,
        dilations=(1,),
        separable=True,
        latent_dim=4,
        num_quantizers=LEVELS,
        codebook_size=16,
    )
    return [tokenizer, SpeechSSM(backbone), soundstorm, codec]


def tiny_gemma(vocabulary_size: int = VOCABULARY) -> keras_hub.models.GemmaBackbone:
    return keras_hub.models.GemmaBackbone(
        vocabulary_size=vocabulary_size,
        num_layers=1,
        num_query_heads=1,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=16,
        head_dim=8,
    )


def save_tiny_pipeline(folder) -> str:
    """A pipeline preset of `tiny_models` with windows of two seconds."""
    synthesis = SynthesisConfig(window_seconds=2.0, overlap_seconds=0.4, voice_seconds=0.4)
    pipeline = SpeechContinuation(*tiny_models(), synthesis=synthesis)
    pipeline.save_to_preset(folder, metadata={"trained": False})
    return str(folder)


@functools.cache
def _shared() -> tuple[str, SpeechContinuation]:
    # Kept for the whole run: building and compiling is what takes the time.
    folder = tempfile.TemporaryDirectory()
    _shared.folder = folder
    preset = save_tiny_pipeline(Path(folder.name) / "tiny")
    return preset, SpeechContinuation.from_preset(preset)


def shared_tiny_preset() -> str:
    """Folder of one tiny pipeline for all tests that do not change it."""
    return _shared()[0]


def shared_tiny_pipeline() -> SpeechContinuation:
    """That pipeline, loaded (and compiled) once."""
    return _shared()[1]
