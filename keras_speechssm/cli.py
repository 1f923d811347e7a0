"""The command `speechssm`: every command calls one public function.

Bad input gives one line on stderr and exit status 2, an interrupt exit status 130. The options
are made from signatures and docstrings by cyclopts. (tyro cannot be installed next to
recurrentgemma, which pins typeguard below 3; jsonargparse has no hyphens in option names.)
"""

import ast
import contextlib
import dataclasses
import importlib
import importlib.metadata
import inspect
import json
import logging
import os
import re
import sys
import time
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import docstring_parser
from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError
from cyclopts import convert as convert_tokens
from tqdm import tqdm

# The rest of the package is imported where it is used: even NumPy would slow down `--help`.
from keras_speechssm.shapes import SAMPLE_RATE

DEFAULT_PRESET = "speech_ssm_demo_en"
"""`keras_speechssm.presets.DEFAULT_PRESET`."""

WRAPPED = {
    ("train", "codec"): "training.codec:train_codec",
    ("train", "tokenizer"): "training.tokenizer:train_tokenizer",
    ("train", "soundstorm"): "training.soundstorm:train_soundstorm",
    ("train", "speech-lm"): "training.speech_lm:train_speech_lm",
    ("prepare", "sequences"): "data.prepare:prepare_sequences",
    ("prepare", "token-pairs"): "data.prepare:prepare_token_pairs",
    ("prepare", "synthesized"): "data.recipes.synthesized.synthesis:prepare_synthesized",
    ("prepare", "librispeech-long"): "data.recipes.librispeech_long:prepare_librispeech_long",
    ("prepare", "perturbed"): "data.recipes.synthesized.perturbation:prepare_perturbed",
    ("prepare", "contrasts"): "data.recipes.contrasts:prepare_contrasts",
    ("prepare", "stories"): "data.recipes.stories.spoken_stories:prepare_stories",
    ("prepare", "spoken-stories"): "data.recipes.stories.spoken_stories:prepare_spoken_stories",
    ("prepare", "transcribed"): "data.recipes.transcribed:prepare_transcribed",
    ("prepare", "aligned"): "data.recipes.aligned:prepare_aligned",
    ("evaluate", "codec"): "evaluation.studies.resynthesis:evaluate_codec_preset",
    ("evaluate", "lyra"): "evaluation.studies.lyra:evaluate_lyra_conversion",
    ("evaluate", "resynthesis"): "evaluation.studies.resynthesis:evaluate_resynthesis",
    ("evaluate", "speaker-identity"): (
        "evaluation.studies.speaker_identity:evaluate_speaker_identity"
    ),
    ("evaluate", "phonemes"): "evaluation.studies.phoneme_error:evaluate_phoneme_error",
    ("evaluate", "token-agreement"): "evaluation.studies.token_agreement:evaluate_token_agreement",
    ("evaluate", "speaker-probe"): "evaluation.studies.speaker_probe:evaluate_speaker_probe",
    ("evaluate", "intelligibility"): "evaluation.studies.intelligibility:evaluate_intelligibility",
    ("evaluate", "long-form"): "evaluation.studies.long_form:evaluate_long_form",
    ("evaluate", "confidence"): "evaluation.studies.confidence:evaluate_confidence",
    ("evaluate", "word-cover"): "evaluation.studies.word_cover:evaluate_word_cover",
    ("evaluate", "agreement-of-recognizers"): (
        "evaluation.studies.recognizer_agreement:evaluate_recognizer_agreement"
    ),
    ("evaluate", "story-coherence"): (
        "evaluation.studies.story_coherence:evaluate_story_coherence"
    ),
    ("evaluate", "continuation"): "evaluation.studies.continuation:evaluate_continuation",
    ("evaluate", "speech-lm"): "evaluation.studies.token_perplexity:evaluate_language_model",
    ("evaluate", "generate"): "evaluation.generate:generate_continuations",
    ("evaluate", "continuations"): "evaluation.compare:evaluate_continuations",
    ("evaluate", "loss-by-position"): (
        "evaluation.studies.loss_by_position:evaluate_loss_by_position"
    ),
    ("evaluate", "checkpoints"): "evaluation.studies.checkpoints:evaluate_checkpoints",
    ("evaluate", "listening-test"): "evaluation.listening_test:write_listening_test",
    ("evaluate", "boundary-listening-test"): (
        "evaluation.listening_test:write_boundary_listening_test"
    ),
    ("evaluate", "listening-test-scores"): "evaluation.listening_test:score_listening_test",
    ("evaluate", "zero-speech"): "evaluation.studies.zero_speech:evaluate_zero_speech",
    ("evaluate", "boundaries"): "evaluation.studies.boundaries:evaluate_boundaries",
    ("evaluate", "sanity"): "evaluation.studies.sanity:evaluate_sanity",
    ("bench", "forward"): "benchmarks.griffin:bench_forward",
    ("bench", "train"): "benchmarks.griffin:bench_train",
    ("bench", "decode"): "benchmarks.griffin:bench_decode",
    ("bench", "throughput"): "benchmarks.throughput:bench_throughput",
    ("bench", "synthesis"): "benchmarks.continuation:bench_synthesis",
    ("bench", "continue"): "benchmarks.continuation:bench_continue",
}
"""Commands whose options are the parameters of one function of the package."""

