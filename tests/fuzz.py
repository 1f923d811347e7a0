"""Random wrong inputs, and the check that each is answered as it should be.

A case is a function of a `random.Random` and an empty folder. It calls the command line or the
public API inside `answered`. Many cases in one process, which a later run resumes:

    KERAS_BACKEND=jax python tests/fuzz.py LOG COUNT SEED

The log has one line of JSON per case. A case that ended the process is a fault when it is resumed.
"""

import collections
import contextlib
import copy
import dataclasses
import faulthandler
import functools
import gc
import inspect
import io
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import soundfile
from tiny_models import shared_tiny_pipeline, shared_tiny_preset

from keras_speechssm import cli
from keras_speechssm.audio.io import read_audio, read_duration, to_mono_16khz, write_audio
from keras_speechssm.checks import is_number
from keras_speechssm.data import prepare
from keras_speechssm.data.corpora import read_segments, read_turns
from keras_speechssm.data.token_store import TokenStore, read_tokens, write_token_store
from keras_speechssm.models.generation import load_generation_state
from keras_speechssm.models.hubert_tokenizer.kmeans_file import read_kmeans
from keras_speechssm.models.preset_mixin import load_part
from keras_speechssm.pipeline import Sampling
from keras_speechssm.presets import PARTS, fetch_pipeline
from keras_speechssm.synthesis import SynthesisConfig
from keras_speechssm.training import SpeechLMTrainingConfig
from keras_speechssm.windows import plan_windows

SECONDS, MEMORY = 30, 4 * 2**20
"""Limits of one case: seconds, and KiB that the process grows by."""

ODD_NUMBERS = (0, -1, 1, 3, 0.5, 10**4, 10**7, 10**12, 10**30, 1e300, -(2**63), float("nan"))
ODD_VALUES = (*ODD_NUMBERS, None, True, "", "x", "\n", "é\u202e", [], [[]], [1, "a"], {}, {"a": 1})
ODD_WORDS = (
    *("", " ", "-1", "0", "1", "nan", "inf", "1e400", "0x10", "9" * 400, "--", "-", "\x01"),
    *(
        "None",
        "[]",
        "{}",
        '{"a"',
        '{"hidden_dim": 1000000000000}',
        "é",
        "\u202e",
        "a\nb",
        "x" * 5000,
    ),
    *("/dev", ".", "/dev/null", "/proc/self/mem", "/nowhere/at/all", "%s%n", "$(id)", "speech_ssm"),
)


class LateError(BaseException):
    """A case took too long. No handler of `Exception` makes an answer of it."""


answers: list[str] = []
"""Messages of the errors that were answers, `""` for calls that returned."""


