"""
Title: Continue a recording of speech
Author: The keras_speechssm authors
Date created: 2026/11/21
Last modified: 2026/11/21
Description: Load a preset, continue a prompt, look at tokens and spectrograms, and listen.
"""

"""
## Introduction

SpeechSSM is a language model of speech: it hears a few seconds of somebody talking and
goes on in the same voice, without any text in between. Four models take turns:

1. `SemanticTokenizer` turns sound into *semantic tokens*, 25 a second: what is said.
2. `SpeechSSM` continues these tokens. It is a recurrent model, so its memory does not grow
   however long it speaks.
3. `SoundStorm` gives the tokens a voice: that of the prompt's first three seconds.
4. `SoundStream` turns the result, *acoustic tokens*, into a waveform.

The preset `speech_ssm_demo_en` comes with the package. It is small and was trained on
little data: it shows how everything works, and speaks something like English.
"""

"""
## Setup

`pip install . matplotlib` in a checkout. Keras reads the backend's name when it is first
imported; JAX, TensorFlow and torch all work.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from keras_speechssm import SpeechContinuation
from keras_speechssm.audio import read_audio, write_audio
from keras_speechssm.shapes import SAMPLE_RATE, TOKEN_RATE

PRESET = os.environ.get("SPEECHSSM_PRESET", "speech_ssm_demo_en")
SECONDS = float(os.environ.get("SPEECHSSM_SECONDS", "20"))
OUTPUT = Path(os.environ.get("SPEECHSSM_OUTPUT", "."))

"""
## Load the models and a prompt

Any recording of speech works: WAV, FLAC, OGG or MP3, at any rate. It becomes a waveform of
numbers between -1 and 1, 16,000 a second.
"""

speech = SpeechContinuation.from_preset(PRESET)

folder = Path(__file__).parent if "__file__" in globals() else Path(".")
prompt = read_audio(folder / "prompt.flac")
print(f"The prompt lasts {len(prompt) / SAMPLE_RATE:.1f} s.")

"""
## What the language model sees

The prompt as semantic tokens. Neighbouring tokens are often equal: a sound lasts longer
than a twenty-fifth of a second.
"""

tokens = speech.tokenize(prompt)
print(f"{len(tokens)} tokens, the first second of them:")
print(tokens[:TOKEN_RATE])

"""
## Continue it

The same seed gives the same speech. `temperature` below 1 makes the model choose likelier
tokens, and above 1 more daring ones.
"""

continuation = speech.continue_speech(prompt, seconds=SECONDS, seed=0, temperature=1.0)
print(f"{len(continuation) / SAMPLE_RATE:.1f} s of new speech.")

"""
## Look at it

Spectrograms: time to the right, pitch upwards, loudness as colour. The continuation
should have the same kind of stripes (the voice's harmonics) as the prompt, and pauses
between its phrases.
"""


def log_spectrogram(waveform, window=512, hop=160):
    frames = np.lib.stride_tricks.sliding_window_view(waveform, window)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window), axis=-1)) ** 2
    return 10 * np.log10(power.T + 1e-6)


figure, axes = plt.subplots(2, 1, figsize=(10, 5))
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
## Listen

In a notebook, `IPython.display.Audio` plays a waveform; a file is good anywhere.
"""

write_audio(OUTPUT / "continuation.wav", np.concatenate([prompt, continuation]))

"""
## Without end

`stream` yields block after block, for as long as you take them; memory stays the same.
Here we take one.
"""

for block in speech.stream(prompt, seed=1):
    print(f"A block of {len(block) / SAMPLE_RATE:.0f} s.")
    break

"""
## There and back

`resynthesize` sends a recording through the tokens and back, in the speaker's own voice.
What you no longer hear, the tokens do not carry, and no continuation can have.
"""

restored = speech.resynthesize(prompt)
write_audio(OUTPUT / "resynthesis.wav", restored)
print(f"{len(restored) / SAMPLE_RATE:.1f} s, as long as the prompt.")
