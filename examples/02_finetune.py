"""
Title: Fine-tune SpeechSSM on your own recordings
Author: The keras_speechssm authors
Date created: 2026/11/21
Last modified: 2026/11/29
Description: Turn recordings into tokens, and train the language model on them with LoRA.
"""

"""
## Introduction

The language model of a preset was trained on other speakers and other topics than yours. Here it
learns from a folder of your recordings. No text is needed: it learns from *semantic tokens*,
which are computed from the sound alone.

LoRA adds two thin matrices to each large weight matrix and trains only those. This needs little
memory and few recordings, and the model keeps what it learned before.

You need `pip install '.[prepare]'` in a checkout of the repository, and an hour of speech or more
to hear a difference (a minute is enough to run the code). With the demo preset, a step of 8 rows of
30 s took 1.2 s on two CPU cores, and 40 steps on 16 min of LJ Speech lowered the held-out loss by
15 % in less than a minute. On a GPU, use more recordings and more steps. The demo preset is the
only one with weights; for a larger model start from RecurrentGemma, as tutorial 03 does.
"""

"""
## Setup

Keras reads the name of the backend when it is first imported; JAX, TensorFlow and PyTorch all
work.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import itertools
from pathlib import Path

import keras
import numpy as np

from keras_speechssm import SpeechContinuation
from keras_speechssm.audio.io import read_audio, write_audio
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.data.packing import PackedSequences
from keras_speechssm.data.prepare import prepare_sequences
from keras_speechssm.data.token_store import TokenStore

folder = Path(__file__).parent if "__file__" in globals() else Path(".")
PRESET = os.environ.get("SPEECHSSM_PRESET", "speech_ssm_demo_en")
# Your folder of recordings. The default is the prompt of the examples.
RECORDINGS = Path(os.environ.get("SPEECHSSM_RECORDINGS", folder / "prompt.flac"))
OUTPUT = Path(os.environ.get("SPEECHSSM_OUTPUT", "finetuned"))
STEPS = int(os.environ.get("SPEECHSSM_STEPS", "100"))
SECONDS = float(os.environ.get("SPEECHSSM_SECONDS", "20"))

"""
## Turn recordings into tokens

One recording in ten is held out, to see whether the model learns or only memorizes. (A single
recording leaves nothing to hold out: cut a long one into several files first.)

`prepare_sequences` cuts recordings at pauses into sequences of up to 30 s and tokenizes them. If
interrupted, it resumes when you call it again with the same recordings; for others, choose
another `OUTPUT`. `speechssm prepare sequences` does the same from the command line, for any number
of hours.
"""

recordings = [path for path in find_audio(RECORDINGS) if path.parent.resolve() != OUTPUT.resolve()]
held_out = recordings[::10]
trained_on = [path for path in recordings if path not in held_out] or held_out

for name, paths in (("train", trained_on), ("held_out", held_out)):
    counts = prepare_sequences(paths, OUTPUT / name, preset=PRESET, target_seconds=30.0)
    print(f"{name}: {counts['hours'] * 60:.1f} min, {counts['tokens']} tokens")
if trained_on == held_out:
    print("There is only one recording: the held-out loss is measured on the training data.")

"""
## Pack the sequences into rows

`PackedSequences` packs sequences of different lengths into rows of 750 tokens (30 s). Each row
marks where a sequence begins, and the model resets its state there. A row consists of inputs,
targets (the next tokens), and weights (0 where there is no next token, and 1 on average).
"""

rows = PackedSequences.from_store(TokenStore(OUTPUT / "train"), sequence_length=750)
held_out_rows = PackedSequences.from_store(TokenStore(OUTPUT / "held_out"), sequence_length=750)
print(f"{len(rows)} rows to train on, {len(held_out_rows)} held out.")

BATCH = min(8, len(rows))
make_batch = rows.batches(BATCH)
validation = held_out_rows.batch(range(len(held_out_rows)))

"""
## Listen before training

We continue a prompt from the held-out recordings, and measure the held-out loss, in nats per token
(lower is better).
"""

speech = SpeechContinuation.from_preset(PRESET)
prompt = read_audio(held_out[0], duration=10.0)
before = speech.continue_speech(prompt, seconds=SECONDS, seed=0)
write_audio(OUTPUT / "before.wav", np.concatenate([prompt, before]))

model = speech.speech_lm
model.compile(
    optimizer=keras.optimizers.AdamW(2e-3, weight_decay=0.01, global_clipnorm=1.0),
    weighted_metrics=[],
)


def held_out_loss() -> float:
    inputs, targets, weights = validation
    return model.evaluate(inputs, targets, sample_weight=weights, batch_size=1, verbose=0)


loss_before = held_out_loss()
print(f"Held-out loss before: {loss_before:.3f}")

"""
## Train

`enable_lora` freezes the backbone and adds the thin matrices. `compile` and `fit` come from Keras.
"""

model.backbone.enable_lora(rank=8)
model.compile(
    optimizer=keras.optimizers.AdamW(2e-3, weight_decay=0.01, global_clipnorm=1.0),
    weighted_metrics=[],
)
steps_per_epoch = min(20, STEPS)
history = model.fit(
    (make_batch(step) for step in itertools.count()),
    steps_per_epoch=steps_per_epoch,
    epochs=-(-STEPS // steps_per_epoch),  # the last epoch is complete, too
    shuffle=False,
    verbose=2,
)
loss_after = held_out_loss()
print(f"Held-out loss before: {loss_before:.3f}, after: {loss_after:.3f}")

"""
If the held-out loss rises while the loss of `fit` falls, the model memorizes the recordings: use
more recordings, fewer steps, or a smaller rank.

## Listen after training

We use the same prompt and the same seed.
"""

after = speech.continue_speech(prompt, seconds=SECONDS, seed=0)
write_audio(OUTPUT / "after.wav", np.concatenate([prompt, after]))

"""
## Save the model

Saving merges the thin matrices into the weights. `SpeechSSM.from_preset` loads the model from the
folder, and the command uses it with the other parts of the demo:

    speechssm continue prompt.flac --speech-lm finetuned/speech_lm -o continuation.wav

The language model decides what is said; the voice is still the prompt's, which SoundStorm copies.
The guide "Fine-tune on your recordings" shows how to train SoundStorm too, and how to train longer
with `speechssm train speech-lm`, which writes checkpoints.
"""

model.save_to_preset(str(OUTPUT / "speech_lm"))
