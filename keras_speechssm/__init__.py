"""SpeechSSM in Keras 3: a spoken language model that continues speech for minutes.

The way of the data, and where each step lives:

    audio file -> waveform             keras_speechssm.audio
    waveform -> semantic tokens        keras_speechssm.semantic      SemanticTokenizer
    tokens -> more tokens              keras_speechssm.speech_lm     SpeechSSM on GriffinBackbone
    tokens -> acoustic tokens          keras_speechssm.soundstorm    SoundStorm
    acoustic tokens -> waveform        keras_speechssm.soundstream   SoundStream
    long inputs as overlapping pieces  keras_speechssm.windows
    all of the above                   keras_speechssm.pipeline      SpeechContinuation

Around them: `layers` (what the models are built of), `models` (every model class),
`data`, `training` (one file a trained model), `evaluation` (one file a metric),
`preset_registry` (names of presets -> folders) and `cli` (the command `speechssm`).
`shapes` holds the legend of dimension letters and the sample and frame rates.

Start here:

```python
from keras_speechssm import SpeechContinuation

speech = SpeechContinuation.from_preset("speech_ssm_demo_en")
waveform = speech.continue_speech("examples/prompt.flac", seconds=60, seed=0)
```

Importing the package registers every model class with Keras, so that KerasHub's own
`from_preset` finds them too. The backend is JAX unless `KERAS_BACKEND` says otherwise.
"""

import os

# Before anything imports keras: Keras reads the variable once.
os.environ.setdefault("KERAS_BACKEND", "jax")

from keras_speechssm import models  # noqa: E402
from keras_speechssm.pipeline import SpeechContinuation  # noqa: E402

__version__ = "0.1.0"

__all__ = ["SpeechContinuation", "models", "__version__"]
