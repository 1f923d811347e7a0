"""The command line: what each verb writes, and one clear line for every bad input."""

import importlib
import inspect
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_models import shared_tiny_pipeline, shared_tiny_preset, tiny_models

from keras_speechssm import __main__, cli, files, presets
from keras_speechssm.audio.io import write_audio
from keras_speechssm.data.token_store import (
    TokenStore,
    write_token_store,
)
from keras_speechssm.models import GriffinBackbone
from keras_speechssm.pipeline import SpeechContinuation, SpeechStream
from keras_speechssm.shapes import SAMPLE_RATE
from keras_speechssm.training.config import TrainingConfig

pytestmark = pytest.mark.any_backend


@pytest.fixture
def preset(monkeypatch):
    """The tiny preset, whose loading gives the pipeline that is loaded already."""
    # Made before the patch, which making it would run into.
    folder, pipeline = shared_tiny_preset(), shared_tiny_pipeline()
    load = SpeechContinuation.from_preset

    def give(name, **parts):
        return pipeline if name == folder and not any(parts.values()) else load(name, **parts)

    monkeypatch.setattr(SpeechContinuation, "from_preset", give)
    return folder


def noise(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (0.1 * rng.standard_normal(round(seconds * SAMPLE_RATE))).astype("float32")


@pytest.fixture
def prompt(tmp_path):
    path = tmp_path / "prompt.wav"
    write_audio(path, noise(1.0))
    return str(path)


def run(capsys, *argv) -> tuple[int, str]:
    status = cli.main([str(word) for word in argv])
    return status, capsys.readouterr().err


def assert_refused(capsys, tmp_path, *argv, message: str):
    before = sorted(tmp_path.rglob("*"))
    status, said = run(capsys, *argv)
    assert status == 2
    line = [line for line in said.splitlines() if not line.startswith("Loading ")]
    assert len(line) == 1 and line[0].startswith("speechssm: "), said
    assert re.search(message, line[0]), said
    assert sorted(tmp_path.rglob("*")) == before


def test_convert_writes_a_backbone_preset(capsys, tmp_path):
    status, said = run(capsys, "convert", shared_tiny_preset(), "-o", tmp_path / "out")
    assert (status, said) == (0, f"Wrote {tmp_path / 'out'}.\n")
    original, copy = (
        GriffinBackbone.from_preset(str(p)) for p in (shared_tiny_preset(), tmp_path / "out")
    )
    for kept, found in zip(original.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, found)


@pytest.mark.parametrize(
    ("form", "message"),
    [("onnx", "choose one of keras, hugging-face"), ("hugging-face", "has rotary positions")],
)
def test_convert_refuses_what_it_cannot_write(capsys, tmp_path, form, message):
    argv = "convert", shared_tiny_preset(), "-o", tmp_path / "out", "--to", form
    assert_refused(capsys, tmp_path, *argv, message=message)


def test_continue_writes_the_new_speech(capsys, tmp_path, prompt, preset):
    out = tmp_path / "out.wav"
    argv = ("continue", prompt, "-o", out, "--seconds", 3, "--seed", 1, "--preset", preset)
    status, said = run(capsys, *argv)
    assert status == 0 and "3 s of speech, real-time factor" in said
    speech, rate = soundfile.read(out, dtype="float32")
    assert rate == SAMPLE_RATE
    expected = SpeechContinuation.from_preset(preset).continue_speech(prompt, 3, seed=1)
    np.testing.assert_allclose(speech, expected, atol=1e-4)


def test_progress_counts_what_the_call_itself_takes(capsys, tmp_path, prompt, preset, monkeypatch):
    """It includes reading the prompt and compiling."""
    now = [0.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: now[0])

    def stream(self, *arguments, **options):
        now[0] += 3.0
        return iter([np.zeros(SAMPLE_RATE, "float32")])

    monkeypatch.setattr(SpeechContinuation, "stream", stream)
    argv = ("continue", prompt, "-o", tmp_path / "a.wav", "--seconds", 1, "--preset", preset)
    status, said = run(capsys, *argv)
    assert status == 0 and "real-time factor 3.00" in said, said


def test_a_language_model_of_a_run_speaks(capsys, tmp_path, prompt, preset):
    """Instead of the pipeline's, and in a pipeline that is assembled from both."""
    other = tiny_models()[1]  # with other weights
    other.set_weights([weight + 0.5 for weight in other.get_weights()])
    other.save_to_preset(str(tmp_path / "run" / "preset"))
    options = ("--speech-lm", tmp_path / "run" / "preset", "--preset", preset)
    assert run(capsys, "assemble", "-o", tmp_path / "mine", *options)[0] == 0
    argv = ("continue", prompt, "--seconds", 3, "--seed", 1, "-o")
    status, said = run(capsys, *argv, tmp_path / "a.wav", *options)
    assert status == 0, said
    assert run(capsys, *argv, tmp_path / "b.wav", "--preset", tmp_path / "mine")[0] == 0
    assert run(capsys, *argv, tmp_path / "c.wav", "--preset", preset)[0] == 0
    spoken = [soundfile.read(tmp_path / f"{name}.wav")[0] for name in "abc"]
    np.testing.assert_allclose(spoken[0], spoken[1], atol=1e-3)
    assert np.abs(spoken[0] - spoken[2]).max() > 1e-2


def test_continue_can_keep_and_shorten_the_prompt(capsys, tmp_path, prompt, preset):
    out = tmp_path / "out.flac"
    argv = ("continue", prompt, "-o", out, "--seconds", 1, "--preset", preset, "--keep-prompt")
    assert run(capsys, *argv)[0] == 0
    assert soundfile.info(out).frames == 2 * SAMPLE_RATE
    assert run(capsys, *argv, "--prompt-seconds", 0.6)[0] == 0
    speech, _ = soundfile.read(out, dtype="float32")
    assert len(speech) == round(1.6 * SAMPLE_RATE)
    np.testing.assert_allclose(speech[:9600], noise(1.0)[:9600], atol=1e-4)


def test_interrupt_leaves_a_shorter_file(capsys, tmp_path, prompt, preset, monkeypatch):
    def interrupted(self, *arguments, **settings):
        yield noise(2.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(SpeechContinuation, "stream", interrupted)
    out = tmp_path / "out.wav"
    status, said = run(capsys, "continue", prompt, "-o", out, "--preset", preset)
    assert status == 130 and f"{out} has 2 s" in said
    assert soundfile.info(out).frames == 2 * SAMPLE_RATE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.wav", "prompt.wav"]


def test_continue_writes_a_stream_to_stdout(tmp_path, prompt, preset, monkeypatch):
    # Not in a fixture: pytest replaces stdout between a fixture and its test.
    pipe = io.TextIOWrapper(io.BytesIO(), write_through=True)
    monkeypatch.setattr(sys, "stdout", pipe)
    argv = ["continue", prompt, "--seconds", "3", "--seed", "1", "--preset", preset, "-o"]
    assert cli.main([*argv, str(tmp_path / "out.wav")]) == 0
    assert pipe.buffer.getvalue() == b""
    stream = SpeechContinuation.stream
    monkeypatch.setattr(
        SpeechContinuation,
        "stream",
        lambda *given, **options: print("a library's note") or stream(*given, **options),
    )
    assert cli.main([*argv, "-"]) == 0
    assert pipe.buffer.getvalue()[44:] == (tmp_path / "out.wav").read_bytes()[44:]


def test_a_stream_without_end_stops_with_its_reader(capsys, prompt, preset, monkeypatch):
    def endless(self, waveform, seconds):
        assert seconds is None
        while True:
            yield noise(1.0)

    monkeypatch.setattr(SpeechContinuation, "stream", endless)
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        argv = ("continue", prompt, "-o", "-", "--seconds", "inf", "--preset", preset)
        status = cli.main([str(word) for word in argv])
        monkeypatch.undo()
    assert status == 0
    assert "The reader closed the stream." in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["--help"], ["--version"], ["train", "--help"], ["evaluate", "codec", "--help"]]
)
def test_a_reader_that_leaves_is_no_error(capfd, monkeypatch, argv):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as leave:
            cli.main(argv)
        monkeypatch.undo()
    assert not leave.value.code and capfd.readouterr().err == ""