RENAMED = {
    ("evaluate", "voices"): ("evaluate", "speaker-identity"),
    ("evaluate", "agreement"): ("evaluate", "token-agreement"),
    ("evaluate", "words"): ("evaluate", "confidence"),
    ("evaluate", "positions"): ("evaluate", "loss-by-position"),
    ("evaluate", "sheets"): ("evaluate", "listening-test"),
    ("evaluate", "ratings"): ("evaluate", "listening-test-scores"),
}
"""Former names of commands, which still work."""

GROUPS = {
    "train": "Train a model.",
    "prepare": "Prepare data for training or evaluation.",
    "evaluate": "Measure models, and recordings of theirs.",
    "bench": "Measure speed and memory.",
}

NOT_OPTIONS = ("progress",)
"""Parameters of wrapped functions that only Python code can give."""

IN_BUCKETS = {
    ("train",): ("output_dir",),
    ("prepare", "sequences"): ("audio_folders", "output_folder"),
    ("prepare", "token-pairs"): ("audio_folders", "output_folder"),
}
"""Words of a command -> its arguments that may be in a bucket; in others `gs://` is refused."""

MAX_MESSAGE = 1000
"""Characters of an error's line."""

NO_CACHE = "--no-compilation-cache"
"""Option of all commands: compiled programs are not kept for later commands."""

MODULE_PACKAGES = {
    "sklearn": "scikit-learn",
    "libtpu": "jax[tpu]",
    "orbax": "orbax-checkpoint",
    "etils": "orbax-checkpoint",
}
"""Packages whose module has another name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: The words after `speechssm`. Defaults to `None`: those of this process.

    Returns:
        The exit status.

    Raises:
        SystemExit: After `--help` and `--version`.
    """
    with _logs_on_stderr():
        return _run(list(sys.argv[1:] if argv is None else argv))


