"""
Title: Train SpeechSSM from a text model
Author: The keras_speechssm authors
Date created: 2026/11/21
Last modified: 2026/11/29
Description: Start a SpeechSSM from RecurrentGemma's weights and train it on your tokens.
"""

"""
## Introduction

The paper does not train from scratch: SpeechSSM starts from RecurrentGemma, a language model of
text. The text embeddings are replaced by new embeddings of semantic tokens, the rotary positions
are removed, and training continues from all other weights.

For the 2B model you need:

- a TPU v3-8 (Kaggle's) or v5e-8, over which the weights are split, or a GPU of 80 GB;
- `pip install '.[prepare]'` in a checkout of the repository;
- access to RecurrentGemma: accept its license on Kaggle or Hugging Face and log in;
- hours of recordings, the more the better (the paper uses 60,000).

The paper trains for 100,000 steps of 768,000 tokens on 16 TPUs v5p. By the compiler's estimate such
a step takes 2.5 s. These sizes have not been run where this tutorial is tested: there it runs on a
tiny checkpoint in RecurrentGemma's format.
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
from keras_speechssm.data.prepare import prepare_sequences
from keras_speechssm.data.token_store import TokenStore
from keras_speechssm.models import GriffinBackbone, SpeechSSM
from keras_speechssm.training import learning_rate_schedule

folder = Path(__file__).parent if "__file__" in globals() else Path(".")
TEXT_PRESET = os.environ.get("SPEECHSSM_TEXT_PRESET", "hf://google/recurrentgemma-2b-it")
TOKENIZER = os.environ.get("SPEECHSSM_PRESET", "speech_ssm_demo_en")
RECORDINGS = Path(os.environ.get("SPEECHSSM_RECORDINGS", folder))
OUTPUT = Path(os.environ.get("SPEECHSSM_OUTPUT", "from_text"))
SEQUENCE_LENGTH = int(os.environ.get("SPEECHSSM_SEQUENCE_LENGTH", "6000"))  # 4 min
STEPS = int(os.environ.get("SPEECHSSM_STEPS", "1000"))

"""
## Turn recordings into tokens

We prepare sequences of up to 4 min, in a store that training reads from. For more than a few hours,
use the command, which runs several processes or Apache Beam: `speechssm prepare sequences --help`.
"""

counts = prepare_sequences([RECORDINGS], OUTPUT / "store", preset=TOKENIZER, target_seconds=240.0)
store = TokenStore(OUTPUT / "store")
rows = PackedSequences.from_store(store, SEQUENCE_LENGTH)
print(f"{counts['hours']:.2f} h, {counts['tokens']} tokens, {len(rows)} rows.")

"""
## Split the weights over all devices

With more than one device, the weights of each layer are split over all devices, and so is the
batch. The layout map of Griffin says how each weight is split.
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
## Start from the text model

`mixed_bfloat16` computes in bfloat16 and keeps float32 weights for the optimizer. In the
`RematScope` each block stores only its inputs and recomputes the rest for the gradient, which saves
memory.
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

We use the paper's optimizer: AdamW with a learning rate of 5e-4 and a weight decay of 0.6, a
warm-up of 1,000 steps, and a cosine down to a twentieth. The paper's batches are large, so one step
accumulates the gradients of 16 batches. `speechssm train speech-lm` uses the same schedule.
"""

ACCUMULATED = 16
rate = learning_rate_schedule(
    learning_rate=5e-4,
    total_steps=STEPS,
    warmup_steps=min(1000, STEPS // 10 + 1),
    final_learning_rate=0.05,
    batches_per_step=ACCUMULATED,  # one optimizer step per 16 batches
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
    epochs=-(-STEPS // min(STEPS, 100)),  # the last epoch is complete, too
    shuffle=False,
    verbose=2,
)

"""
## Save the model

For days of training, use the command, which writes checkpoints and resumes after interruptions. On
one GPU, use `--batch-size 1` instead of `--device-mesh 8 1`:

    speechssm train speech-lm --token-folders STORE --output-dir RUN --dtype mixed_bfloat16 \\
        --text-preset hf://google/recurrentgemma-2b-it --device-mesh 8 1 --rematerialize
"""

model.save_to_preset(str(OUTPUT / "speech_lm"))
tokens = store[0].tokens[:250]
print("Continued:", model.generate(tokens[None], num_tokens=25, seed=0)[0])