def test_a_closed_stdout_is_refused(capsys, monkeypatch, prompt, preset):
    monkeypatch.setattr(sys, "stdout", None)
    status = cli.main(["continue", str(prompt), "-o", "-", "--preset", str(preset)])
    monkeypatch.undo()
    assert status == 2 and "--output is -, but stdout is closed" in capsys.readouterr().err


@pytest.mark.parametrize("interrupted", ["import", "run"])
def test_an_interrupt_at_any_time_is_one_line(capsys, monkeypatch, interrupted):
    def interrupt(*_):
        raise KeyboardInterrupt

    if interrupted == "import":
        monkeypatch.delitem(sys.modules, "keras_speechssm.cli")
        monkeypatch.setattr("builtins.__import__", interrupt)
    else:
        monkeypatch.setattr(cli, "main", interrupt)
    assert __main__.main() == 130
    monkeypatch.undo()
    assert capsys.readouterr().err == "speechssm: interrupted.\n"


def test_a_killed_continuation_resumes_to_the_same_file(
    capsys, tmp_path, prompt, preset, monkeypatch
):
    state, whole = tmp_path / "state.npz", tmp_path / "whole.wav"
    argv = ("continue", prompt, "--seconds", 6, "--seed", 1, "--preset", preset)
    assert run(capsys, *argv, "-o", whole)[0] == 0

    class KilledError(BaseException):
        pass

    save_state, saved = SpeechStream.save_state, []

    def killed(self, path):
        if len(saved) == 2:  # after the block is written, before its state is
            raise KilledError
        saved.append(path)
        save_state(self, path)

    monkeypatch.setattr(SpeechStream, "save_state", killed)
    with pytest.raises(KilledError):
        run(capsys, *argv, "-o", tmp_path / "a.wav", "--save-state", state)
    monkeypatch.undo()
    monkeypatch.setattr(
        SpeechContinuation, "from_preset", lambda *given, **options: shared_tiny_pipeline()
    )
    resume = ("continue", "--resume", state, "--preset", preset, "-o")
    options = ("--seconds", 4, "--save-state", state)  # shorter first: it can be resumed again
    assert run(capsys, *resume, tmp_path / "b.wav", *options)[0] == 0
    assert soundfile.info(tmp_path / "b.wav").frames == 4 * SAMPLE_RATE
    assert run(capsys, *resume, tmp_path / "c.wav", "--seconds", 6)[0] == 0
    assert (tmp_path / "c.wav").read_bytes() == whole.read_bytes()
    (tmp_path / "state.npz.wav").write_bytes(b"")
    status, said = run(capsys, *resume, tmp_path / "d.wav")
    assert status == 2 and "has less speech than the state" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give a recording to continue, or --resume"),
        (("PROMPT", "--resume", "s"), "give a recording to continue, or --resume"),
        (("--resume", "s", "--top-p", 0.5), "--top-p is in the state"),
        (("--resume", "s", "--windows", "paper"), "--windows is in the state"),
        (("PROMPT", "--save-state", "s", "--keep-prompt"), "cannot be combined"),
        (("PROMPT", "--save-state", "no/folder/s"), "does not exist"),
    ],
)
def test_what_is_continued_is_one_thing(capsys, tmp_path, prompt, options, message):
    options = [prompt if word == "PROMPT" else word for word in options]
    argv = ("continue", *options, "-o", tmp_path / "out.wav")
    assert_refused(capsys, tmp_path, *argv, message=message)


