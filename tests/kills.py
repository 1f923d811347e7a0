"""Kills commands at random instants and runs them again:

    python tests/kills.py FOLDER KILLS SEED [SIGINT]

With SIGINT they are interrupted, as by Ctrl-C, instead of killed. Every command runs in a fork of
this process, which has imported all but computed nothing.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np

from keras_speechssm import cli
from keras_speechssm.audio.io import read_audio, write_audio
from keras_speechssm.data import prepare
from keras_speechssm.data.token_store import TokenStore
from keras_speechssm.evaluation.studies import token_perplexity
from keras_speechssm.models import GriffinBackbone
from keras_speechssm.models.convert import convert_checkpoint
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.training import speech_lm

IMPORTED = (prepare, token_perplexity, convert_checkpoint, SpeechContinuation, speech_lm)


def start(argv) -> int:
    """Runs `speechssm` in a fork and returns its process number."""
    if (child := os.fork()) == 0:
        # A shell lets processes in the background ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.redirect_stdout(sys.stderr):
            os._exit(cli.main([str(word) for word in argv]))
    return child


def finish(argv) -> float:
    began = time.monotonic()
    assert os.waitpid(start(argv), 0)[1] == 0, argv
    return time.monotonic() - began


def in_fork(check, *arguments) -> str:
    """Runs a check in a fork, because it computes; returns what it finds."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, json.dumps(check(*arguments)).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        found = file.read()
    assert os.waitpid(child, 0)[1] == 0 and found, check
    return found


def commands(folder: Path, preset: str) -> dict:
    """Arguments of each command, and the check of its output, which describes it."""
    time_ = np.arange(20_000) / 16_000
    for number in range(3):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 100 * number + 300 * time_) * time_)
        (folder / "audio").mkdir(exist_ok=True)
        write_audio(folder / "audio" / f"{number}.wav", tone)
    sizes = {"num_layers": 3, "hidden_dim": 8, "intermediate_dim": 8, "num_heads": 2}
    train = ("--model-config", json.dumps(sizes), "--total-steps", 6, "--steps-per-epoch", 2)
    train += ("--batch-size", 2, "--sequence-length", 16, "--warmup-steps", 1)
    common, audio, store = ("--preset", preset), folder / "audio", folder / "tokenize" / "out"

    def tokens(out):
        return [sequence.tokens.tolist() for sequence in TokenStore(out)]

    def weights(out):
        model = GriffinBackbone.from_preset(str(out / "speech_lm" if "parts" in said(out) else out))
        return [float(np.abs(weight).sum()) for weight in model.get_weights()]

    def said(out):
        return json.loads((out / "config.json").read_text())

    def losses(out):
        lines = (out / "metrics.jsonl").read_text().splitlines()
        return [[json.loads(line)["step"], round(json.loads(line)["loss"], 4)] for line in lines]

    return {
        "tokenize": (("tokenize", audio, *common), tokens),
        "prepare": (
            ("prepare", "sequences", "--audio-folders", audio, "--target-seconds", 30, *common),
            tokens,
        ),
        "continue": (
            ("continue", audio / "0.wav", "--seconds", 3, "--seed", 1, *common),
            lambda out: [len(read_audio(out)), float(np.abs(read_audio(out)).sum())],
        ),
        "assemble": (("assemble", *common), weights),
        "convert": (("convert", preset), weights),
        "train": (("train", "speech-lm", "--token-folders", store, *train), losses),
        "evaluate": (
            ("evaluate", "speech-lm", "--training-folders", store, "--held-out-folders", store)
            + common,
            lambda out: "prints its result",
        ),
    }


def main(folder: Path, kills: int, seed: int, signal_name: str = "SIGKILL") -> None:
    from tiny_models import shared_tiny_preset

    preset = folder / "preset"
    if os.fork() == 0:
        shutil.copytree(shared_tiny_preset(), preset)
        os._exit(0)
    assert os.wait()[1] == 0
    rng = random.Random(seed)
    for name, (words, check) in commands(folder, str(preset)).items():
        option = {"prepare": "--output-folder", "train": "--output-dir"}.get(name, "-o")
        suffix = ".wav" if name == "continue" else ""

        def argv(out, words=words, option=option, name=name):
            return words if name == "evaluate" else (*words, option, out)

        (folder / name).mkdir()
        whole = folder / name / f"out{suffix}"
        seconds = finish(argv(whole))
        expected = in_fork(check, whole)
        for number in range(kills):
            out = folder / name / f"killed{number}{suffix}"
            instant = rng.uniform(0, seconds)
            child = start(argv(out))
            time.sleep(instant)
            os.kill(child, signal.Signals[signal_name])
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            is_there = name in ("continue", "assemble", "convert") and out.exists()
            if signal_name == "SIGINT":
                assert status in (0, 130), (name, instant, status)
                assert not list(folder.rglob("*partial*")), (name, instant)
            elif is_there:
                assert in_fork(check, out) == expected, (name, instant)  # whole, or not there
            finish(argv(out))
            assert in_fork(check, out) == expected, (name, instant)
            ended = {0: "done", 130: "interrupted", -9: "killed"}[status]
            print(f"{name} {ended} after {instant:.2f} of {seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
