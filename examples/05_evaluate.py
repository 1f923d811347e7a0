"""
Title: Evaluate two systems on LibriSpeech-Long
Author: The keras_speechssm authors
Date created: 2026/11/29
Last modified: 2026/11/29
Description: Let two systems continue the same recordings, and compare what they say and how it
    sounds.
Needs: two CPU cores and 6 GB of memory. The benchmark LibriSpeech-Long (3 GB) for the paper's
    numbers; any recordings of more than 10 s to try it.
Time: about 10 minutes for 4 recordings of 10 s on two CPU cores; much longer for all of
    LibriSpeech-Long
"""

"""
## Introduction

A *system* is a folder with one continuation per recording of a benchmark, under the same file name,
so any system can be compared: this package's or another's. Here one system is the demo's SpeechSSM,
which continues in one go. The other one restarts every few seconds from its last 3 s of speech, as
systems with a limited length must (the paper's "slide and prompt").

All measures run offline, with small models that are inside Python packages. They differ from the
paper's models; the guide "Evaluate" names both, and the options that choose others.
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
    package = f"{wheels[-1] if wheels else 'keras-speechssm'}[eval]"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

"""
## Settings

With LibriSpeech-Long, attached to the notebook or unpacked into a folder, set `PROMPT_SECONDS = 10`
and `UNTIL_SECONDS = None` for the paper's protocol of 4 min
(https://storage.googleapis.com/librispeech_long/v0_1.tar.gz, CC BY 4.0).
"""

import shutil

from IPython.display import Markdown

from keras_speechssm.data import example_recordings
from keras_speechssm.evaluation import (
    ComparisonOptions,
    EvaluationModelNames,
    evaluate_continuations,
    generate_continuations,
)

PRESET = "speech_ssm_demo_en"
BENCHMARKS = sorted(Path("/kaggle/input").rglob("librispeech-long/test-clean"))
PROMPT_SECONDS = 3.0
UNTIL_SECONDS = 10.0
SUBSET = 4
MODELS = EvaluationModelNames()
OUTPUT = Path("evaluated")

"""
## Find a benchmark

Without LibriSpeech-Long, we take the recordings of an attached dataset, one speaker of LibriSpeech,
or the bundled prompt.
"""

if BENCHMARKS:
    benchmark = BENCHMARKS[0]
else:
    benchmark = OUTPUT / "benchmark"
    benchmark.mkdir(parents=True, exist_ok=True)
    for path in example_recordings():
        shutil.copyfile(path, benchmark / path.name)

"""
## Generate

Each recording's first seconds are the prompt. If interrupted, the cell resumes.
"""

shared = {
    "preset": PRESET,
    "prompt_seconds": PROMPT_SECONDS,
    "until_seconds": UNTIL_SECONDS,
    "subset": SUBSET,
}
print(generate_continuations(benchmark, OUTPUT / "whole", **shared))
print(
    generate_continuations(
        benchmark, OUTPUT / "slide", slide_and_prompt_seconds=PROMPT_SECONDS + 3, **shared
    )
)

"""
## Compare

The report has the likelihood of the transcripts, their similarity to the true text, the similarity
of the voice to the prompt's, predicted naturalness, repetition, silence, and win rates side by
side, with confidence intervals. A few recordings give wide intervals: use all of the benchmark
before you conclude anything.
"""

report = evaluate_continuations(
    [f"whole={OUTPUT / 'whole'}", f"slide={OUTPUT / 'slide'}"],
    benchmark,
    OUTPUT / "report",
    comparison=ComparisonOptions(
        prompt_seconds=PROMPT_SECONDS, until_seconds=UNTIL_SECONDS, subset=SUBSET
    ),
    models=MODELS,
)
text = (OUTPUT / "report" / "report.md").read_text()
Markdown(text.partition("![")[0])  # without the links to pictures

"""
`evaluated/report/report.html` is one page with all tables, curves over time, and audio players.
"""
