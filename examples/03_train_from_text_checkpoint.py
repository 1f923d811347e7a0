"""
Title: Train SpeechSSM from a text model
Author: The keras_speechssm authors
Date created: 2026/11/21
Last modified: 2026/11/29
Description: Start a SpeechSSM from RecurrentGemma's weights and train it on your tokens.
Needs: a TPU v3-8 (Kaggle's) or v5e-8, or a GPU of 80 GB; access to RecurrentGemma; hours of
    recordings, the more the better. To try it, two CPU cores and 3 GB of memory.
Time: days; by the compiler's estimate a step of the paper takes 2.5 s on 16 TPUs v5p, and the paper
    trains for 100,000 steps. The try-out takes about 5 minutes on two CPU cores
"""

"""
## Introduction

The paper does not train from scratch: SpeechSSM starts from RecurrentGemma, a language model of
text. The text embeddings are replaced by new embeddings of semantic tokens, the rotary positions
are removed, and training continues from all other weights.

Without an accelerator, this notebook is a try-out: a tiny text model with random weights takes the
place of RecurrentGemma, and everything else is the same.

**What has been tested:** the try-out. The training step of the 2B model was compiled for TPUs,
which shows that it fits. This notebook has not been run on a TPU yet.
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
    package = f"{wheels[-1] if wheels else 'keras-speechssm'}[prepare,train]"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

"""
## Settings

Accept RecurrentGemma's license on Hugging Face (or Kaggle) and log in: on Kaggle, add your token as
the secret `HF_TOKEN`. With `TOTAL_STEPS = 100_000` this is the paper's schedule; 1,000 steps are a
start. `RECORDINGS` are those of an attached dataset, or one speaker of LibriSpeech. Set
`TRY_OUT = False` for RecurrentGemma and the sizes of the paper on any device.
"""

import jax

from keras_speechssm.data import TokenStore, example_recordings, prepare_sequences
from keras_speechssm.models import GriffinBackbone, SpeechSSM
from keras_speechssm.models.convert import convert_checkpoint
from keras_speechssm.training import SpeechLMTrainingConfig, train_speech_lm

TRY_OUT = jax.default_backend() == "cpu"
TEXT_PRESET = None if TRY_OUT else "hf://google/recurrentgemma-2b-it"
TOKENIZER = "speech_ssm_demo_en"
RECORDINGS = example_recordings()
TARGET_SECONDS = 30.0 if TRY_OUT else 240.0
SEQUENCE_LENGTH = 750 if TRY_OUT else 6000  # tokens: 30 s, or 4 min
ROWS_PER_STEP = 4 if TRY_OUT else 128
TOTAL_STEPS = 40 if TRY_OUT else 1000
WARMUP_STEPS = 4 if TRY_OUT else 100
STEPS_PER_EPOCH = 10 if TRY_OUT else 20
OUTPUT = Path("from_text")

"""
## A text model to try it with

The try-out makes a text model with random weights, in the format of RecurrentGemma's checkpoints on
Hugging Face.
"""

if TEXT_PRESET is None:
    text_model = GriffinBackbone(
        vocabulary_size=256, num_layers=3, hidden_dim=64, intermediate_dim=192, num_heads=4
    )
    text_model.save_to_preset(OUTPUT / "text_model")
    TEXT_PRESET = str(OUTPUT / "recurrentgemma")
    convert_checkpoint(OUTPUT / "text_model", TEXT_PRESET, to="hugging-face")

"""
## Does it fit?

Training keeps four float32 numbers for each parameter: the weight, its gradient, and the two
moments of Adam. With more than one device they are split over all devices. What remains of a
device's memory is for activations; `rematerialize` stores only the inputs of each block and
recomputes the rest.

`python benchmarks/tpu_compile.py --parts train` in a checkout of the repository compiles such a
step without a TPU. For the paper's batch of 128 rows on 16 TPUs v5p the compiler reports 40 of 95
GiB per chip: 24 GiB of weights and moments, which that step does not split over the chips, and 16
GiB of gradients and activations for 8 rows.
"""

devices = jax.devices()
params = SpeechSSM.presets["speech_ssm_2b"]["params"]
print(f"{len(devices)} devices of kind {devices[0].device_kind}")
print(f"{params * 16 / len(devices) / 2**30:.1f} GiB per device for the 2B model, plus activations")

"""
## Turn recordings into tokens

We prepare sequences of up to 4 min, in a store that training reads from. For more than a few hours,
use the command, which runs several processes or Apache Beam: `speechssm prepare sequences --help`.
The end of each sequence is dropped by default, since models otherwise learn to stop there; here we
keep it, because a try-out has few recordings.
"""

counts = prepare_sequences(
    RECORDINGS,
    OUTPUT / "store",
    preset=TOKENIZER,
    target_seconds=TARGET_SECONDS,
    drop_last_seconds=0.0,
)
print(f"{counts['hours']:.2f} h, {counts['tokens']} tokens.")

"""
## Train

The recipe `paper` starts from RecurrentGemma, computes in bfloat16 with float32 weights, and
rematerializes. The rest are the defaults, which are the paper's: AdamW with a learning rate of 5e-4
and a weight decay of 0.6, a warm-up, and a cosine down to a twentieth. This is what the command
runs:

    speechssm train speech-lm --recipe paper --token-folders STORE --output-dir RUN \
        --device-mesh fsdp=8

Each step has 128 rows. With 8 devices, each has one row at a time and accumulates 16 times. The run
writes checkpoints into `OUTPUT`: run this cell again, or in the next session with a copy of that
folder, and it resumes.
"""

config = SpeechLMTrainingConfig.from_recipe(
    "paper",
    text_preset=TEXT_PRESET,
    token_folders=[OUTPUT / "store"],
    output_dir=OUTPUT / "run",
    sequence_length=SEQUENCE_LENGTH,
    batch_size=len(devices),
    gradient_accumulation_steps=max(1, ROWS_PER_STEP // len(devices)),
    device_mesh=f"fsdp={len(devices)}" if len(devices) > 1 else None,
    total_steps=TOTAL_STEPS,
    warmup_steps=WARMUP_STEPS,
    steps_per_epoch=STEPS_PER_EPOCH,
)
model = train_speech_lm(config)
print((OUTPUT / "run" / "metrics.jsonl").read_text())

"""
## Continue tokens

The trained model is in `from_text/run/preset`. It can take the place of the demo's language model:

    speechssm continue recording.flac --speech-lm from_text/run/preset -o continuation.wav
"""

store = TokenStore(OUTPUT / "store")
prompt = store[0].tokens[:250]
print("Continued:", model.generate(prompt[None], num_tokens=25, seed=0)[0])
