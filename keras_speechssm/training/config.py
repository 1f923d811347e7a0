"""Options of a training run, checked before anything is read, built or written."""

import importlib.util
import inspect
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from keras_speechssm.checks import check_at_least, check_between
from keras_speechssm.files import check_run_config, save_run_config
from keras_speechssm.presets import DEFAULT_PRESET, fetch_folder, read_json_file
from keras_speechssm.shapes import TOKEN_RATE
from keras_speechssm.training.distribution import join_processes, parse_device_mesh

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, frozen=True)
class TrainingConfig:
    """Options that every training run has: data, model, optimizer, schedule, devices and log.

    Subclasses add the options of one trainer. `dataclasses.replace` makes a changed copy.

    Args:
        output_dir: Folder of the run: log, checkpoints, and the trained model in `preset/`.
        validation_folders: Folders of held-out data. The weights with the lowest validation loss
            are kept. Defaults to `None`: the weights with the lowest training loss.
        batch_size: Examples per batch.
        validation_steps: Batches per validation.
        num_workers: Processes that make the training batches. Each takes some seconds to start,
            and up to 1 GB. Use them if a core takes longer for a batch than a step takes, as with
            the measured filters of a source-filter codec. Defaults to `0`: threads of the training
            process.
        preset: Preset of the model to start from. A preset without weights gives a new model of
            its size. Defaults to `None`: a new model of the demo's size.
        model_config: Arguments of the model that replace those of the preset.
        dtype: Dtype policy of the model. `mixed_bfloat16` computes in bfloat16 and keeps float32
            weights. Defaults to `None`: the policy of the preset, or Keras' own.
        seed: Seed of the weights, the batches and the noise.
        learning_rate: Peak of the learning rate.
        beta_1: Adam's decay rate of the first moment.
        beta_2: Adam's decay rate of the second moment.
        weight_decay: Decoupled weight decay (AdamW).
        clip_norm: Largest global norm of the gradients of one step.
        gradient_accumulation_steps: Batches whose gradients are averaged into one step.
        ema_momentum: Momentum per step of moving averages of the weights, which are then
            validated and saved instead of the weights. Defaults to `None`: no averages.
        total_steps: Optimizer steps of the whole run, rounded up to a multiple of
            `steps_per_epoch`.
        steps_per_epoch: Steps between validations, log lines and checkpoints.
        warmup_steps: Steps over which the learning rate rises to its peak.
        final_learning_rate: Last learning rate, as a fraction of the peak. It falls along a
            cosine.
        max_seconds: Training time of the whole run, including earlier sessions. When time runs
            out before the steps do, the learning rate falls with time instead of steps.
            Defaults to `None`: no limit.
        device_mesh: Devices to train on, such as `data=8,fsdp=2,model=1`. `data` times `fsdp`
            devices share each batch; the weights are split over `fsdp` devices; `model` devices
            share the work of each layer (not of codecs). Axes that are left out have size 1.
            A single number is `data`; two numbers are `fsdp` and `model`. JAX only. Defaults to
            `None`: one device, or all devices (`data`) of several processes.
        coordinator: Address `host:port` of process 0 if several processes, on one or many
            hosts, train together; `auto` if JAX knows it (Cloud TPU, SLURM, Open MPI, GKE). All
            processes share `output_dir`. Defaults to `None`: read from the environment, as
            torchrun, SLURM and GKE set it; one process if there is none.
        num_processes: Number of processes. Needs `coordinator`.
        process_id: Number of this process, from 0. Needs `coordinator`.
        keep_presets_every: Steps between presets that are saved to `presets/`, to choose from
            with `speechssm evaluate checkpoints`. Defaults to `None`: none.
        wandb_project: Project of Weights & Biases that losses, options and versions are sent to.
            Needs the package `wandb`; log in first, or set `WANDB_MODE=offline`. Defaults to
            `None`: nothing is sent.

    Raises:
        ValueError: If an option is out of range.
        ModuleNotFoundError: If `wandb_project` is given but `wandb` is not installed.
    """

    # Data
    output_dir: str | Path
    validation_folders: Sequence[str | Path] | None = None
    batch_size: int = 8
    validation_steps: int = 8
    num_workers: int = 0
    # Model
    preset: str | None = None
    model_config: dict | None = None
    dtype: str | None = None
    seed: int = 0
    # Optimizer
    learning_rate: float = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    ema_momentum: float | None = None
    # Schedule
    total_steps: int = 10_000
    steps_per_epoch: int = 100
    warmup_steps: int = 500
    final_learning_rate: float = 0.02
    max_seconds: float | None = None
    # Distribution
    device_mesh: Sequence[int | str] | None = None
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    # Log
    keep_presets_every: int | None = None
    wandb_project: str | None = None

    fixed: ClassVar[tuple[str, ...]] = (
        "preset",
        "model_config",
        "batch_size",
        "gradient_accumulation_steps",
        "steps_per_epoch",
        "ema_momentum",
        "seed",
    )
    """Options that must stay the same when a run is resumed."""

    recipes: ClassVar[dict[str, dict]] = {}
    """Name of a recipe -> the options that it sets."""

    @classmethod
    def from_recipe(cls, recipe: str | None, **options) -> Self:
        """Return the options of a recipe.

        Args:
            recipe: One of `recipes`. `None` sets nothing.
            **options: Further options, which replace those of the recipe. A `preset` or a
                `text_preset` replaces either of them.

        Raises:
            ValueError: If the recipe is unknown, or an option is out of range.

        Example:

        ```python
        from keras_speechssm.training import SpeechLMTrainingConfig

        config = SpeechLMTrainingConfig.from_recipe(
            "finetune", token_folders=["store"], output_dir="run", lora_rank=4
        )
        config.sequence_length  # 750
        ```
        """
        if recipe is not None and recipe not in cls.recipes:
            raise ValueError(f"recipe is {recipe!r}; expected one of {', '.join(cls.recipes)}.")
        settings = dict(cls.recipes[recipe]) if recipe else {}
        if not options.keys().isdisjoint(("preset", "text_preset")):
            settings.pop("preset", None)
            settings.pop("text_preset", None)
        return cls(**{**settings, **options})

    def __post_init__(self):
        self.validate()

    def validate(self) -> None:
        """Check the options.

        Raises:
            ValueError: If an option is out of range.
        """
        self._check_at_least(
            1,
            "batch_size",
            "validation_steps",
            "gradient_accumulation_steps",
            "total_steps",
            "steps_per_epoch",
            "keep_presets_every",
        )
        self._check_at_least(
            0, "num_workers", "seed", "learning_rate", "weight_decay", "warmup_steps"
        )
        self._check_at_least(0, "max_seconds")
        self._check_at_least(1e-9, "clip_norm")
        parse_device_mesh(self.device_mesh)
        if self.wandb_project is not None and importlib.util.find_spec("wandb") is None:
            raise ModuleNotFoundError("No module named 'wandb'", name="wandb")
        self._check_between(0, 1, "final_learning_rate")
        self._check_between(0, 0.999999, "beta_1", "beta_2", "ema_momentum")
        if self.warmup_steps and self.warmup_steps >= self.total_steps:
            # Not an error: the run may be resumed with more steps.
            logger.warning(
                "warmup_steps is %d: the learning rate does not reach its peak in %d steps.",
                self.warmup_steps,
                self.total_steps,
            )

    def _check_at_least(self, least: float, *names: str) -> None:
        check_at_least(least, **{name: getattr(self, name) for name in names})

    def _check_between(self, low: float, high: float, *names: str) -> None:
        check_between(low, high, **{name: getattr(self, name) for name in names})

    @property
    def total_epochs(self) -> int:
        """Number of epochs of the whole run."""
        return -(-self.total_steps // self.steps_per_epoch)

    def join_processes(self) -> None:
        """Connect the processes that train together; see `distribution.join_processes`.

        Raises:
            ValueError: If they cannot be connected.
        """
        join_processes(self.coordinator, self.num_processes, self.process_id)

    def check_resumed(self) -> None:
        """Check that the folder of the run is new, or belongs to a run with the same options.

        Raises:
            ValueError: If the run was started with other options.
        """
        check_run_config(self.output_dir, **self._fixed_options())

    def save(self) -> None:
        """Write the options that must stay the same into the folder of the run."""
        save_run_config(self.output_dir, **self._fixed_options())

    def _fixed_options(self) -> dict:
        options = {name: getattr(self, name) for name in self.fixed}
        return json.loads(json.dumps(options, default=str))


@dataclass(kw_only=True, frozen=True)
class AudioTrainingConfig(TrainingConfig):
    """Options of the trainers that read folders of audio. See `TrainingConfig` for the rest.

    Args:
        audio_folders: Folders of audio files.
        crop_seconds: Seconds of one training example.
    """

    audio_folders: Sequence[str | Path]
    crop_seconds: float = 1.0

    def validate(self) -> None:
        super().validate()
        if not self.audio_folders:
            raise ValueError("audio_folders is empty; expected at least one folder of audio.")
        self._check_at_least(1 / TOKEN_RATE, "crop_seconds")
        for folder in (*self.audio_folders, *(self.validation_folders or ())):
            if not Path(folder).is_dir():
                raise ValueError(f"The folder {folder} does not exist.")

    def _check_folder_weights(self, weights: Sequence[float] | None) -> None:
        if weights is None:
            return
        if len(weights) != len(self.audio_folders):
            raise ValueError(
                f"folder_weights has {len(weights)} numbers for {len(self.audio_folders)} folders."
            )
        check_at_least(0, **{f"folder_weights[{n}]": weight for n, weight in enumerate(weights)})
        if not sum(weights):
            raise ValueError("folder_weights are all zero; at least one must be above zero.")


def check_model_config(
    model_config: dict | None, model: type, decided: tuple[str, ...] = ()
) -> None:
    """Raise `ValueError` for the first name that `model` does not take.

    Args:
        model_config: Arguments by name.
        model: Class whose arguments they are.
        decided: Arguments that must not be given, because they follow from the data.

    Raises:
        ValueError: If an argument is unknown, or must not be given.
    """
    known = {*inspect.signature(model).parameters, "name", "dtype", "trainable"} - {"kwargs"}
    unknown = sorted(set(model_config or {}) - (known - set(decided)))
    if unknown:
        reason = "follows from the data" if unknown[0] in decided else "is not one of its arguments"
        raise ValueError(
            f"model_config of {model.__name__} has {unknown[0]!r}, which {reason}; remove it."
        )


def demo_arguments(part: str) -> dict:
    """Return the arguments of one model of the demo preset, for a new model of its size.

    Args:
        part: One of `keras_speechssm.presets.PARTS`.
    """
    config = read_json_file(Path(fetch_folder(DEFAULT_PRESET, part)))["config"]
    if config.get("lru_width") == config.get("hidden_dim"):
        config.pop("lru_width", None)  # it follows `hidden_dim`
    return {
        name: value
        for name, value in config.items()
        if name not in ("name", "trainable", "dtype", "seed", "sharpness")
    }
