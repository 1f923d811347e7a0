"""
Title: Continue a recording of speech
Author: The keras_speechssm authors
Date created: 2026/11/21
Last modified: 2026/11/29
Description: Load a preset, continue a prompt, look at tokens and spectrograms, and listen.
Needs: two CPU cores and 3 GB of memory; a GPU is faster. Any recording of speech, or the bundled
    prompt.
Time: about 2 minutes on two CPU cores, without the installation
"""

"""
## Introduction

SpeechSSM is a language model of speech: it listens to a few seconds of speech and continues
in the same voice, without any text in between. Four models take part:

1. `SemanticTokenizer` turns audio into *semantic tokens*, 25 per second: what is said.
2. `SpeechSSM` continues these tokens. It is a recurrent model, so its memory does not grow
   with the length of the speech.
3. `SoundStorm` gives the tokens a voice: that of the first three seconds of the prompt.
4. `SoundStream` turns the result, *acoustic tokens*, into a waveform.

The preset `speech_ssm_demo_en` is part of the package. It is small and was trained on little
data: it shows how everything works, and says words, seldom sentences.
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

`PROMPT` may be any recording of speech: WAV, FLAC, OGG or MP3, at any sample rate.
"""

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Audio

from keras_speechssm import SpeechContinuation
from keras_speechssm.audio.io import read_audio, write_audio
from keras_speechssm.data import example_prompt
from keras_speechssm.shapes import SAMPLE_RATE, TOKEN_RATE

PRESET = "speech_ssm_demo_en"
PROMPT = example_prompt()
SECONDS = 20
OUTPUT = Path("continued")

"""
## Load the models and a prompt

A recording becomes a waveform of numbers between -1 and 1, 16,000 per second.
"""

OUTPUT.mkdir(exist_ok=True)
speech = SpeechContinuation.from_preset(PRESET)
prompt = read_audio(PROMPT)
print(f"The prompt lasts {len(prompt) / SAMPLE_RATE:.1f} s.")

"""
## What the language model sees

The model sees the prompt as semantic tokens. Neighboring tokens are often equal, because
most sounds last longer than a twenty-fifth of a second.
"""

tokens = speech.tokenize(prompt)
print(f"{len(tokens)} tokens. The first second:")
print(tokens[:TOKEN_RATE])

"""
## Continue the prompt

The same seed gives the same speech. With a `temperature` below 1 the model prefers likely
tokens; above 1 it takes more risks.
"""

continuation = speech.continue_speech(prompt, seconds=SECONDS, seed=0, temperature=1.0)
print(f"{len(continuation) / SAMPLE_RATE:.1f} s of new speech.")

"""
## Listen

You hear the prompt, then the continuation.
"""

write_audio(OUTPUT / "continuation.ogg", np.concatenate([prompt, continuation]))
Audio(OUTPUT / "continuation.ogg")

"""
## Compare spectrograms

Time runs to the right, frequency upward, and color shows loudness. The continuation should
have the same kind of stripes (the harmonics of the voice) as the prompt, and pauses between
phrases.
"""


def log_spectrogram(waveform, window=512, hop=160):
    frames = np.lib.stride_tricks.sliding_window_view(waveform, window)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window), axis=-1)) ** 2
    return 10 * np.log10(power.T + 1e-6)


figure, axes = plt.subplots(2, 1, figsize=(7, 3.5))
shown = len(prompt)
for axis, waveform, title in (
    (axes[0], prompt, "prompt"),
    (axes[1], continuation[:shown], "continuation"),
):
    seconds = len(waveform) / SAMPLE_RATE
    axis.imshow(log_spectrogram(waveform), origin="lower", aspect="auto", extent=(0, seconds, 0, 8))
    axis.set(title=title, xlabel="seconds", ylabel="kHz")
figure.tight_layout()
figure.savefig(OUTPUT / "continuation.png")

"""
## Stream without end

`stream` yields one block after another for as long as you ask for more, in constant memory.
Here we take one block.
"""

for block in speech.stream(prompt, seed=1):
    print(f"A block of {len(block) / SAMPLE_RATE:.0f} s.")
    break

"""
## Resynthesize the prompt

`resynthesize` sends a recording through the tokens and back, in the voice of the speaker.
Whatever is missing in the result is not in the tokens, so no continuation can contain it.
"""

restored = speech.resynthesize(prompt)
print(f"{len(restored) / SAMPLE_RATE:.1f} s, as long as the prompt.")
write_audio(OUTPUT / "resynthesis.ogg", restored)
Audio(OUTPUT / "resynthesis.ogg")