def test_programs_are_kept_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = [name.upper() for name in files.compilation_cache_settings()]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    argv = ["continue", "a.wav", "-o", "b.wav"]
    assert cli._choose_compilation_cache([*argv, "--no-compilation-cache"]) == argv
    assert not any(name in cli.os.environ for name in names)
    assert cli._choose_compilation_cache(argv) == argv
    for name in names:  # and forget them after the test
        monkeypatch.setenv(name, cli.os.environ[name])
    assert cli.os.environ["JAX_COMPILATION_CACHE_DIR"].startswith(str(tmp_path))


def test_resynthesize_keeps_the_length(capsys, tmp_path, prompt, preset):
    out = tmp_path / "out.wav"
    assert run(capsys, "resynthesize", prompt, "-o", out, "--preset", preset)[0] == 0
    assert soundfile.info(out).frames == SAMPLE_RATE


def test_tokenize_one_recording(capsys, tmp_path, prompt, preset):
    out = tmp_path / "tokens.npy"
    assert run(capsys, "tokenize", prompt, "-o", out, "--preset", preset)[0] == 0
    expected = SpeechContinuation.from_preset(preset).tokenize(prompt)
    np.testing.assert_array_equal(np.load(out, allow_pickle=False), expected)


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="needs /dev/fd")
def test_tokenize_what_a_pipe_gives(capsys, tmp_path, prompt, preset):
    """As `/dev/stdin` and a shell's `<(...)` do; the pipe can be read only once."""
    reader, writer = os.pipe()
    content = Path(prompt).read_bytes()
    feed = threading.Thread(target=lambda: os.write(writer, content) and os.close(writer))
    feed.start()
    out = tmp_path / "tokens.npy"
    assert run(capsys, "tokenize", f"/dev/fd/{reader}", "-o", out, "--preset", preset)[0] == 0
    feed.join()
    os.close(reader)
    expected = SpeechContinuation.from_preset(preset).tokenize(prompt)
    np.testing.assert_array_equal(np.load(out, allow_pickle=False), expected)