def _run(argv: list[str]) -> int:
    parameters: Iterable[str] = ()
    try:
        argv = _choose_compilation_cache(argv)
        _skip_tensorflow(argv)
        words = argv
        app, argv = _app_of(argv)
        command, bound, _ = app.parse_args(argv, exit_on_error=False, print_error=False)
        if command in (app.help_print, app.version_print) or not hasattr(command, "is_command"):
            with _for_a_reader():
                command(*bound.args, **bound.kwargs)
            raise SystemExit(0)
        parameters = inspect.signature(command).parameters
        allowed = [IN_BUCKETS.get(tuple(words[:count]), ()) for count in (1, 2)]
        _check_buckets(bound, allowed=(*allowed[0], *allowed[1]))
        result = command(*bound.args, **bound.kwargs)
        if isinstance(result, dict):
            from keras_speechssm.files import to_json

            with _for_a_reader():
                print(to_json(result))
        return 0
    except KeyboardInterrupt as interrupt:
        print(f"speechssm: interrupted{interrupt}.", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(f"speechssm: {_missing_package(str(error.name))}", file=sys.stderr)
        return 2
    except (ValueError, OSError, CycloptsError) as error:
        print(f"speechssm: {_one_line(error, parameters)}", file=sys.stderr)
        return 2


@contextlib.contextmanager
def _for_a_reader() -> Iterator[None]:
    """Print all of the block to stdout, unless its reader leaves, as `head` does."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich ends the program
        _drop(sys.stdout)


def _drop(stdout: typing.IO) -> None:
    """Let stdout lead nowhere: Python flushes it at exit, which must not fail again."""
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), stdout.fileno())


def _choose_compilation_cache(argv: list[str]) -> list[str]:
    """Keep compiled programs for later commands, and return the other words of the command line.

    The environment is set because JAX reads it when a command imports it.
    """
    from keras_speechssm.files import compilation_cache_settings

    if NO_CACHE in argv:
        return [word for word in argv if word != NO_CACHE]
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        for name, value in compilation_cache_settings().items():
            os.environ.setdefault(name.upper(), str(value))
    return argv


def _skip_tensorflow(argv: Sequence[str]) -> None:
    """Keep KerasHub from importing TensorFlow, which takes seconds and prints notes.

    KerasHub uses it for text tokenizers, which only evaluation needs.
    """
    backend = os.environ.setdefault("KERAS_BACKEND", "jax")
    if backend != "tensorflow" and argv[:1] != ["evaluate"] and "keras_hub" not in sys.modules:
        sys.modules.setdefault("tensorflow", None)
        sys.modules.setdefault("tensorflow_text", None)


def _check_buckets(bound: inspect.BoundArguments, allowed: Sequence[str]) -> None:
    """Refuse buckets where only local paths work: `gs://x` would be a local folder `gs:`."""
    from keras_speechssm.files import check_local

    for name, value in bound.arguments.items():
        for path in value if isinstance(value, list | tuple) else [value]:
            if isinstance(path, str | Path) and name not in allowed:
                check_local(name, path)


class _StderrHandler(logging.Handler):
    """Writes records above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


@contextlib.contextmanager
def _logs_on_stderr() -> Iterator[None]:
    """Write the package's messages to stderr, once: handlers of other libraries do not get them."""
    logger, handler = logging.getLogger("keras_speechssm"), _StderrHandler()
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def _one_line(error: Exception, parameters: Iterable[str] = ()) -> str:
    """Return an error's message in one line, with options as the user typed them."""
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:
        message, parameters = f"{os.fspath(error.filename)!r}: {error.strerror}.", ()
    if isinstance(error, UnusedCliTokensError):
        words = " ".join(" ".join(error.unused_tokens or ()).split())
        message = f"unexpected: {words}; see --help for what is expected."
    for name in parameters:
        option = f"--{name.replace('_', '-')}"
        pattern = rf"(?<![\w./'\"-]){name}(?![\w(/.])" if "_" in name else rf"^{name}(?= is )"
        message = re.sub(pattern, option, message)
    # A message may quote a path or a line of a file of any length.
    return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}..."


def _missing_package(module: str) -> str:
    """Return the message that names a missing package, and the extra that installs it."""
    package = MODULE_PACKAGES.get(module, module.replace("_", "-")).lower()
    packages: dict[str, list[str]] = {}  # of each extra; those of the extras it contains too
    for line in importlib.metadata.requires("keras-speechssm") or ():
        if found := re.match(r"([\w-]+).*extra == ['\"](\w+)['\"]", line):
            packages.setdefault(found[2], []).append(found[1].lower())
    extras = [name for name in packages.keys() - {"test", "docs"} if package in packages[name]]
    if extras:
        smallest = min(extras, key=lambda name: (len(packages[name]), name))
        install = f"pip install 'keras-speechssm[{smallest}]', or '.[{smallest}]' in the checkout"
        return f"the package {module} is missing; install the extra {smallest}: {install}."
    return f"the package {module} is missing; install it with pip."


def _app_of(argv: list[str]) -> tuple[App, list[str]]:
    """Return the app of a command line, and the words that it parses."""
    words = RENAMED.get(tuple(argv[:2]), tuple(argv[:2]))
    if words in WRAPPED:
        module, name = WRAPPED[words].split(":")
        function = getattr(importlib.import_module(f"keras_speechssm.{module}"), name)
        app = _new_app(" ".join(("speechssm", *words)), inspect.getdoc(function).split("\n\n")[0])
        app.default(make_command(function))
        return app, argv[2:]
    if not argv or (argv[0] in GROUPS and len(argv) == 1):
        raise ValueError(f"a command is missing (see {' '.join(['speechssm', *argv])} --help).")
    help_text = "Continue speech, and train and evaluate speech language models."
    help_text += f" With {NO_CACHE}, compiled programs are not kept for later commands."
    app = _new_app("speechssm", help_text)
    app.version_flags = ["--version"]
    app.version = lambda: f"keras_speechssm {importlib.metadata.version('keras-speechssm')}"
    for function in (continue_, serve, resynthesize, tokenize, finetune, convert, assemble):
        function.is_command = True
        app.command(function, name=function.__name__.rstrip("_"))
    for group, help_text in GROUPS.items():
        names = [name for known, name in WRAPPED if known == group]
        app.command(sub := _new_app(group, f"{help_text} One of {', '.join(names)}."))
        if argv[:1] == [group]:
            for name in names:
                sub.command(_new_app(name, _summary(WRAPPED[group, name])))
    return app, argv


