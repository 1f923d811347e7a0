"""Fine-tuning from a folder of recordings to a pipeline preset: `speechssm finetune`."""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from keras_speechssm.checks import check_between
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.data.prepare import prepare_sequences
from keras_speechssm.files import cached_json, check_replaceable, run_lock, save_run_config
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.presets import DEFAULT_PRESET, check_weight_files, fetch_pipeline
from keras_speechssm.shapes import TOKEN_RATE
from keras_speechssm.training.callbacks import read_metrics
from keras_speechssm.training.config import TrainingConfig
from keras_speechssm.training.soundstorm import SoundStormTrainingConfig, train_soundstorm
from keras_speechssm.training.speech_lm import (
    SpeechLMTrainingConfig,
    initial_loss,
    train_speech_lm,
)

logger = logging.getLogger(__name__)

MIN_PASSES = 10
"""By default the language model reads the recordings at least this often."""


def finetune_pipeline(
    recordings: Sequence[str | Path],
    output: str | Path,
    *,
    preset: str = DEFAULT_PRESET,
    soundstorm: bool = False,
    held_out_fraction: float = 0.1,
    workers: int = 1,
    speech_lm_options: dict | None = None,
    soundstorm_options: dict | None = None,
) -> dict:
    """Fine-tune a pipeline on recordings of speech and save it as a preset.

    Holds out some of the recordings, tokenizes all, trains LoRA matrices of the language model
    (and SoundStorm, if asked), and combines the parts. The preset appears at the end,
    atomically. What is needed to resume is in a folder next to it, `<output>.run`: if
    interrupted at any point, call the function again with the same arguments. Called with more
    steps, it trains further.

    Args:
        recordings: Folders of recordings, or recordings; at least two recordings.
        output: Folder of the new preset.
        preset: Preset of the pipeline to start from.
        soundstorm: Whether to fine-tune SoundStorm as well, which decides the voice.
        held_out_fraction: Fraction of the recordings that is held out to select the best
            weights, at least one recording.
        workers: Number of processes that tokenize.
        speech_lm_options: Options of `SpeechLMTrainingConfig` that replace those of its recipe
            `finetune`. `total_steps` defaults to ten passes over the recordings, at least 100
            steps.
        soundstorm_options: Options of `SoundStormTrainingConfig` that replace those of its
            recipe `finetune`.

    Returns:
        dict: `preset` and `run`, the folders; `recordings` and `held_out_recordings`, their
        numbers; `hours` of the recordings; `steps`; `held_out_loss_before` and `held_out_loss`
        in nats per token.

    Raises:
        ValueError: If there are fewer than two recordings, too many are unreadable, `preset` is
            not a pipeline with weights, `output` cannot become a preset, or the run was started
            with other recordings or options.

    Example:

    ```python
    from keras_speechssm import SpeechContinuation
    from keras_speechssm.training import finetune_pipeline

    finetune_pipeline(["recordings"], "mine")
    speech = SpeechContinuation.from_preset("mine")
    ```
    """
    output = Path(output)
    run = output.absolute().with_name(f"{output.absolute().name}.run")
    # Links to recordings that an earlier call made are not recordings.
    paths = [path for path in find_audio(recordings) if run not in path.absolute().parents]
    train, held_out = split_recordings(paths, held_out_fraction)
    _check_preset(preset)
    _check_output(output, run)
    fixed = {"recordings": _describe(paths), "held_out_fraction": held_out_fraction}
    save_run_config(run, preset=str(preset), **fixed)
    with run_lock(run):
        config, hours = _prepare(run, preset, train, held_out, workers, speech_lm_options or {})
        key = {"preset": str(preset), "sequence_length": config.sequence_length}
        before = cached_json(run / "before.json", key, lambda: initial_loss(config))
        logger.info(
            "Training the language model for %d steps. Held-out loss before: %.3f nats per token.",
            _num_steps(config),
            before,
        )
        train_speech_lm(config)
        after = min(line["val_loss"] for line in read_metrics(run / "speech_lm" / "metrics.jsonl"))
        _report(before, after)
        parts = {"speech_lm": run / "speech_lm" / "preset"}
        if soundstorm:
            config_of_voice = _soundstorm_config(
                run, preset, train, held_out, soundstorm_options or {}
            )
            logger.info("Training SoundStorm for %d steps.", _num_steps(config_of_voice))
            train_soundstorm(config_of_voice)
            parts["soundstorm"] = run / "soundstorm" / "preset"
        result = {
            "recordings": len(train),
            "held_out_recordings": len(held_out),
            "hours": hours,
            "steps": _num_steps(config),
            "held_out_loss_before": round(before, 4),
            "held_out_loss": round(after, 4),
        }
        _assemble(output, preset, parts, result)
    return {"preset": str(output), "run": str(run), **result}


