"""SpeechSSM in Keras 3: a language model of speech that continues a recording for minutes or hours.

The path of the data, and the module of each step:

    audio file -> waveform             keras_speechssm.audio
    waveform -> semantic tokens        keras_speechssm.models.SemanticTokenizer
    tokens -> more tokens              keras_speechssm.models.SpeechSSM
    tokens -> acoustic tokens          keras_speechssm.models.SoundStorm
    acoustic tokens -> waveform        keras_speechssm.models.SoundStream
    long inputs in overlapping windows keras_speechssm.windows
    tokens -> waveform                 keras_speechssm.synthesis
    all of the above                   keras_speechssm.pipeline.SpeechContinuation

Around them are `layers`, `data`, `training`, `evaluation`, `benchmarks`, and `cli` (the command
`speechssm`). `shapes` has the sample and frame rates, and `presets` has the preset names.

Submodules are imported on first use. Importing `keras_speechssm.models` registers the model
classes with Keras, after which `keras_hub.models.Backbone.from_preset` finds them too. The
backend is JAX unless `KERAS_BACKEND` is set.

Example:

```python
from keras_speechssm import SpeechContinuation

speech = SpeechContinuation.from_preset("speech_ssm_demo_en")
waveform = speech.continue_speech("examples/prompt.flac", seconds=2, seed=0)
```
"""

import importlib
import os

# Keras reads this variable once, when it is first imported.
os.environ.setdefault("KERAS_BACKEND", "jax")

__version__ = "0.1.0"

_SUBMODULES = ("config", "layers", "models", "data", "training", "evaluation", "windows", "audio")

__all__ = ["SpeechContinuation", "__version__", "upload_preset", *_SUBMODULES]


def __getattr__(name: str):
    if name == "SpeechContinuation":
        from keras_speechssm.pipeline import SpeechContinuation

        return SpeechContinuation
    if name == "upload_preset":
        from keras_speechssm.presets import upload_preset

        return upload_preset
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    hint = "; models are in keras_speechssm.models" if name[:1].isupper() else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