def peak_memory() -> int:
    """Returns the largest size of this process in KiB, since the last call where Linux knows it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak


@contextlib.contextmanager
def answered(folder: Path):
    """The block ends in time and in little memory; a `ValueError` of one line is an answer."""

    def stop(*_):
        raise LateError(f"not answered within {SECONDS} s")

    peak_memory()
    before = peak_memory()
    # Seconds of this process, because tests may share the machine.
    handler, message = signal.signal(signal.SIGPROF, stop), ""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    except ValueError as error:
        message = str(error)
        assert message.strip() and "\n" not in message.strip(), repr(message)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
    grown = peak_memory() - before
    assert grown < MEMORY, f"{grown} KiB"
    answers.append(message)
    assert not [path for path in folder.rglob("*") if "partial" in path.name]


def run_command(folder: Path, argv) -> int:
    """Runs `speechssm`; a refusal is one line, with status 2, and leaves no file."""
    before, said = sorted(folder.rglob("*")), io.StringIO()
    argv = [str(word) for word in argv]
    with answered(folder), contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            status = cli.main(argv)
        except SystemExit as leave:  # after --help
            status = leave.code
    assert status in (0, 2), argv
    if status == 2:
        answers[-1] = said.getvalue()
        lines = [line for line in said.getvalue().split("\n") if line.startswith("speechssm: ")]
        assert len(lines) == 1 and "Traceback" not in said.getvalue(), (argv, said.getvalue())
        left = [path for path in sorted(folder.rglob("*")) if path not in before]
        assert not left, (argv, left, said.getvalue())
    return status


@functools.cache
def sound(suffix: str) -> bytes:
    kinds = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "mp3": "MP3", "aiff": "AIFF", "w64": "W64"}
    tone = 0.3 * np.sin(np.arange(12_000) / 9)
    with tempfile.NamedTemporaryFile(suffix=f".{suffix}") as file:
        soundfile.write(file.name, np.stack([tone, -tone], 1), 22_050, format=kinds[suffix])
        return Path(file.name).read_bytes()


def damage(rng: random.Random, content: bytes) -> bytes:
    """Flips, cuts, repeats or inserts bytes, most often near the start, where headers are."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(min(len(data), rng.choice((16, 64, 512, 10**9)))) if data else 0
        kind = rng.randrange(5)
        if kind == 0:
            data[place : place + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            data[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            data[place:place] = rng.randbytes(rng.randint(1, 40))
        else:
            data[place:place] = data[: rng.randint(0, 4000)]
    return bytes(data)


def odd_audio(rng: random.Random, folder: Path) -> None:
    suffix = rng.choice(("wav", "flac", "ogg", "mp3", "aiff", "w64"))
    content = damage(rng, sound(suffix)) if rng.random() < 0.9 else rng.randbytes(3000)
    path = folder / f"a.{rng.choice((suffix, suffix, 'wav', 'mp3', 'm4a'))}"
    path.write_bytes(content)
    with answered(folder):
        read_duration(path)
    with answered(folder):
        waveform = read_audio(path)
        assert np.isfinite(waveform).all() and np.abs(waveform).max() <= 1
    run_command(folder, ("tokenize", path, "-o", folder / "out.npy", "--preset", "stub"))


def odd_words(rng: random.Random, folder: Path) -> None:
    """Odd arguments of any command, except those that need no input and take long."""
    own = {"continue": cli.continue_, "convert": cli.convert, "assemble": cli.assemble}
    own |= {"resynthesize": cli.resynthesize, "tokenize": cli.tokenize, "finetune": cli.finetune}
    verbs = [(name,) for name in own]
    verbs += [words for words in cli.WRAPPED if words[0] != "bench" and "stories" not in words[1]]
    words = rng.choice(verbs)
    if len(words) == 1:
        parameters = inspect.signature(own[words[0]]).parameters.values()
    else:
        parameters = inspect.signature(wrapped_command(words)).parameters.values()
    (folder / "file").write_text("text")
    (folder / "empty").mkdir()
    pool = (*ODD_WORDS, folder / "file", folder / "empty", folder / "file" / "below")
    argv = list(words)
    for option in parameters:
        is_path = option.name in ("output", "preset") or option.name.startswith("output")
        if option.kind in (option.POSITIONAL_ONLY, option.VAR_POSITIONAL):
            argv.append(rng.choice(pool))
        elif option.default is option.empty or is_path or rng.random() < 0.1:
            value = folder / "file" if is_path and rng.random() < 0.7 else rng.choice(pool)
            argv += [f"--{option.name.replace('_', '-')}", value]
    if rng.random() < 0.2:
        argv.insert(rng.randrange(len(argv) + 1), rng.choice(ODD_WORDS))
    if any(str(word) in ("--help", "-h") for word in argv):
        return
    here = Path.cwd()
    os.chdir(folder / "empty")  # relative paths of odd words
    try:
        run_command(folder, argv)
    finally:
        os.chdir(here)


@functools.cache
def wrapped_command(words):
    import importlib

    module, name = cli.WRAPPED[words].split(":")
    return cli.make_command(getattr(importlib.import_module(f"keras_speechssm.{module}"), name))


def copy_part(rng: random.Random, folder: Path) -> tuple[str, Path]:
    part = rng.choice(PARTS)
    return part, Path(shutil.copytree(Path(shared_tiny_preset()) / part, folder / part))


def change_leaf(rng: random.Random, content):
    """Replaces a random entry of nested JSON, at any depth."""
    content, place = copy.deepcopy(content), None
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = rng.choice(list(keys))
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
            place = place[key]
            continue
        if rng.random() < 0.1 and isinstance(place, dict):
            del place[key]
        else:
            place[key] = rng.choice(ODD_VALUES)
        return content


def odd_config(rng: random.Random, folder: Path) -> None:
    part, path = copy_part(rng, folder)
    files = sorted(path.glob("*.json"))
    for _ in range(rng.choice((1, 1, 2))):
        file = rng.choice([file for file in files if file.name != "metadata.json"])
        file.write_text(json.dumps(change_leaf(rng, json.loads(file.read_text()))))
    with answered(folder):
        load_part(str(path), part)


def odd_bytes(rng: random.Random, folder: Path) -> None:
    part, path = copy_part(rng, folder)
    file = rng.choice(sorted(path.iterdir()))
    file.write_bytes(damage(rng, file.read_bytes()))
    with answered(folder):
        load_part(str(path), part)


def odd_pipeline(rng: random.Random, folder: Path) -> None:
    path = Path(shutil.copytree(shared_tiny_preset(), folder / "preset"))
    file = path / "config.json"
    if rng.random() < 0.3:
        file.write_bytes(damage(rng, file.read_bytes()))
    else:
        file.write_text(json.dumps(change_leaf(rng, json.loads(file.read_text()))))
    with answered(folder):
        fetch_pipeline(path)
    run_command(folder, ("assemble", "-o", folder / "out", "--preset", path))


def odd_data(rng: random.Random, folder: Path) -> None:
    """Files of tokens, manifests, sidecars, saved states, and k-means."""
    kinds = {
        "tokens.npy": read_tokens,
        "a.json": lambda path: (read_segments(path.with_suffix(".wav")), read_turns(path)),
        "state.npz": load_no_state,
        "kmeans.npy": read_kmeans,
        "kmeans.npz": read_kmeans,
        "kmeans.pkl": read_kmeans,
        "manifest.json": lambda path: TokenStore(path.parent),
    }
    name = rng.choice(list(kinds))
    path = folder / name
    if name.endswith(".json"):
        segment = {"start": 0, "end": 1.5, "text": "a", "phonemes": ["hh"]}
        content = {"segments": [segment], "format": "token_store", "vocabulary_size": 8}
        content |= {"shards": [{"file": "a", "lengths": [1], "bytes": 1, "sha256": ""}]}
        text = json.dumps(change_leaf(rng, content))
        path.write_bytes(text.encode() if rng.random() < 0.7 else damage(rng, text.encode()))
    else:
        memory = io.BytesIO()
        array = np.arange(40, dtype="int32").reshape(8, 5) / 7
        if name.endswith(".npz"):
            np.savez(memory, leaf_0=array, num_generated=1, seed=0)
        else:
            np.save(memory, array)
        path.write_bytes(damage(rng, memory.getvalue()))
    with answered(folder):
        kinds[name](path)


def bombs(folder: Path) -> dict:
    """Files that are far larger in memory than on the disk, and configs of enormous models."""
    part = shutil.copytree(Path(shared_tiny_preset()) / "speech_lm", folder / "part")

    def load():
        load_part(str(part), "speech_lm")

    def enormous(name, value):
        def write():
            for file in (part / "config.json", part / "task.json"):
                config = json.loads(file.read_text())
                backbone = config["config"].get("backbone", config)
                assert name in backbone["config"]
                backbone["config"][name] = value
                file.write_text(json.dumps(config))
            load()

        return write

    def hdf5(**options):
        def write():
            with h5py.File(part / "model.weights.h5", "r+") as file:
                name = next(iter(_datasets(file)))
                del file[name]
                file.create_dataset(name, (200_000, 100_000), "float32", **options)
            load()

        return write

    def deep():
        (part / "config.json").write_text("[" * 200_000)
        load()

    def zipped():
        np.savez_compressed(folder / "state.npz", leaf_0=np.zeros((2**10, 2**13), "float32"))
        load_no_state(folder / "state.npz")

    def long_claim():
        header = b"\x93NUMPY\x01\x00\x76\x00"
        about = b"{'descr': '<i4', 'fortran_order': False, 'shape': (4000000000,), }"
        (folder / "tokens.npy").write_bytes(header + about.ljust(117) + b"\n" + b"\0" * 64)
        read_tokens(folder / "tokens.npy")

    def slow_rate():
        soundfile.write(folder / "a.wav", np.zeros(400_000, "int16"), 1)
        read_audio(folder / "a.wav")

    large = {"hidden_dim": 10**9, "num_layers": 10**6, "vocabulary_size": 10**10}
    large |= {"intermediate_dim": 60_000_000, "attention_window": 10**12, "num_heads": 10**8}
    return {
        **{f"{name} {str(value)[:12]}": enormous(name, value) for name, value in large.items()},
        "an array without content": hdf5(),
        "an array of zeros": hdf5(chunks=(2000, 2000), compression="gzip"),
        "JSON of many brackets": deep,
        "a compressed state": zipped,
        "tokens that claim to be many": long_claim,
        "one sample per second": slow_rate,
    }


def _datasets(file) -> list[str]:
    names = []
    file.visititems(lambda name, item: names.append(name) if hasattr(item, "dtype") else None)
    return names


def load_no_state(path: Path) -> None:
    """No file is the state of this model."""
    backbone = types.SimpleNamespace(vocabulary_size=99)
    model = types.SimpleNamespace(backbone=backbone, initial_state=lambda batch: [])
    load_generation_state(model, path)


class StubTokenizer:
    vocabulary_size = 8

    def tokenize(self, waveform):
        return np.zeros(len(waveform) // 640, "int32")


def _load_or_stub(load, preset, *arguments, **options):
    return StubTokenizer() if preset == "stub" else load(preset, *arguments, **options)


def use_stub_tokenizer(monkeypatch) -> None:
    """`tokenize --preset stub` reads the recording and loads nothing."""
    monkeypatch.setattr(prepare, "load_part", functools.partial(_load_or_stub, prepare.load_part))


ODD_PATHS = (
    *("missing.wav", "folder", "link_to_itself.wav", "link_to_nothing.wav", "empty.wav"),
    *("folder/../folder/missing/x.wav", "tone.wav/below.wav", "x" * 251 + ".wav", "y" * 255),
    *(
        "new\nline.wav",
        "tab\t.wav",
        "-o.wav",
        "--help.wav",
        " .wav",
        "\udcff\udcfe.wav",
        "%s%n.wav",
    ),
    *("\u202etxt.wav", "\U0001f642.wav", "socket.wav", "tone.wav", "tone.npy", "CON", "a/" * 600),
    *("/dev/zero", "/dev/full", "/dev/null", "/dev/tty", "/proc/self/mem", "/proc/self/environ"),
    *("/", "/x\0y.wav", "~/x.wav", "file:///etc/passwd", "hf://", "hf://a", "kaggle://a/b"),
    *("", ".", "..", "/dev/stdin/x"),
)


def odd_paths(rng: random.Random, folder: Path) -> None:
    """Paths that are something else, for what is read and for what is written."""
    (folder / "folder").mkdir()
    (folder / "tone.wav").write_bytes(sound("wav"))
    (folder / "empty.wav").touch()
    np.save(folder / "tone.npy", np.arange(4))
    (folder / "link_to_itself.wav").symlink_to("link_to_itself.wav")
    (folder / "link_to_nothing.wav").symlink_to("nothing")
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(folder)
    server.bind("socket.wav")
    path, out = rng.choice(ODD_PATHS), rng.choice((*ODD_PATHS, "out.wav", "out"))
    preset = rng.choice(("stub", "stub", rng.choice(ODD_PATHS)))
    store = rng.choice(("folder", rng.choice(ODD_PATHS)))
    verbs = (
        ("tokenize", path, "-o", out, "--preset", preset),
        ("tokenize", path, "tone.wav", "-o", out, "--preset", preset),
        ("continue", path, "-o", out, "--preset", rng.choice(ODD_PATHS)),
        ("continue", "tone.wav", "-o", "out.wav", "--preset", rng.choice(ODD_PATHS)),
        ("continue", "--resume", path, "-o", "out.wav", "--preset", shared_tiny_preset()),
        ("resynthesize", path, "-o", out, "--preset", rng.choice(ODD_PATHS)),
        ("assemble", "-o", out, "--preset", path),
        ("assemble", "-o", "tone.wav", "--preset", shared_tiny_preset(), "--speech-lm", path),
        ("convert", path, "-o", out),
        ("finetune", path, "-o", out, "--preset", rng.choice(ODD_PATHS)),
        (
            "prepare",
            "sequences",
            "--audio-folders",
            path,
            "--output-folder",
            out,
            "--preset",
            preset,
        ),
        (
            "prepare",
            "transcribed",
            "--audio-folder",
            path,
            "--transcripts-file",
            store,
            "--output-folder",
            out,
        ),
        ("prepare", "aligned", "--audio-folders", path, "--tokenizer-preset", preset),
        ("train", "speech-lm", "--token-folders", store, "--output-dir", out, "--preset", path),
        ("train", "tokenizer", "--audio-folders", store, "--output-dir", out),
        (
            "train",
            "soundstorm",
            "--audio-folders",
            store,
            "--output-dir",
            out,
            "--codec-preset",
            path,
        ),
        ("evaluate", "speech-lm", "--held-out-folders", path, "--training-folders", path),
        (
            "evaluate",
            "long-form",
            "--continuation-folder",
            path,
            "--benchmark-folder",
            store,
            "--output-folder",
            out,
        ),
        (
            "evaluate",
            "continuations",
            "--systems",
            f"a={path}",
            "--benchmark-folder",
            store,
            "--output-folder",
            out,
        ),
    )
    try:
        run_command(folder, rng.choice(verbs))
    finally:
        os.chdir(here)
        server.close()


def odd_value(rng: random.Random):
    """A number, text, list, or array other than a waveform, tokens, or a setting."""
    shape = rng.choice(((0,), (), (1,), (7,), (1, 0), (2, 5), (5, 2), (1, 1, 3), (2, 2, 2), (9, 1)))
    scale = rng.choice((0, 1, 5, 1e-30, 1e30, np.nan, np.inf, -1))
    kind = rng.choice(("float32", "float64", "int8", "int64", "uint64", "bool", "complex64", "U3"))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = (np.arange(1, 1 + np.prod(shape, dtype=int)).reshape(shape) * scale).astype(kind)
    objects = (array.tolist(), [[1], [2, 3]], [None], ["a"], np.array([None, 2]), array)
    return rng.choice((rng.choice(ODD_VALUES), rng.choice(objects), array, array))


def odd_call(rng: random.Random, folder: Path) -> None:
    """Functions and methods of the public API with one odd argument, or two."""
    pipeline = shared_tiny_pipeline()
    lm, soundstorm = pipeline.speech_lm, pipeline.soundstorm
    wave, tokens = np.sin(np.arange(16_000) / 9).astype("float32") / 3, np.arange(8, dtype="int32")
    acoustic = np.ones((16, soundstorm.num_levels), "int32")
    sampling = {"temperature": 1.0, "top_k": 3, "top_p": 0.5, "seed": 1}

    def save_tokens(tokens, vocabulary_size):
        write_token_store(folder / "store", {"a": tokens}, vocabulary_size)

    save_wave = functools.partial(write_audio, folder / "a.wav")
    prompts = {"prompt_semantic": tokens, "prompt_acoustic": acoustic}
    calls = (
        (pipeline.continue_speech, {"prompt": wave, "seconds": 0.5, **sampling}),
        (
            pipeline.continue_speech,
            {"prompt": wave, "seconds": 0.5, "sample_rate": 16_000, "windows": "paper"},
        ),
        (pipeline.tokenize, {"audio": wave, "sample_rate": 16_000}),
        (pipeline.resynthesize, {"audio": wave, "sample_rate": 16_000, "seed": 1}),
        (pipeline.speak_tokens, {"tokens": tokens, "voice": wave, "seed": 1}),
        (pipeline.semantic_tokenizer.tokenize, {"waveform": wave, "windows_per_batch": 4}),
        (pipeline.semantic_tokenizer.phonemes, {"tokens": tokens}),
        (lm.generate, {"token_ids": tokens, "num_tokens": 3, **sampling}),
        (lm.generate, {"token_ids": tokens, "max_length": 12, "padding_mask": tokens >= 0}),
        (lm.stream, {"token_ids": tokens, "num_tokens": 3, "block_size": 2, **sampling}),
        (lm.score, {"token_ids": tokens, "padding_mask": tokens >= 0}),
        (lm.start_generation, {"token_ids": tokens, "seed": 0}),
        (
            soundstorm.generate,
            {"semantic_tokens": tokens, **prompts, "temperature": 1.0, "seed": 1},
        ),
        (
            soundstorm.generate,
            {"semantic_tokens": tokens, "iterations": (2, 1), "guidance_scale": 1.0},
        ),
        (
            soundstorm.generate,
            {"semantic_tokens": tokens, "pad_to": 9, "padding_mask": tokens >= 0},
        ),
        (pipeline.soundstream.encode, {"waveform": wave}),
        (pipeline.soundstream.decode, {"tokens": acoustic}),
        (to_mono_16khz, {"samples": wave, "sample_rate": 8_000}),
        (save_wave, {"waveform": wave, "sample_rate": 8_000}),
        (
            functools.partial(read_audio, "examples/prompt.flac"),
            {"start": 0.0, "duration": 1.0, "min_seconds": 0.0},
        ),
        (plan_windows, {"num_tokens": 50, "window": 20, "overlap": 4, "first_windows": (5, 10)}),
        (SynthesisConfig, SynthesisConfig().get_config()),
        (Sampling, {"temperature": 1.0, "top_k": 2, "top_p": 0.5}),
        (
            SpeechLMTrainingConfig,
            {"token_folders": ["x"], "output_dir": "y", **NUMBERS_OF_TRAINING},
        ),
        (save_tokens, {"tokens": tokens, "vocabulary_size": 9}),
    )
    function, arguments = rng.choice(calls)
    for _ in range(rng.choice((1, 1, 2))):
        arguments = {**arguments, rng.choice(list(arguments)): odd_value(rng)}
    for name, most in {"seconds": 0.5, "num_tokens": 50, "max_length": 50}.items():
        if is_number(arguments.get(name)):  # long speech takes long, as it should
            arguments[name] = min(arguments[name], most)
    with answered(folder):
        result = function(**arguments)
        if isinstance(result, Iterator):
            next(result)


NUMBERS_OF_TRAINING = {
    name: value
    for name, value in (
        (field.name, field.default) for field in dataclasses.fields(SpeechLMTrainingConfig)
    )
    if is_number(value)
}

CASES = (odd_audio, odd_words, odd_paths, odd_config, odd_bytes, odd_data, odd_call, odd_pipeline)


def try_cases(log: Path, count: int, seed: int) -> None:
    """Tries the cases that a log does not have yet, and prints what all of them gave."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = {line["number"]: line for line in lines}
    with open(log, "a") as file, tempfile.TemporaryDirectory() as parent:

        def write(**line):
            known[line["number"]] = line
            print(json.dumps(line), file=file, flush=True)

        for number in range(count):
            if known.get(number, {}).get("result"):
                continue
            case = CASES[number % len(CASES)]
            line = {"number": number, "case": case.__name__, "seed": seed}
            if number in known:  # started, but never ended
                write(**line, result="fault", said="the process ended")
                continue
            write(**line, result="")
            folder = Path(parent) / str(number)
            folder.mkdir()
            answers.clear()
            start, result, said = time.process_time(), "accepted", ""
            faulthandler.dump_traceback_later(20 * SECONDS, exit=True)  # for a call that waits
            try:
                case(random.Random(f"{seed} {number}"), folder)
                said = " | ".join(filter(None, answers))
                result = "refused" if said else "accepted"
            except (Exception, LateError):
                result, said = "fault", traceback.format_exc()[-3000:]
            faulthandler.cancel_dump_traceback_later()
            shutil.rmtree(folder, ignore_errors=True)
            seconds = round(time.process_time() - start, 2)
            write(**line, result=result, seconds=seconds, said=said)
            if number % 100 == 99:
                _forget_models()
    counts = collections.Counter((known[n]["case"], known[n]["result"]) for n in range(count))
    for (case, result), times in sorted(counts.items()):
        print(case, result, times)
    print("most seconds:", max(known[n].get("seconds", 0) for n in range(count)))


def _forget_models() -> None:
    import jax
    import keras

    keras.utils.clear_session(free_memory=False)
    jax.clear_caches()
    gc.collect()


if __name__ == "__main__":
    import conftest  # noqa: F401  initial weights that need no compilation

    prepare.load_part = functools.partial(_load_or_stub, prepare.load_part)
    try_cases(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
