"""
Title: Train SoundStorm and a codec for your voices
Author: The keras_speechssm authors
Date created: 2026/11/29
Last modified: 2026/11/29
Description: Adapt what makes the sound: SoundStream, the codec, and SoundStorm, which gives tokens
    a voice.
Needs: a GPU, or two CPU cores and patience. An hour of recordings of the voices, without
    transcripts.
Time: about 10 minutes on two CPU cores for a first look; hours on a GPU for good voices
"""

"""
## Introduction

SoundStorm copies the voice of a prompt from its first three seconds. If your speakers sound unlike
the voices it has heard, their copies are poor. Two models can then be adapted:

1. `SoundStream`, the codec, turns audio into acoustic tokens and back. It limits how good the sound
   can be.
2. `SoundStorm` predicts acoustic tokens from semantic ones.

The order matters: SoundStorm predicts the codec's tokens, so it is trained after the codec. To
adapt SoundStorm only, leave the codec out, or use `speechssm finetune recordings/ -o mine
--soundstorm`.
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
    package = f"{wheels[-1] if wheels else 'keras-speechssm'}[train]"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

"""
## Settings

`RECORDINGS` are those of an attached Kaggle dataset, one speaker of LibriSpeech, or the bundled
prompt. These settings are for a first look. For good results use a GPU, crops of 30 s, batches of 8
or more, 1,000 steps or more, and watch the validation losses.
"""

import shutil

from IPython.display import Audio

from keras_speechssm import SpeechContinuation
from keras_speechssm.audio.io import write_audio
from keras_speechssm.data import example_recordings
from keras_speechssm.training import (
    CodecTrainingConfig,
    SoundStormTrainingConfig,
    train_codec,
    train_soundstorm,
)
from keras_speechssm.training.callbacks import read_metrics

PRESET = "speech_ssm_demo_en"
RECORDINGS = example_recordings()
CODEC_STEPS = 20
SOUNDSTORM_STEPS = 20
BATCH_SIZE = 2
CROP_SECONDS = 3.0
OUTPUT = Path("voices")

"""
## Hold out recordings

The trainers read folders. One recording in ten is held out; a single one is used for both.
"""

held_out = RECORDINGS[::10]
train = [path for path in RECORDINGS if path not in held_out] or held_out
for name, paths in (("train", train), ("held_out", held_out)):
    folder = OUTPUT / "recordings" / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        shutil.copyfile(path, folder / f"{number:04d}{path.suffix}")
folders = {
    "audio_folders": [OUTPUT / "recordings" / "train"],
    "validation_folders": [OUTPUT / "recordings" / "held_out"],
}

"""
## Listen before training

`resynthesize` sends a recording through all tokens and back: what you hear is the best that a
continuation in this voice can sound like.
"""

speech = SpeechContinuation.from_preset(PRESET)
write_audio(OUTPUT / "before.ogg", speech.resynthesize(RECORDINGS[0]))
Audio(OUTPUT / "before.ogg")

"""
## Train the codec

The loss is a distance of waveforms and spectra. Without discriminators (`adversarial_weight=0`) a
short run is stable; add them for long runs. If interrupted, run the cell again: it resumes.
"""

common = {"warmup_steps": 10, "steps_per_epoch": 10, "batch_size": BATCH_SIZE, **folders}
train_codec(
    CodecTrainingConfig(
        preset=PRESET,
        output_dir=OUTPUT / "codec",
        adversarial_weight=0.0,
        learning_rate=1e-4,
        total_steps=CODEC_STEPS,
        **common,
    )
)
codec_losses = [line["val_loss"] for line in read_metrics(OUTPUT / "codec" / "metrics.jsonl")]
print("Validation loss of the codec:", codec_losses)

"""
## Train SoundStorm

The recipe `finetune` starts from the preset's SoundStorm. It first turns all recordings into pairs
of semantic tokens and the new codec's acoustic tokens. The loss is in nats per acoustic token.
"""

train_soundstorm(
    SoundStormTrainingConfig.from_recipe(
        "finetune",
        preset=PRESET,
        tokenizer_preset=PRESET,
        codec_preset=str(OUTPUT / "codec" / "preset"),
        output_dir=OUTPUT / "soundstorm",
        total_steps=SOUNDSTORM_STEPS,
        crop_seconds=CROP_SECONDS,
        **common,
    )
)
losses = [line["val_loss"] for line in read_metrics(OUTPUT / "soundstorm" / "metrics.jsonl")]
print("Validation loss of SoundStorm:", losses)

"""
## Listen after training, and save

The new pipeline has the preset's tokenizer and language model, and your two models.
"""

speech = SpeechContinuation.from_preset(
    PRESET,
    soundstorm=OUTPUT / "soundstorm" / "preset",
    soundstream=OUTPUT / "codec" / "preset",
)
speech.save_to_preset(OUTPUT / "mine")
write_audio(OUTPUT / "after.ogg", speech.resynthesize(RECORDINGS[0]))
Audio(OUTPUT / "after.ogg")