def split_recordings(
    paths: Sequence[Path], held_out_fraction: float
) -> tuple[list[Path], list[Path]]:
    """Split recordings into those to train on and those to hold out, evenly over their names.

    Args:
        paths: The recordings, in order.
        held_out_fraction: Fraction to hold out, above 0 and at most 0.5.

    Returns:
        The paths to train on and those to hold out, at least one of each.

    Raises:
        ValueError: If there are fewer than two recordings.
    """
    check_between(1e-6, 0.5, held_out_fraction=held_out_fraction)
    if len(paths) < 2:
        raise ValueError(
            f"There is only one recording ({', '.join(map(str, paths))}); expected at least 2, "
            "because one is held out. Cut a long recording into several files."
        )
    count = max(1, round(held_out_fraction * len(paths)))
    places = {(2 * number + 1) * len(paths) // (2 * count) for number in range(count)}
    train = [path for place, path in enumerate(paths) if place not in places]
    return train, [paths[place] for place in sorted(places)]


def _describe(paths: Sequence[Path]) -> str:
    """Return a short description of recordings that differs for other recordings."""
    lines = sorted(f"{path.name} {path.stat().st_size}" for path in paths)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return f"{len(paths)} files with the checksum {digest[:8]}"


def _check_preset(preset: str) -> None:
    folder, config = fetch_pipeline(preset)
    for name in config["parts"].values():
        check_weight_files(Path(folder) / name)


def _check_output(output: Path, run: Path) -> None:
    check_replaceable(output.absolute())
    if output.is_dir() and any(output.iterdir()) and not (output / "config.json").is_file():
        raise ValueError(
            f"{output} is not a preset and not empty; use a new folder for the preset."
        )
    if run.is_dir() and any(run.iterdir()) and not (run / "options.json").is_file():
        raise ValueError(f"{run} is not a run of this command; rename it, or use another output.")


def _prepare(
    run: Path, preset: str, train: list[Path], held_out: list[Path], workers: int, options: dict
) -> tuple[SpeechLMTrainingConfig, float]:
    """Tokenize the recordings; return how to train the language model, and their hours."""
    tokens = {"train": train, "held_out": held_out}
    config = SpeechLMTrainingConfig.from_recipe(
        "finetune",
        **{
            "token_folders": [run / "tokens" / "train"],
            "validation_folders": [run / "tokens" / "held_out"],
            "output_dir": run / "speech_lm",
            "preset": preset,
            **options,
        },
    )
    logger.info(
        "Tokenizing %d recordings, %d of them held out.", len(train) + len(held_out), len(held_out)
    )
    counts = {
        name: prepare_sequences(
            paths,
            run / "tokens" / name,
            preset=preset,
            target_seconds=max(1.0, config.sequence_length / TOKEN_RATE),
            drop_last_seconds=0.0,
            workers=workers,
        )
        for name, paths in tokens.items()
    }
    if "total_steps" not in options:
        tokens_per_step = (
            config.batch_size * config.gradient_accumulation_steps * config.sequence_length
        )
        passes = -(-MIN_PASSES * counts["train"]["tokens"] // tokens_per_step)
        config = dataclasses.replace(config, total_steps=max(config.total_steps, passes))
    return config, round(sum(count["hours"] for count in counts.values()), 3)


def _num_steps(config: TrainingConfig) -> int:
    return config.total_epochs * config.steps_per_epoch  # the last epoch is whole


def _report(before: float, after: float) -> None:
    change = after / before - 1
    logger.info("Held-out loss: %.3f before, %.3f after (%+.0f %%).", before, after, 100 * change)
    if change >= 0:
        logger.warning(
            "The held-out loss did not fall; use more recordings, or a lower learning_rate."
        )


def _soundstorm_config(
    run: Path, preset: str, train: list[Path], held_out: list[Path], options: dict
) -> SoundStormTrainingConfig:
    """Link the recordings into folders; return how to train SoundStorm on them."""
    for name, paths in (("train", train), ("held_out", held_out)):
        folder = run / "recordings" / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(paths):
            link = folder / f"{number:06d}{path.suffix}"
            if not link.is_symlink():
                link.symlink_to(path.resolve())
    return SoundStormTrainingConfig.from_recipe(
        "finetune",
        **{
            "audio_folders": [run / "recordings" / "train"],
            "validation_folders": [run / "recordings" / "held_out"],
            "output_dir": run / "soundstorm",
            **dict.fromkeys(("preset", "tokenizer_preset", "codec_preset"), preset),
            **options,
        },
    )


def _assemble(output: Path, preset: str, parts: dict[str, Path], result: dict) -> None:
    speech = SpeechContinuation.from_preset(preset, **parts)
    about = {**(speech.metadata or {}), "fine_tuning": {"preset": str(preset), **result}}
    about.pop("parts_of_other_presets", None)  # paths of this machine
    speech.save_to_preset(output, about)