def _new_app(name: str, help_text: str) -> App:
    return App(
        name=name,
        help=help_text,
        help_format="plaintext",
        version_flags=[],
        default_parameter=Parameter(
            consume_multiple=True,
            converter=_convert,
            negative_iterable=(),
            negative_none=(),
            show_choices=True,
        ),
    )


def _convert(kind, tokens: Sequence):
    """Convert the words of an option. cyclopts alone rounds fractions of integers."""
    kinds = [inner for one in _members(kind) for inner in typing.get_args(one) or (one,)]
    if int in kinds and float not in kinds:
        for token in tokens:
            if re.fullmatch(r"[+-]?\d*\.\d*[1-9]\d*", token.value):
                raise ValueError(f'unable to convert "{token.value}" into int')
    return convert_tokens(kind, tokens)


def _summary(target: str) -> str:
    """Return the first line of a function's docstring without importing its module."""
    module, name = target.split(":")
    path = Path(__file__).parent / f"{module.replace('.', '/')}.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").split("\n\n")[0]
    return ""


def make_command(function: Callable) -> Callable:
    """Return a function whose parameters are keyword options that cyclopts can parse.

    Help texts come from the docstring. The fields of a dataclass, such as a `TrainingConfig`,
    become separate options. A `dict` is JSON, or the path of a JSON file.

    Args:
        function: A function with annotated parameters and a Google-style docstring.

    Raises:
        TypeError: If an annotation cannot become an option.
    """
    parameters: dict[str, inspect.Parameter] = {}
    configs: dict[str, tuple[type, list[str]]] = {}
    docs = _argument_docs(function)
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if name in NOT_OPTIONS:
            continue
        config = next(filter(dataclasses.is_dataclass, _members(parameter.annotation)), None)
        if config is None:
            parameters[name] = _option(name, parameter, docs.get(name, ""))
            continue
        fields = inspect.signature(config, eval_str=True).parameters
        field_docs = _argument_docs(config)
        configs[name] = config, list(fields)
        if recipes := getattr(config, "recipes", None):
            parameters["recipe"] = _recipe_option(recipes)
        for field, option in fields.items():
            parameters[field] = _option(field, option, field_docs.get(field, ""))

    def command(**options):
        recipe = options.pop("recipe", None)
        for name, (config, fields) in configs.items():
            given = {field: options.pop(field) for field in fields if field in options}
            options[name] = config.from_recipe(recipe, **given) if recipe else config(**given)
        return function(**options)

    command.__name__ = function.__name__
    command.__doc__ = inspect.getdoc(function).split("\n\n")[0]
    command.__signature__ = inspect.Signature(list(parameters.values()))
    command.__annotations__ = {name: p.annotation for name, p in parameters.items()}
    command.is_command = True
    return command


