"""
Title: The first lines of a KerasHub user
Author: The keras_speechssm authors
Date created: 2026/11/29
Last modified: 2026/11/29
Description: Presets, generate, score, fit, files, LoRA and quantize: what you know from KerasHub.
Needs: two CPU cores and 3 GB of memory.
Time: about 3 minutes on two CPU cores, without the installation
"""

"""
## Introduction

`SpeechSSM` is a KerasHub `CausalLM` whose tokens are pieces of sound, 25 per second, instead of
pieces of text. These are the first lines that a KerasHub user types. The guide "For KerasHub
users" explains each of them, and lists the differences.
"""

"""
## Install

The first cell installs the package if it is missing: from the newest wheel in an attached Kaggle
dataset or in the current folder if there is one, else from PyPI. On Kaggle, switch the internet on
in the notebook's settings. Keras reads the name of the backend when it is first imported; JAX,
TensorFlow and PyTorch all work.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("keras_speechssm") is None:
    from packaging.version import Version

    folders = (Path("/kaggle/input"), Path.cwd())
    wheels = [path for folder in folders for path in folder.rglob("keras_speechssm-*.whl")]
    wheels.sort(key=lambda path: Version(path.name.split("-")[1]))
    package = f"{wheels[-1] if wheels else 'keras-speechssm'}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

"""
## Settings
"""

import keras
import keras_hub
from IPython.display import Audio

from keras_speechssm import SpeechContinuation
from keras_speechssm.audio import read_audio, write_audio
from keras_speechssm.data import example_prompt
from keras_speechssm.models import SpeechSSM

PRESET = "speech_ssm_demo_en"
OUTPUT = Path("first_lines")

"""
## Load a preset
"""

OUTPUT.mkdir(exist_ok=True)
print(list(SpeechSSM.presets))
keras.utils.set_random_seed(0)
model = SpeechSSM.from_preset(PRESET)
model.summary()

"""
## Generate

Prompts are recordings, or tokens. `generate` returns the new tokens, without the prompt.
"""

prompt = str(example_prompt())
tokens = model.preprocessor.tokenizer.tokenize(read_audio(prompt))
model.compile(sampler=keras_hub.samplers.TopPSampler(p=0.9))
print(model.generate(prompt, max_length=len(tokens) + 10))
print(model.generate([tokens[:100], tokens[:60]], num_tokens=10, seed=0))

"""
## Score

The log-likelihood of the tokens in nats, or the loss of each token.
"""

print(model.score(tokens))
print(model.score(tokens[:-1], scoring_mode="loss", target_ids=tokens[1:]).mean())

"""
## Fit

`fit` takes lists of tokens of any lengths, or of recordings.
"""

sequences = [tokens[start : start + 48] for start in range(0, 240, 48)]
model.compile(optimizer=keras.optimizers.Adam(1e-3), sampler="top_p")
history = model.fit(
    sequences,
    batch_size=2,
    epochs=2,
    validation_split=0.2,
    callbacks=[keras.callbacks.EarlyStopping(patience=2)],
    verbose=2,
)

"""
## Save and load
"""

model.save(OUTPUT / "mine.keras")
model = keras.saving.load_model(OUTPUT / "mine.keras")

"""
## LoRA
"""

model.backbone.enable_lora(rank=4)
model.compile(optimizer=keras.optimizers.Adam(1e-3), sampler="top_p")
model.fit(sequences, batch_size=2, verbose=2)
model.save_to_preset(OUTPUT / "mine")
model = keras_hub.models.CausalLM.from_preset(str(OUTPUT / "mine"))

"""
## Quantize
"""

model.quantize("int8")
print(model.generate(tokens, num_tokens=10, seed=0))

"""
## From sound to sound
"""

speech = SpeechContinuation.from_preset(PRESET, speech_lm=OUTPUT / "mine")
print(speech)
waveform = speech.generate(prompt, seconds=2, seed=0)
write_audio(OUTPUT / "speech.ogg", waveform)
Audio(OUTPUT / "speech.ogg")
