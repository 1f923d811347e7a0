"""Training of the four models, with checkpoints and resuming."""

import importlib

_MODULES = {
    "TrainingConfig": "config",
    "SpeechLMTrainingConfig": "speech_lm",
    "train_speech_lm": "speech_lm",
    "SoundStormTrainingConfig": "soundstorm",
    "train_soundstorm": "soundstorm",
    "TokenizerTrainingConfig": "tokenizer",
    "train_tokenizer": "tokenizer",
    "CodecTrainingConfig": "codec",
    "train_codec": "codec",
    "finetune_pipeline": "finetune",
    "fit_resumable": "trainer",
    "learning_rate_schedule": "trainer",
}

__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
