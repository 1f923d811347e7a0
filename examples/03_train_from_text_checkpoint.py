"""
Title: Train SpeechSSM from a text model
Author: The keras_speechssm authors
Date created: 2026/11/21
Last modified: 2026/11/21
Description: RecurrentGemma's weights become a SpeechSSM that learns from your tokens.
"""

"""
## Introduction

The paper does not begin from nothing: a SpeechSSM starts as RecurrentGemma, a language model of
text. Its embeddings of words are thrown away, fresh ones of semantic tokens take their place, the
rotary positions go, and everything else learns on from there.

What you need for the 2B model: a TPU v3-8 (Kaggle's) or v5e-8, over which the weights are split,
or a GPU of 80 GB; `pip install '.[prepare]'` in a checkout; RecurrentGemma's licence accepted on
Kaggle or Hugging Face; and hours of recordings, the more the better (the paper has 60,000). The
paper takes 100,000 steps of 768,000 tokens on 16 TPUs v5p; by the compiler's estimate such a step
takes 2.5 s. None of this could be run where this tutorial is tested; there it runs on a checkpoint
of exactly RecurrentGemma's form, but tiny.
"""

"""
## Setup
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import itertools
from pathlib import Path

import jax
import keras

from keras_speechssm.data.packing import PackedSequences
from keras_speechssm.data.sequence_store import SequenceStore
from keras_speechssm.data.sequences import prepare_sequences
from keras_speechssm.models import GriffinBackbone, SpeechSSM

folder = Path(__file__).parent if "__file__" in globals() else Path(".")
TEXT_PRESET = os.environ.get("SPEECHSSM_TEXT_PRESET", "hf://google/recurrentgemma-2b-it")
TOKENIZER = os.environ.get("SPEECHSSM_PRESET", "speech_ssm_demo_en")
RECORDINGS = Path(os.environ.get("SPEECHSSM_RECORDINGS", folder))
OUTPUT = Path(os.environ.get("SPEECHSSM_OUTPUT", "from_text"))
SEQUENCE_LENGTH = int(os.environ.get("SPEECHSSM_SEQUENCE_LENGTH", "6000"))  # 4 min
STEPS = int(os.environ.get("SPEECHSSM_STEPS", "1000"))

"""
## Recordings to tokens

Sequences of up to 4 min, in a store that training reads from. For more than a few hours use the
command, which takes many processes, or Apache Beam: `speechssm prepare sequences --help`.
"""

counts = prepare_sequences([RECORDINGS], OUTPUT / "store", preset=TOKENIZER, target_seconds=240.0)
store = SequenceStore(OUTPUT / "store")
rows = PackedSequences.from_store(store, SEQUENCE_LENGTH)
print(f"{counts['hours']:.2f} h, {counts['tokens']} tokens, {len(rows)} rows.")

"""
## Weights over all devices

With more than one device each layer's weights are split among all of them, and each takes its share
of the batch. The layout knows which weights of Griffin are which.
"""

devices = jax.devices()
if len(devices) > 1:
    mesh = keras.distribution.DeviceMesh((len(devices), 1), ("data", "model"), devices)
    layout_map = GriffinBackbone.get_layout_map(mesh)
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layout_map, batch_dim_name="data")
    )
BATCH = len(devices)

"""
## From text to speech

`mixed_bfloat16` computes in bfloat16 and keeps float32 weights for the optimizer. In the scope
each block keeps its inputs only and computes the rest again for the gradient.
"""

keras.utils.set_random_seed(0)
blocks = [f"griffin_block_{number}" for number in range(38)]
with keras.RematScope("list_of_layers", layer_names=blocks):
    model = SpeechSSM.from_text_preset(
        TEXT_PRESET, vocabulary_size=store.vocabulary_size, dtype="mixed_bfloat16"
    )
print(f"{model.count_params() / 1e6:.1f} M parameters")

"""
## Train

The paper's optimizer: AdamW at 5e-4 with a weight decay of 0.6, a warm-up of 1,000 steps, and a
cosine down to a twentieth. Gradients of 16 batches make one step, as the paper's batches are large.
"""

ACCUMULATED = 16
warmup = min(1000, STEPS // 10 + 1)
rate = keras.optimizers.schedules.CosineDecay(
    0.0,
    # Keras counts batches here, not steps.
    (STEPS - warmup) * ACCUMULATED,
    alpha=0.05,
    warmup_target=5e-4,
    warmup_steps=warmup * ACCUMULATED,
)
model.compile(
    optimizer=keras.optimizers.AdamW(
        rate, weight_decay=0.6, global_clipnorm=1.0, gradient_accumulation_steps=ACCUMULATED
    ),
    weighted_metrics=[],
)
make_batch = rows.batches(BATCH)
history = model.fit(
    (make_batch(number) for number in itertools.count()),
    steps_per_epoch=min(STEPS, 100) * ACCUMULATED,
    epochs=-(-STEPS // min(STEPS, 100)),  # the last one whole, too
    shuffle=False,
    verbose=2,
)

"""
## Keep it

For days of training use the command, which checkpoints and goes on after a kill (on one GPU
`--batch-size 1` in place of `--device-mesh 8 1`):

    speechssm train speech-lm --token-folders STORE --output-dir RUN --dtype mixed_bfloat16 \\
        --text-preset hf://google/recurrentgemma-2b-it --device-mesh 8 1 --rematerialize
"""

model.save_to_preset(str(OUTPUT / "speech_lm"))
tokens = store[0].tokens[:250]
print("Continued:", model.generate(tokens[None], num_tokens=25, seed=0)[0])