def recordings_of(folder):
    sequences = [*TokenStore(folder)]
    return {sequence.recording: len(sequence.tokens) for sequence in sequences}


def test_tokenize_folders(capsys, tmp_path, preset):
    for name in ("a/x", "a/deep/y", "b/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_audio(tmp_path / f"{name}.wav", noise(0.6))
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(capsys, "tokenize", tmp_path / "a", "-o", one, "--preset", preset)[0] == 0
    assert recordings_of(one) == {"x": 15, "deep/y": 15}
    folders = (tmp_path / "a", tmp_path / "b")
    assert run(capsys, "tokenize", *folders, "-o", two, "--preset", preset)[0] == 0
    assert recordings_of(two) == {"a/x": 15, "a/deep/y": 15, "b/x": 15}
    # A second run resumes with what is missing and leaves the rest alone.
    kept = (two / "shard-00000.array_record").stat().st_mtime_ns
    (two / "manifest.json").unlink()
    assert run(capsys, "tokenize", *folders, "-o", two, "--preset", preset)[0] == 0
    assert (two / "shard-00000.array_record").stat().st_mtime_ns == kept
    assert recordings_of(two) == {"a/x": 15, "a/deep/y": 15, "b/x": 15}


def bad_audio(folder: Path) -> dict[str, Path]:
    files = {name: folder / f"{name}.wav" for name in ("short", "silent", "nan", "text", "empty")}
    write_audio(files["short"], noise(0.2))
    write_audio(files["silent"], np.zeros(SAMPLE_RATE, "float32"))
    soundfile.write(files["nan"], np.full(SAMPLE_RATE, np.nan, "float32"), 16000, subtype="FLOAT")
    files["text"].write_text("Call me Ishmael.")
    files["empty"].write_bytes(b"")
    return {**files, "missing": folder / "missing.wav"}


AUDIO_MESSAGES = {
    "short": "holds 0.20 s of audio",
    "silent": "all silence",
    "nan": "NaN or infinite",
    "text": "cannot be read as audio",
    "empty": "is empty",
    "missing": "does not exist",
}


@pytest.mark.parametrize("verb", ["continue", "resynthesize"])
@pytest.mark.parametrize("kind", AUDIO_MESSAGES)
def test_bad_audio(capsys, tmp_path, verb, kind):
    path = bad_audio(tmp_path)[kind]
    argv = (verb, path, "-o", tmp_path / "out.wav")
    assert_refused(capsys, tmp_path, *argv, message=AUDIO_MESSAGES[kind])


@pytest.mark.parametrize("kind", ["nan", "text", "empty", "missing"])
def test_bad_audio_to_tokenize(capsys, tmp_path, kind):
    path = bad_audio(tmp_path)[kind]
    argv = ("tokenize", path, "-o", tmp_path / "out.npy")
    assert_refused(capsys, tmp_path, *argv, message=AUDIO_MESSAGES[kind])


@pytest.mark.parametrize(
    "output, message",
    [
        ("no/such/folder/out.wav", "does not exist"),
        ("out.docx", "not a known format"),
        ("folder.wav", "is a folder"),
    ],
)
def test_output_is_checked_before_anything_is_loaded(
    capsys, tmp_path, prompt, monkeypatch, output, message
):
    monkeypatch.setattr(SpeechContinuation, "from_preset", None)
    (tmp_path / "folder.wav").mkdir()
    for verb in ("continue", "resynthesize"):
        assert_refused(capsys, tmp_path, verb, prompt, "-o", tmp_path / output, message=message)


@pytest.mark.parametrize(
    "options, message",
    [
        (("--seconds", "-1"), "--seconds is -1.0; expected"),
        (("--seconds", "ten"), "--seconds: unable to convert .ten. into float"),
        (("--seconds", "nan"), "--seconds is nan; expected"),
        (("--seconds", "0"), "--seconds is 0.0; expected a positive number, or inf"),
        (("--prompt-seconds", "0"), "--prompt-seconds is 0.0; expected"),
        (("--temperature", "-1", "--preset", "not_loaded"), "--temperature is -1.0; expected"),
        (("--top-k", "0", "--preset", "not_loaded"), "--top-k is 0; expected"),
        (("--top-p", "2", "--preset", "not_loaded"), "--top-p is 2.0; expected"),
        (("second.wav",), "unexpected: second.wav; see --help"),
        (("--seed", "-3"), "--seed is -3; expected 0 to"),
        (("--seed", "1.5"), '--seed: unable to convert "1.5" into int'),
        (("--preset", "no_such_preset"), "Unknown preset 'no_such_preset'"),
        (("--nonsense",), "Unknown option: --nonsense"),
    ],
)
def test_bad_options(capsys, tmp_path, prompt, options, message):
    argv = ("continue", prompt, "-o", tmp_path / "out.wav", *options)
    assert_refused(capsys, tmp_path, *argv, message=message)


def test_bad_temperature(capsys, tmp_path, prompt, preset):
    argv = ("continue", prompt, "-o", tmp_path / "out.wav", "--preset", preset)
    assert_refused(capsys, tmp_path, *argv, "--temperature", "-1", message="temperature")


def test_nothing_is_loaded_of_an_unknown_preset(capsys, tmp_path, prompt):
    argv = "continue", prompt, "-o", tmp_path / "out.wav", "--preset", "no_such_preset"
    assert "Loading" not in run(capsys, *argv)[1]


@pytest.mark.parametrize("damage", ["truncated", "no weight file"])
def test_broken_preset(capsys, tmp_path, prompt, damage):
    folder = shutil.copytree(shared_tiny_preset(), tmp_path / "broken")
    path = folder / "semantic_tokenizer" / "model.weights.h5"
    data = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    argv = ("continue", prompt, "-o", tmp_path / "out.wav", "--preset", folder)
    assert_refused(capsys, tmp_path, *argv, message=damage)


def test_verbs_of_functions_take_their_arguments(capsys, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    argv = ("train", "codec", "--audio-folders", empty, "--output-dir", tmp_path / "run")
    status, said = run(capsys, *argv)
    assert status == 2 and "No audio in" in said
    assert_refused(capsys, tmp_path, "train", "codec", message="--output-dir requires an argument")
    assert_refused(capsys, tmp_path, "train", "nonsense", message='Unknown command "nonsense"')
    assert_refused(capsys, tmp_path, message="a command is missing")


def test_evaluate_prints_json(capsys, tmp_path, monkeypatch, preset):
    for name in ("train", "held_out"):
        write_token_store(tmp_path / name, {"a": np.arange(60) % 12}, vocabulary_size=12)
    argv = ("evaluate", "speech-lm", "--training-folders", tmp_path / "train", "--preset", preset)
    status = cli.main([*map(str, argv), "--held-out-folders", str(tmp_path / "held_out")])
    printed = json.loads(capsys.readouterr().out)
    assert status == 0 and printed["tokens"] == 59 and printed["trigram"] < printed["unigram"]


def test_missing_package_is_one_line(capsys, tmp_path, preset, prompt, monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)
    argv = ("evaluate", "codec", "--audio-folders", tmp_path, "--preset", preset)
    assert_refused(
        capsys,
        tmp_path,
        *argv,
        message="package pesq is missing; install the extra eval: pip install",
    )


@pytest.mark.parametrize(
    ("module", "extra"),
    [("ai_edge_litert", "lyra"), ("sklearn", "transcripts"), ("grain", "prepare")],
)
def test_the_extra_of_a_missing_package_comes_from_the_metadata(
    capsys, tmp_path, monkeypatch, module, extra
):
    def fail(*arguments, **options):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("keras_speechssm.data.prepare.tokenize_recordings", fail)
    argv = ("tokenize", tmp_path, "-o", tmp_path / "out")
    message = f"package {module} is missing; install the extra {extra}: pip install"
    assert_refused(capsys, tmp_path, *argv, message=message)


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert re.fullmatch(r"keras_speechssm \d+\..*\n", capsys.readouterr().out)


def test_a_long_message_is_cut(capsys):
    assert cli.main(["assemble", "-o", "x", "--preset", "y" * 9000]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and 1000 < len(line) < 1030


def test_a_recording_is_not_written_over(capsys, tmp_path, prompt, preset):
    before = Path(prompt).read_bytes()
    for verb in ("continue", "resynthesize"):
        status, said = run(capsys, verb, prompt, "-o", prompt, "--preset", preset)
        assert status == 2 and "is the recording itself" in said, said
    assert Path(prompt).read_bytes() == before


def test_too_short_a_part_of_a_prompt_names_the_option(capsys, tmp_path, prompt, preset):
    argv = ("continue", prompt, "-o", tmp_path / "a.wav", "--preset", preset)
    status, said = run(capsys, *argv, "--prompt-seconds", 0.2)
    assert status == 2 and "--prompt-seconds is 0.2; expected" in said, said
    assert not (tmp_path / "a.wav").exists()


def test_lyra_s_option_is_lyra_s(capsys, tmp_path, preset):
    argv = ("convert", preset, "-o", tmp_path / "out", "--num-quantizers", 30)
    status, said = run(capsys, *argv)
    assert status == 2 and "--num-quantizers is for Lyra's files only" in said, said


def test_a_converted_language_model_speaks(capsys, tmp_path, prompt, preset):
    """What `convert` writes is a backbone."""
    assert run(capsys, "convert", preset, "-o", tmp_path / "lm")[0] == 0
    argv = ("continue", prompt, "--seconds", 1, "--seed", 1, "--preset", preset, "-o")
    status, said = run(capsys, *argv, tmp_path / "a.wav", "--speech-lm", tmp_path / "lm")
    assert status == 0, said
    assert run(capsys, *argv, tmp_path / "b.wav")[0] == 0
    spoken = [soundfile.read(tmp_path / f"{name}.wav")[0] for name in "ab"]
    np.testing.assert_allclose(*spoken, atol=1e-3)


def help_of(capsys, *words) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--help"])
    assert stop.value.code == 0
    return " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


@pytest.mark.parametrize("words", list(cli.WRAPPED))
def test_wrapped_functions_exist_and_have_help(capsys, words):
    """Every annotation can become an option, and every option has a help text."""
    said = help_of(capsys, *words)
    assert f"speechssm {' '.join(words)}" in said
    # An option explains itself: whoever types commands has no docstrings to look into.
    assert "see `" not in said
    module, name = cli.WRAPPED[words].split(":")
    function = getattr(importlib.import_module(f"keras_speechssm.{module}"), name)
    for option in inspect.signature(cli.make_command(function)).parameters.values():
        assert option.annotation.__metadata__[0].help, option.name


@pytest.mark.parametrize("words", [(), *((group,) for group in cli.GROUPS)])
def test_help_lists_every_command(capsys, words):
    said = help_of(capsys, *words)
    names = [name for group, name in cli.WRAPPED if (group,) == words] or [*cli.GROUPS, "continue"]
    assert all(f" {name} " in said for name in names)


def test_the_default_preset_is_the_package_s():
    assert cli.DEFAULT_PRESET == presets.DEFAULT_PRESET


def test_former_names_of_commands_work(capsys):
    for old, new in cli.RENAMED.items():
        assert f"speechssm {' '.join(new)}" in help_of(capsys, *old)


def test_the_top_level_help_is_fast():
    """It imports neither Keras nor a backend, nor NumPy."""
    code = "import sys; from keras_speechssm import cli\ntry:\n    cli.main(['--help'])\n"
    code += "except SystemExit:\n    print({'keras', 'jax', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@dataclass(kw_only=True)
class SampleConfig:
    """Options of a sample.

    Args:
        steps: How many: 100 % of them.
        config: Sizes.
    """

    steps: int = 3
    config: dict | None = None

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected 1 or more.")


def sample(
    audio_folders: Sequence[str | Path],
    options: SampleConfig,
    *,
    rate: float | None = None,
    names: tuple[str, ...] = ("a",),
    shuffle: bool = True,
    progress: Callable[[str], None] | None = print,
) -> dict:
    """Do something with folders.

    Args:
        audio_folders: Where to look,
            and where not.
        options: Its options.
        rate: How fast.
        names: Who.
        shuffle: Whether to shuffle.

    Returns:
        Its arguments.
    """
    if rate == 0.0:
        raise ValueError("rate is 0.0; give audio_folders, or another rate.")
    return dict(
        folders=audio_folders, options=vars(options), rate=rate, names=names, shuffle=shuffle
    )


@pytest.fixture
def run_sample(monkeypatch, capsys):
    """Runs the command of `sample`; returns what it prints as JSON, or its error."""
    monkeypatch.setitem(cli.WRAPPED, ("train", "sample"), "shapes:sample")
    monkeypatch.setattr("keras_speechssm.shapes.sample", sample, raising=False)

    def call(*argv):
        status = cli.main(["train", "sample", *map(str, argv)])
        printed = capsys.readouterr()
        return printed.err if status else json.loads(printed.out)

    return call


def test_defaults_are_the_function_s(run_sample):
    expected = dict(folders=["x"], rate=None, names=["a"], shuffle=True)
    assert run_sample("--audio-folders", "x") == {
        **expected,
        "options": {"steps": 3, "config": None},
    }


def test_every_kind_of_option(run_sample, tmp_path):
    (tmp_path / "config.json").write_text('{"layers": 2}')
    argv = ["--audio-folders", "x", "y", "--steps", "5", "--rate", "0.5", "--names", "b", "c"]
    for config in (tmp_path / "config.json", '{"layers": 2}'):
        assert run_sample(*argv, "--config", config, "--no-shuffle") == {
            "folders": ["x", "y"],
            "options": {"steps": 5, "config": {"layers": 2}},
            "rate": 0.5,
            "names": ["b", "c"],
            "shuffle": False,
        }


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--audio-folders requires an argument"),
        (["--audio-folders", "x", "--steps", "many"], 'unable to convert "many" into int'),
        (["--audio-folders", "x", "--steps", "2.5"], 'unable to convert "2.5" into int'),
        (["--audio-folders", "x", "--steps", "0"], "--steps is 0; expected 1 or more."),
        (["--audio-folders", "x", "--rate", "0"], "--rate is 0.0; give --audio-folders, or"),
        (["--audio-folders", "x", "--config", "no.json"], "no.json"),
        (["--audio-folders", "x", "--config", "{"], "is not JSON"),
        (["--audio-folders", "x", "--config", "[1]"], "must be a JSON object"),
        (["--audio-folders", "x", "--progress", "y"], "Unknown option: --progress"),
    ],
)
def test_errors_are_one_line_and_name_options_as_typed(run_sample, argv, message):
    said = run_sample(*argv)
    assert said.startswith("speechssm: ") and said.count("\n") == 1 and message in said, said


def test_an_annotation_that_cannot_become_an_option_is_an_error():
    def function(callback: Callable[[str], None] | None = None):
        """Do nothing."""

    with pytest.raises(TypeError, match="callback: .*cannot become an option"):
        cli.make_command(function)


def test_help_comes_from_the_docstrings(run_sample, capsys):
    said = help_of(capsys, "train", "sample")
    assert "Do something with folders." in said and "Where to look, and where not." in said
    assert "How many: 100 % of them. [default: 3]" in said and "Who. [default: a]" in said
    assert "Sizes. JSON, or the path of a JSON file." in said


@pytest.mark.parametrize(
    ("argv", "steps"),
    [([], 3), (["--recipe", "long"], 90), (["--recipe", "long", "--steps", 7], 7)],
)
def test_a_recipe_sets_what_is_not_given(run_sample, monkeypatch, argv, steps):
    monkeypatch.setattr(SampleConfig, "recipes", {"long": {"steps": 90}}, raising=False)
    monkeypatch.setattr(
        SampleConfig, "from_recipe", classmethod(TrainingConfig.from_recipe.__func__), raising=False
    )
    assert run_sample("--audio-folders", "x", *argv)["options"]["steps"] == steps
    said = run_sample("--audio-folders", "x", "--recipe", "short")
    assert said == "speechssm: --recipe is 'short'; expected one of long.\n"


def test_help_lists_the_recipes_and_what_they_set(capsys):
    said = help_of(capsys, "train", "speech-lm")
    assert "finetune: --preset speech_ssm_demo_en --lora-rank 8 --sequence-length 750" in said
    assert "paper: --text-preset hf://google/recurrentgemma-2b-it" in said
    assert "--rematerialize" in said and "demo: --sequence-length 750" in said


def test_continue_hands_its_options_on(capsys, tmp_path, prompt, preset, monkeypatch):
    given = {}

    def stream(self, waveform, **options):
        given.update(options)
        return iter([np.zeros(SAMPLE_RATE, "float32")])

    monkeypatch.setattr(SpeechContinuation, "stream", stream)
    argv = ("continue", prompt, "-o", tmp_path / "a.wav", "--seconds", 1, "--preset", preset)
    options = ("--top-k", 5, "--top-p", 0.9, "--temperature", 0.8, "--seed", 3)
    assert run(capsys, *argv, *options)[0] == 0
    assert given == dict(seconds=1.0, top_k=5, top_p=0.9, temperature=0.8, seed=3)


def test_continue_takes_another_soundstorm(capsys, tmp_path, prompt, preset):
    other = tiny_models()[2]
    other.set_weights([weight + 0.5 for weight in other.get_weights()])
    other.save_to_preset(str(tmp_path / "soundstorm"))
    argv = ("continue", prompt, "--seconds", 1, "--seed", 1, "--preset", preset, "-o")
    storm = ("--soundstorm", tmp_path / "soundstorm")
    assert run(capsys, *argv, tmp_path / "a.wav", *storm)[0] == 0
    assert run(capsys, *argv, tmp_path / "b.wav")[0] == 0
    spoken = [soundfile.read(tmp_path / f"{name}.wav")[0] for name in "ab"]
    assert np.abs(spoken[0] - spoken[1]).max() > 1e-2


def test_messages_are_written_once_and_only_while_a_command_runs(capsys, monkeypatch):
    logger = logging.getLogger("keras_speechssm")
    monkeypatch.setattr(cli, "_run", lambda argv: logger.info("one message"))
    others = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(others)
    try:
        cli.main([])
        assert capsys.readouterr().err == "one message\n"
        before = logger.level, logger.propagate, list(logger.handlers)
        cli.main([])
        assert (logger.level, logger.propagate, list(logger.handlers)) == before
        assert not logger.handlers and logger.propagate
    finally:
        logging.getLogger().removeHandler(others)


@pytest.mark.parametrize(
    ("argv", "option"),
    [
        (
            ("prepare", "contrasts", "--text-folder", "x", "--output-folder", "gs://b"),
            "output-folder",
        ),
        (("train", "speech-lm", "--token-folders", "gs://b", "--output-dir", "x"), "token-folders"),
        (("tokenize", "gs://b/a.wav", "-o", "a.npy"), "audio|gs://b/a.wav"),
    ],
)
def test_buckets_are_refused_where_they_would_become_local_folders(
    capsys, tmp_path, monkeypatch, argv, option
):
    monkeypatch.chdir(tmp_path)
    assert_refused(capsys, tmp_path, *argv, message=f"{option}.*expected a local path")


def test_a_mesh_is_given_by_names_or_numbers():
    seen = []
    command = cli.make_command(importlib.import_module("keras_speechssm.training").train_speech_lm)
    app = cli._new_app("speechssm train speech-lm", "")
    app.default(command)
    for words in (["8"], ["4", "2"], ["data=8,fsdp=2,model=1"], ["data=8", "fsdp=2"]):
        argv = ["--token-folders", "x", "--output-dir", "y", "--device-mesh", *words]
        _, bound, _ = app.parse_args(argv, exit_on_error=False, print_error=False)
        seen.append(list(bound.arguments["device_mesh"]))
    assert seen == [[8], [4, 2], ["data=8,fsdp=2,model=1"], ["data=8", "fsdp=2"]]