def _members(annotation) -> tuple:
    """Return the types of a union, without `None`, or the type alone."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = typing.get_args(annotation)
        return tuple(kind for kind in kinds if kind is not type(None))
    return (annotation,)


def _option(name: str, parameter: inspect.Parameter, text: str) -> inspect.Parameter:
    """Return a keyword parameter with its help text and, for a `dict`, its converter."""
    kinds = _members(parameter.annotation)
    if not all(map(_is_supported, kinds)):
        raise TypeError(f"{name}: {parameter.annotation} cannot become an option.")
    details: dict = {"help": text, "show_default": None}
    if "Defaults to" in text or parameter.default in ((), None):
        details["show_default"] = False
    elif isinstance(parameter.default, list | tuple):
        details["show_default"] = " ".join(map(str, parameter.default))
    if any(kind is dict or typing.get_origin(kind) is dict for kind in kinds):
        details |= {"converter": _read_json, "accepts_keys": False, "n_tokens": 1}
        details["help"] = f"{text} JSON, or the path of a JSON file.".strip()
    annotation = Annotated[parameter.annotation, Parameter(**details)]
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation)


def _recipe_option(recipes: dict[str, dict]) -> inspect.Parameter:
    """Return the option that chooses a recipe, whose help says what each recipe sets."""
    texts = []
    for name, settings in recipes.items():
        words = [
            f"--{option.replace('_', '-')}" + ("" if value is True else f" {value}")
            for option, value in settings.items()
        ]
        texts.append(f"{name}: {' '.join(words)}")
    text = f"Recipe that sets options, unless they are given. {'; '.join(texts)}."
    parameter = inspect.Parameter("recipe", inspect.Parameter.KEYWORD_ONLY, default=None)
    return _option("recipe", parameter.replace(annotation=str | None), text)


def _is_supported(kind) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind in (bool, int, float, str, Path, dict) or origin in (dict, typing.Literal):
        return True
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return all(map(_is_supported, _members(inner[0])))
    return False


def _argument_docs(documented: Callable) -> dict[str, str]:
    """Return the texts under `Args:` by parameter; of a class, those of its bases, too."""
    docs = {}
    for owner in reversed(documented.__mro__) if isinstance(documented, type) else [documented]:
        if isinstance(owner, type) and "__doc__" not in owner.__dict__:
            continue
        parsed = docstring_parser.parse(owner.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
        for entry in parsed.params:
            docs[entry.arg_name] = " ".join((entry.description or "").split())
    return docs


def _read_json(_kind, tokens) -> dict:
    """Convert JSON, or the path of a JSON file, to a dict."""
    text = tokens[0].value
    if not text.lstrip().startswith(("{", "[")):
        text = Path(text).read_text(encoding="utf-8")
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{tokens[0].value!r} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{tokens[0].value!r} must be a JSON object")
    return content


Output = Annotated[str, Parameter(alias="-o")]
FileOrStdout = Annotated[str, Parameter(alias="-o", allow_leading_hyphen=True)]


def continue_(
    prompt: str | None = None,
    /,
    *,
    output: FileOrStdout,
    seconds: float = 60.0,
    preset: str = DEFAULT_PRESET,
    speech_lm: str | None = None,
    soundstorm: str | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    windows: Literal["growing", "paper"] | None = None,
    prompt_seconds: float | None = None,
    keep_prompt: bool = False,
    save_state: str | None = None,
    resume: str | None = None,
) -> None:
    """Continue a recording of speech.

    Args:
        prompt: Recording to continue.
        output: Audio file to write (.wav, .flac, .ogg), or `-` to write a WAV stream to stdout as
            it is made, for example for `ffplay -nodisp -autoexit -` or `aplay`.
        seconds: Seconds of new speech; `inf` continues without end.
        preset: Preset of the pipeline.
        speech_lm: Preset of another language model for the same tokens, such as the `preset/` of
            a training run.
        soundstorm: Preset of another SoundStorm for the same tokens.
        temperature: Temperature of the language model. Defaults to the preset's.
        top_k: Sample from the k most likely tokens only.
        top_p: Sample from the smallest set of tokens whose probabilities sum to at least this.
        seed: The same seed gives the same audio. Defaults to a new one.
        windows: `growing`: blocks of 3, 5, 12, then 23 s, so the first is ready soon. `paper`:
            the paper's plan, blocks of 25, then 23 s. Defaults to the preset's, `growing`.
        prompt_seconds: Use only the first seconds of the prompt.
        keep_prompt: Write the prompt before the new speech.
        save_state: File to save the state to after each block, to resume it after an
            interruption. The speech so far is in a second file, with `.wav` added to its name.
        resume: State of an earlier run to resume, instead of a prompt. The output is the whole
            continuation, as the uninterrupted run would have written it.
    """
    from keras_speechssm.audio.io import (
        MIN_PROMPT_SECONDS,
        AudioWriter,
        WavStream,
        check_output_path,
        read_speech,
    )
    from keras_speechssm.checks import check_at_least, check_between

    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    _check_source(prompt, resume, {**sampling, "windows": windows}, keep_prompt, save_state)
    if prompt is not None:
        _check_apart(prompt, output)
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds}; expected a positive number, or inf.")
    check_at_least(MIN_PROMPT_SECONDS, prompt_seconds=prompt_seconds)
    # The model's own checks are after it is loaded.
    check_at_least(0, temperature=temperature)
    check_at_least(1, top_k=top_k)
    check_between(0, 1, top_p=top_p)
    _check_seed(seed)
    with contextlib.ExitStack() as stack:
        if output == "-":
            stdout = stack.enter_context(_binary_stdout())
        else:
            check_output_path(output)
        waveform = None if prompt is None else read_speech(prompt, duration=prompt_seconds)
        speech = _load(preset, speech_lm=speech_lm, soundstorm=soundstorm)
        start = time.monotonic()  # the call itself reads the prompt and compiles
        total = None if seconds == float("inf") else seconds
        if resume is None:
            options = _given({**sampling, "windows": windows})
            blocks = speech.stream(waveform, seconds=total, **options)
            before = []
        else:
            blocks = speech.resume(resume, seconds=total)
            before = _read_speech_so_far(resume, blocks.state.num_samples)
        rate = speech.sample_rate
        if output == "-":
            writer = WavStream(stdout, rate)
        else:
            writer = stack.enter_context(AudioWriter(output, rate))
        so_far = None
        if save_state is not None:
            # A file that is resumed is kept, in case that this run is interrupted at once.
            known = len(before) if save_state == resume else 0
            file = stack.enter_context(open(f"{save_state}.wav", "r+b" if known else "wb"))
            file.seek(file.truncate(44 + 2 * known if known else 0))
            so_far = WavStream(file, rate, known)
            so_far.write(before[known:])
        writer.write(before if total is None else before[: round(total * rate)])
        if keep_prompt:
            import soxr

            writer.write(soxr.resample(waveform, SAMPLE_RATE, rate))
        progress = _with_progress(blocks, rate, total, start, len(before) / rate)
        try:
            for block in progress:
                writer.write(block)
                if so_far is not None:
                    so_far.write(block)
                    blocks.save_state(save_state)
        except KeyboardInterrupt:
            # The writer keeps a shorter, complete file.
            written = f"{output} has {writer.seconds:.0f} s"
            message = f"; {written if writer.seconds else 'nothing was written'}"
            raise KeyboardInterrupt(message) from None
    print(f"Wrote {'the stream' if output == '-' else output}.", file=sys.stderr)


def _check_source(
    prompt: str | None, resume: str | None, options: dict, keep_prompt: bool, save_state: str | None
) -> None:
    if (prompt is None) == (resume is None):
        raise ValueError("give a recording to continue, or --resume with the state of a run.")
    if resume is not None and (given := _given(options)):
        name = next(iter(given)).replace("_", "-")
        raise ValueError(f"--{name} is in the state that is resumed; remove it.")
    if keep_prompt and (resume or save_state):
        raise ValueError("--keep-prompt cannot be combined with --save-state or --resume.")
    if save_state is not None and not (folder := Path(save_state).absolute().parent).is_dir():
        raise ValueError(f"Cannot write {save_state}: the folder {folder} does not exist; make it.")


@contextlib.contextmanager
def _binary_stdout() -> Iterator[typing.BinaryIO]:
    """Yield stdout for bytes. What libraries print goes to stderr, and not into the stream."""
    if sys.stdout is None:
        raise ValueError(
            "output is -, but stdout is closed; send the stream to a player or a file."
        )
    if sys.stdout.isatty():
        raise ValueError("output is a terminal; send the stream to a player or a file: | aplay")
    stdout = sys.stdout.buffer
    with contextlib.redirect_stdout(sys.stderr):
        try:
            yield stdout
        except BrokenPipeError:
            print("The reader closed the stream.", file=sys.stderr)
            _drop(stdout)


def _read_speech_so_far(state: str, num_samples: int):
    """Read the speech that was made before a state was saved."""
    import numpy as np

    path = Path(f"{state}.wav")
    samples = np.frombuffer(path.read_bytes()[44:], "<i2")[:num_samples]
    if len(samples) < num_samples:
        raise ValueError(f"{path} has less speech than the state {state}; resume is not possible.")
    return samples / np.float32(32768)


def serve(
    *,
    preset: str = DEFAULT_PRESET,
    speech_lm: str | None = None,
    soundstorm: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    max_upload_bytes: int = 20 * 2**20,
    max_prompt_seconds: float = 60.0,
    max_seconds: float = 3600.0,
) -> None:
    """Serve a page and an HTTP service that continue recordings of speech.

    Args:
        preset: Preset of the pipeline.
        speech_lm: Preset of another language model for the same tokens.
        soundstorm: Preset of another SoundStorm for the same tokens.
        host: Address to listen on. By default only this computer can reach the service; use a
            token with other addresses.
        port: Port to listen on.
        token: Secret that requests must have as `Authorization: Bearer TOKEN`. The page takes it
            from its address, `http://HOST:PORT/#token=TOKEN`. Defaults to none.
        max_upload_bytes: Largest recording in bytes.
        max_prompt_seconds: Longest recording in seconds.
        max_seconds: Longest continuation in seconds, unless it is without end.
    """
    from keras_speechssm.serve import app

    limits = app.ServeLimits(max_upload_bytes, max_prompt_seconds, max_seconds)
    speech = _load(preset, speech_lm=speech_lm, soundstorm=soundstorm)
    app.serve(speech, preset, host, port, token, limits)


def resynthesize(
    audio: str, /, *, output: Output, preset: str = DEFAULT_PRESET, seed: int = 0
) -> None:
    """Convert a recording to tokens and back.

    Args:
        audio: Recording.
        output: Audio file to write (.wav, .flac, .ogg).
        preset: Preset of the pipeline.
        seed: Seed of the synthesis.
    """
    from keras_speechssm.audio.io import AudioWriter, check_output_path, read_speech

    _check_apart(audio, output)
    _check_seed(seed)
    check_output_path(output)
    recording = read_speech(audio)
    speech = _load(preset)
    with AudioWriter(output, speech.sample_rate) as writer:
        writer.write(speech.resynthesize(recording, seed=seed))
    print(f"Wrote {output}.", file=sys.stderr)


def tokenize(*audio: str, output: Output, preset: str = DEFAULT_PRESET) -> None:
    """Write the semantic tokens of recordings.

    Args:
        audio: Recordings, or folders of them.
        output: A `.npy` file for one recording, a folder otherwise.
        preset: Preset of the tokenizer, or of a pipeline.
    """
    from keras_speechssm.data.prepare import tokenize_file, tokenize_recordings

    if not audio:
        raise ValueError("audio is missing; give recordings, or folders of them.")
    inputs = [Path(path) for path in audio]
    if len(inputs) == 1 and not inputs[0].is_dir():
        num_tokens = tokenize_file(inputs[0], output, preset)
    else:
        num_tokens = tokenize_recordings(inputs, output, preset)
    print(f"Wrote {num_tokens} tokens to {output}.", file=sys.stderr)


def finetune(
    *recordings: str,
    output: Output,
    preset: str = DEFAULT_PRESET,
    soundstorm: bool = False,
    total_steps: int | None = None,
    soundstorm_steps: int | None = None,
    learning_rate: float | None = None,
    lora_rank: int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    held_out_fraction: float = 0.1,
    workers: int = 1,
) -> dict:
    """Fine-tune on recordings and write a pipeline preset, or resume the run of the same output.

    Args:
        recordings: Folders of recordings, or recordings.
        output: Folder of the preset to write. The data and the log of the run are in a folder
            next to it, with the same name and `.run`.
        preset: Preset of the pipeline to start from.
        soundstorm: Fine-tune SoundStorm, too, which decides the voice.
        total_steps: Steps of the language model. Defaults to ten passes over the recordings, at
            least 100 steps. Rounded up to a multiple of 20.
        soundstorm_steps: Steps of SoundStorm. Rounded up to a multiple of 50. Defaults to 500.
        learning_rate: Peak of the language model's learning rate. Defaults to 0.002.
        lora_rank: Rank of the matrices that are trained. Defaults to 8.
        batch_size: Rows of 30 s per batch. Defaults to 8.
        dtype: Dtype policy of the models, such as `mixed_bfloat16`. Defaults to the preset's.
        seed: Seed of the batches. Defaults to 0.
        held_out_fraction: Fraction of the recordings to hold out, at least one.
        workers: Number of processes that tokenize.
    """
    from keras_speechssm.training.finetune import finetune_pipeline

    if not recordings:
        raise ValueError("recordings is missing; give folders of recordings, or recordings.")
    shared = {"dtype": dtype, "seed": seed}
    speech_lm = {"total_steps": total_steps, "learning_rate": learning_rate, **shared}
    speech_lm |= {"lora_rank": lora_rank, "batch_size": batch_size}
    result = finetune_pipeline(
        recordings,
        output,
        preset=preset,
        soundstorm=soundstorm,
        held_out_fraction=held_out_fraction,
        workers=workers,
        speech_lm_options=_given(speech_lm),
        soundstorm_options=_given({"total_steps": soundstorm_steps, **shared}),
    )
    command = f"speechssm continue recording.wav --preset {output} -o continuation.wav"
    print(f"Wrote {output}. Listen to it: {command}", file=sys.stderr)
    return result


def _given(options: dict) -> dict:
    return {name: value for name, value in options.items() if value is not None}


def convert(
    source: str, /, *, output: Output, to: str = "keras", num_quantizers: int | None = None
) -> None:
    """Convert RecurrentGemma, a Griffin, or Lyra V2.

    Args:
        source: Folder, preset, `hf://` or `kaggle://` handle, or the folder of Lyra's `.tflite`
            files.
        output: Folder to write.
        to: `keras` or `hugging-face`.
        num_quantizers: Levels of Lyra to keep: 16, 30 or 46 for 3.2, 6 or 9.2 kbps. Defaults to
            16.
    """
    from keras_speechssm.models.soundstream.convert_lyra import is_lyra

    if is_lyra(source):
        from keras_speechssm.models.soundstream.convert_lyra import convert_lyra

        if to != "keras":
            raise ValueError(f"to is {to}; Lyra can only be converted to keras.")
        convert_lyra(source, output, num_quantizers or 16)
    else:
        if num_quantizers is not None:
            raise ValueError("num_quantizers is for Lyra's files only; remove it.")
        from keras_speechssm.models.convert import convert_checkpoint

        convert_checkpoint(source, output, to=to)
    print(f"Wrote {output}.", file=sys.stderr)


def assemble(
    *,
    output: Output,
    preset: str = DEFAULT_PRESET,
    semantic_tokenizer: str | None = None,
    speech_lm: str | None = None,
    soundstorm: str | None = None,
    soundstream: str | None = None,
    s3_gen: str | None = None,
) -> None:
    """Make a pipeline preset from trained parts.

    Args:
        output: Folder to write.
        preset: Preset of the parts that are not given.
        semantic_tokenizer: Preset of the semantic tokenizer.
        speech_lm: Preset of the language model.
        soundstorm: Preset of SoundStorm.
        soundstream: Preset of the codec.
        s3_gen: Preset of an S3Gen, which replaces SoundStorm and the codec.
    """
    pipeline = _load(
        preset,
        semantic_tokenizer=semantic_tokenizer,
        speech_lm=speech_lm,
        soundstorm=soundstorm,
        soundstream=soundstream,
        s3_gen=s3_gen,
    )
    pipeline.save_to_preset(output)
    print(f"Wrote {output}.", file=sys.stderr)


def _load(preset: str, **parts: str | None):
    from keras_speechssm.presets import fetch_pipeline

    folder, _ = fetch_pipeline(preset)  # an unknown preset is reported before the slow imports
    from keras_speechssm.pipeline import SpeechContinuation

    print(f"Loading {preset}.", file=sys.stderr)
    return SpeechContinuation.from_preset(folder, **parts)


def _check_apart(recording: str, output: str) -> None:
    if Path(output).exists() and Path(output).samefile(recording):
        raise ValueError(f"output is the recording itself ({output}); use another file.")


def _check_seed(seed: int | None) -> None:
    from keras_speechssm.checks import check_between

    check_between(0, 2**63 - 1, seed=seed)


def _with_progress(
    blocks: Iterator, rate: int, total_seconds: float | None, start: float, done_before: float
) -> Iterator:
    """Yield the blocks, show a progress bar with the time left, and print the speed at the end."""
    done = 0.0
    total = None if total_seconds is None else round(total_seconds, 2)
    options = {"total": total, "initial": round(done_before, 2), "unit": "s", "unit_scale": True}
    with tqdm(**options, disable=None) as bar:
        for block in blocks:
            yield block
            seconds = len(block) / rate
            done += seconds
            bar.update(seconds)
    factor = (time.monotonic() - start) / max(done, 1e-9)
    print(f"{done:.0f} s of speech, real-time factor {factor:.2f}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
