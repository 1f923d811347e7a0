"""
Title: Fine-tune SpeechSSM on your own recordings
Author: The keras_speechssm authors
Date created: 2026/11/21
Last modified: 2026/11/29
Description: Turn recordings into tokens, and train the language model on them with LoRA and
    model.fit.
Needs: two CPU cores and 4 GB of memory, or a GPU. A folder of recordings without transcripts:
    minutes to try it, an hour or more to hear a difference.
Time: about 5 minutes on two CPU cores with 7 minutes of speech
"""

"""
## Introduction

The language model of a preset was trained on other speakers and other topics than yours. Here it
learns from your recordings. No text is needed: it learns from *semantic tokens*, which are computed
from the sound alone.

LoRA adds two thin matrices to each large weight matrix and trains only those. This needs little
memory and few recordings, and the model keeps what it learned before.

The command `speechssm finetune recordings/ -o mine` does the same, with checkpoints: if it is
interrupted, run it again.
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

`RECORDINGS` are the recordings of an attached Kaggle dataset, if there are any; else one speaker of
LibriSpeech, who is downloaded (338 MB); else, without a network, the bundled prompt. For a folder
of your own, write `find_audio("folder")`.
"""

import keras
import numpy as np
from IPython.display import Audio

from keras_speechssm import SpeechContinuation
from keras_speechssm.audio.io import read_audio, write_audio
from keras_speechssm.data import PackedSequences, example_recordings

PRESET = "speech_ssm_demo_en"
RECORDINGS = example_recordings()
EPOCHS = 25
BATCH_SIZE = 8
SECONDS = 15
OUTPUT = Path("finetuned")

"""
## Turn recordings into tokens

One recording in ten is held out, to see whether the model learns or only memorizes. A single
recording leaves nothing to hold out; the held-out loss is then that of the training data.
"""

OUTPUT.mkdir(exist_ok=True)
speech = SpeechContinuation.from_preset(PRESET)
tokens = [speech.tokenize(path) for path in RECORDINGS]
held_out = tokens[::10]
trained_on = [tokens[n] for n in range(len(tokens)) if n % 10] or held_out
print(f"{len(trained_on)} recordings to train on, {sum(map(len, trained_on)) / 25 / 60:.1f} min.")

"""
## Pack the sequences into rows

`PackedSequences` packs sequences of different lengths into rows of 750 tokens (30 s). Each row
marks where a sequence begins, and the model resets its state there.
"""

rows = PackedSequences.from_arrays(trained_on, sequence_length=750)
held_out_rows = PackedSequences.from_arrays(held_out, sequence_length=750)
validation = held_out_rows.dataset(BATCH_SIZE, shuffle=False)
print(f"{len(rows)} rows to train on, {len(held_out_rows)} held out.")

"""
## Listen before training
"""

prompt = read_audio(RECORDINGS[0], duration=10.0)
before = speech.continue_speech(prompt, seconds=SECONDS, seed=0)
write_audio(OUTPUT / "before.ogg", np.concatenate([prompt, before]))
Audio(OUTPUT / "before.ogg")

"""
## Train

`enable_lora` freezes the backbone and adds the thin matrices. `compile` and `fit` come from Keras.
The loss is in nats per token; lower is better.
"""

model = speech.speech_lm
model.backbone.enable_lora(rank=8)
model.compile(
    optimizer=keras.optimizers.AdamW(2e-3, weight_decay=0.01, global_clipnorm=1.0),
    weighted_metrics=[],
)
loss_before = model.evaluate(validation, verbose=0)
history = model.fit(
    rows.dataset(BATCH_SIZE),
    validation_data=validation,
    epochs=EPOCHS,
    callbacks=[keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True)],
    verbose=2,
)
loss_after = model.evaluate(validation, verbose=0)
print(f"Held-out loss before: {loss_before:.3f}, after: {loss_after:.3f}")

"""
If the held-out loss rises while the loss of `fit` falls, the model memorizes the recordings: use
more recordings, fewer epochs, or a smaller rank.

## Listen after training

We use the same prompt and the same seed.
"""

after = speech.continue_speech(prompt, seconds=SECONDS, seed=0)
write_audio(OUTPUT / "after.ogg", np.concatenate([prompt, after]))
Audio(OUTPUT / "after.ogg")

"""
## Save the pipeline

Saving merges the thin matrices into the weights. `SpeechContinuation.from_preset("finetuned/mine")`
loads all four models, and so does the command:

    speechssm continue recording.flac --preset finetuned/mine -o continuation.wav

The language model decides what is said; the voice is still the prompt's, which SoundStorm copies.
Tutorial 04 trains SoundStorm and the codec for your voices.
"""

speech.save_to_preset(OUTPUT / "mine")
