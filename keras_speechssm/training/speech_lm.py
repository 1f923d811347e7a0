"""Training of a speech language model on semantic tokens."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import keras
import keras_hub

from keras_speechssm.data.packing import PackedSequences
from keras_speechssm.data.token_store import TokenSource, open_tokens
from keras_speechssm.models.griffin.griffin_backbone import GriffinBackbone
from keras_speechssm.models.preset_mixin import initialize_from_preset
from keras_speechssm.models.speech_ssm.speech_ssm import SpeechSSM
from keras_speechssm.models.speech_transformer.speech_transformer import SpeechTransformer
from keras_speechssm.presets import DEFAULT_PRESET, is_trained
from keras_speechssm.training.config import TrainingConfig, check_model_config, demo_arguments
from keras_speechssm.training.distribution import batch_shards, distributed, save_preset
from keras_speechssm.training.trainer import ValidationBatches, fit_resumable, make_optimizer

BACKBONES = {
    "speech_ssm": (SpeechSSM, GriffinBackbone),
    "speech_transformer": (SpeechTransformer, keras_hub.models.GemmaBackbone),
}
"""The models that can be trained, and their backbones."""

NOT_DECAYED = ("bias", "scale", "a_param")
"""Weight decay leaves out biases, gains and the decay parameters of the recurrences."""


# The defaults are the paper's; this adds where it starts, and what saves memory.
_PAPER = {
    "text_preset": "hf://google/recurrentgemma-2b-it",
    "dtype": "mixed_bfloat16",
    "rematerialize": True,
}


@dataclass(kw_only=True, frozen=True)
class SpeechLMTrainingConfig(TrainingConfig):
    """Options of `train_speech_lm`. See `TrainingConfig` for the rest.

    The defaults are the paper's recipe (section 5, appendix B.1): AdamW with a learning rate of
    5e-4 and a weight decay of 0.6, a warm-up of 1,000 steps, a cosine to a twentieth, and 100,000
    steps of 128 sequences of 4 min (here 16 times 8). The recipes `paper-30s`, `paper-4min` and
    `paper-16min` have the paper's three lengths: 512 sequences of 750 tokens, 128 of 5,760, and 32
    of 24,000. `paper-x` is SpeechSSM-X (appendix B.4): sequences of up to 16 min, prepared with
    `--speech spontaneous --target-seconds 960`.

    Args:
        token_folders: Stores of `speechssm prepare sequences`, or folders of tokens that
            `speechssm tokenize` wrote, of one tokenizer.
        model: `speech_ssm`, or `speech_transformer`, the paper's baseline, whose `max_length` is
            `sequence_length`. Both keep the recordings in a row apart: SpeechSSM resets its state
            at their starts, and the baseline does not attend across them.
        text_preset: Preset of a RecurrentGemma (or Gemma) to start from. All of its weights are
            used, except the embeddings of words.
        lora_rank: Rank of the low-rank matrices to train instead of the weights. Needs `preset`
            or `text_preset`, whose new token embeddings are trained as well. Defaults to `None`:
            all weights are trained.
        sequence_length: Tokens per row (5,760 are 4 min without the last 10 s).
        rematerialize: Whether to store only the inputs of each block for the gradient and
            recompute the rest, which saves memory.
    """

    token_folders: Sequence[str | Path]
    model: str = "speech_ssm"
    text_preset: str | None = None
    lora_rank: int | None = None
    sequence_length: int = 5760
    rematerialize: bool = False
    batch_size: int = 8
    gradient_accumulation_steps: int = 16
    total_steps: int = 100_000
    warmup_steps: int = 1000
    learning_rate: float = 5e-4
    final_learning_rate: float = 0.05
    weight_decay: float = 0.6
    beta_2: float = 0.98

    fixed: ClassVar[tuple[str, ...]] = (
        "model",
        "text_preset",
        "lora_rank",
        "sequence_length",
        *TrainingConfig.fixed,
    )

    recipes: ClassVar[dict[str, dict]] = {
        # LoRA on minutes to hours of recordings.
        "finetune": {
            "preset": DEFAULT_PRESET,
            "lora_rank": 8,
            "sequence_length": 750,
            "gradient_accumulation_steps": 1,
            "total_steps": 100,
            "steps_per_epoch": 20,
            "warmup_steps": 20,
            "learning_rate": 2e-3,
            "weight_decay": 0.01,
        },
        "paper": _PAPER,
        **{
            f"paper-{name}": {
                **_PAPER,
                "sequence_length": length,
                "batch_size": batch_size,
                "gradient_accumulation_steps": accumulation,
            }
            for name, length, batch_size, accumulation in (
                ("30s", 750, 64, 8),
                ("4min", 5760, 8, 16),
                ("16min", 24_000, 2, 16),
                ("x", 24_000, 2, 16),
            )
        },
        # How the demo's language model was trained, in its second run.
        "demo": {
            "sequence_length": 750,
            "batch_size": 2,
            "gradient_accumulation_steps": 1,
            "total_steps": 9500,
            "steps_per_epoch": 50,
            "warmup_steps": 100,
            "learning_rate": 3e-3,
            "final_learning_rate": 0.02,
            "weight_decay": 0.1,
        },
    }

    def validate(self) -> None:
        super().validate()
        if not self.token_folders:
            raise ValueError("token_folders is empty; expected at least one folder of tokens.")
        self._check_at_least(1, "lora_rank")
        self._check_at_least(2, "sequence_length")
        if self.preset is not None and self.text_preset is not None:
            raise ValueError("preset and text_preset are both given; a model starts from one.")
        if self.lora_rank and not (self.text_preset or self.preset):
            raise ValueError(
                "lora_rank needs trained weights to start from; set preset or text_preset."
            )
        if self.model not in BACKBONES:
            raise ValueError(f"model is {self.model!r}; expected {' or '.join(BACKBONES)}.")
        check_model_config(self.model_config, BACKBONES[self.model][1], ("vocabulary_size",))


def train_speech_lm(config: SpeechLMTrainingConfig) -> SpeechSSM | SpeechTransformer:
    """Train a speech language model on tokens, or resume the run of the same folder.

    Args:
        config: The options. See `SpeechLMTrainingConfig`.

    Returns:
        The trained model. It is also saved to `preset/` in `output_dir`.

    Raises:
        ValueError: If the tokens are of different vocabularies, or of another one than the
            preset's, there are too few of them, or the run was started with other options.

    Example:

    ```python
    from keras_speechssm.training import SpeechLMTrainingConfig, train_speech_lm

    config = SpeechLMTrainingConfig(
        token_folders=["store"], output_dir="run", preset="speech_ssm_demo_en", lora_rank=8
    )
    model = train_speech_lm(config)  # doctest: +SKIP
    ```
    """
    config.join_processes()
    config.check_resumed()
    source = open_tokens(config.token_folders)
    make_batch, validation_batches = _make_batches(config, source)  # before a model is built
    keras.utils.set_random_seed(config.seed)
    with distributed(config.device_mesh, _layout_map(config), config.batch_size):
        model = make_model(config, source.vocabulary_size)
        if config.lora_rank is not None:
            model.backbone.enable_lora(config.lora_rank)
            if config.text_preset is not None or not is_trained(config.preset):
                model.backbone.token_embedding.trainable = True  # New, so it has to learn.
        model.compile(
            optimizer=make_optimizer(config, NOT_DECAYED),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=None,
        )
        if not model.packs_sequences:
            make_batch, validation_batches = _make_batches(config, source, pack=False)
        fit_resumable(model, make_batch, config, validation_batches=validation_batches)
        save_preset(model, config.output_dir, "preset")
    return model


def _layout_map(config: SpeechLMTrainingConfig) -> Callable:
    return lambda mesh: BACKBONES[config.model][1].get_layout_map(mesh, "model", "fsdp")


def initial_loss(config: SpeechLMTrainingConfig) -> float:
    """Return the validation loss before the first step, in nats per token.

    Args:
        config: The options. `validation_folders` must be given.
    """
    vocabulary_size = open_tokens(config.token_folders).vocabulary_size
    keras.utils.set_random_seed(config.seed)
    with distributed(config.device_mesh, _layout_map(config), config.batch_size):
        model = make_model(config, vocabulary_size)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(loss=loss, weighted_metrics=None)
        batches = _held_out_batches(config, vocabulary_size, model.packs_sequences)
        result = model.evaluate(ValidationBatches(batches), verbose=0, return_dict=True)
    return result["loss"]


def make_model(
    config: SpeechLMTrainingConfig, vocabulary_size: int
) -> SpeechSSM | SpeechTransformer:
    """Build the model that training starts from.

    Args:
        config: Options of the run.
        vocabulary_size: Number of semantic tokens.

    Raises:
        ValueError: If the preset has another vocabulary.
    """
    task, backbone = BACKBONES[config.model]
    sizes = {**({"dtype": config.dtype} if config.dtype else {}), **(config.model_config or {})}
    scope: contextlib.AbstractContextManager = contextlib.nullcontext()
    if task is SpeechTransformer:
        length = {"max_length": config.sequence_length}
        if config.rematerialize:  # KerasHub's backbone has no such argument
            blocks = [f"decoder_block_{number}" for number in range(256)]
            scope = keras.RematScope("list_of_layers", layer_names=blocks)
    else:
        length = {}
        if config.rematerialize:
            sizes["rematerialize"] = True
    with scope:
        if config.text_preset is not None:
            sizes["vocabulary_size"] = vocabulary_size
            return task.from_text_preset(config.text_preset, **length, **sizes)
        if config.preset is None:
            demo = demo_arguments("speech_lm")
            if task is SpeechTransformer:
                demo = _transformer_arguments(demo)
            return task(backbone(**{**demo, **sizes, "vocabulary_size": vocabulary_size}), **length)
        if not is_trained(config.preset):  # one of the paper's size
            sizes["vocabulary_size"] = vocabulary_size
        model = initialize_from_preset(task, config.preset, **length, **sizes)
        # Training reads tokens, and checkpoints would hold the tokenizer of a pipeline too.
        model.preprocessor.tokenizer = None
    found = model.backbone.vocabulary_size
    _check_vocabulary(found, vocabulary_size, f"preset {config.preset!r}")
    return model


def _transformer_arguments(griffin: dict) -> dict:
    """Return the arguments of a Gemma with as many parameters as a Griffin (within 0.1 %)."""
    width, heads, layers = griffin["hidden_dim"], griffin["num_heads"], griffin["num_layers"]
    pattern = [griffin["block_pattern"][n % len(griffin["block_pattern"])] for n in range(layers)]
    recurrences = pattern.count("recurrent")
    # A recurrence has one matrix more than attention. Besides, Griffin has biases: of the
    # feedforward layer, of the recurrence and its convolution, and of attention.
    extra = recurrences * (width * width + 11 * width) + (layers - recurrences) * width
    extra += layers * (2 * griffin["intermediate_dim"] + width)
    # A wider feedforward layer, of three matrices, makes up for it.
    intermediate_dim = griffin["intermediate_dim"] + extra / layers / (3 * width)
    return {
        "num_layers": layers,
        "hidden_dim": width,
        "intermediate_dim": 2 * round(intermediate_dim),  # both branches of the gated layer
        "num_query_heads": heads,
        "num_key_value_heads": 1,
        "head_dim": width // heads,
    }


def _make_batches(
    config: SpeechLMTrainingConfig, source: TokenSource, pack: bool = True
) -> tuple[Callable[[int], tuple], list[tuple] | None]:
    rows = PackedSequences(source.lengths, source.read, config.sequence_length, config.seed, pack)
    held_out = None
    if config.validation_folders:
        held_out = _held_out_batches(config, source.vocabulary_size, pack)
    return rows.batches(config.batch_size), held_out


def _held_out_batches(
    config: SpeechLMTrainingConfig, vocabulary_size: int, pack: bool
) -> list[tuple]:
    source = open_tokens(config.validation_folders)
    _check_vocabulary(source.vocabulary_size, vocabulary_size, "validation_folders")
    length, batch_size = config.sequence_length, config.batch_size
    rows = PackedSequences(source.lengths, source.read, length, config.seed, pack)
    devices = batch_shards(config.device_mesh)
    if min(len(rows), batch_size) % devices:
        raise ValueError(
            f"validation_folders give {len(rows)} rows of {length} tokens, which {devices} devices "
            "cannot share; add recordings."
        )
    return rows.held_out_batches(batch_size, config.validation_steps)


def _check_vocabulary(found: int, expected: int, name: str) -> None:
    if found != expected:
        raise ValueError(
            f"The training tokens have a vocabulary of {expected}, but {name} has {found}; "
            "tokenize all recordings with the tokenizer of the preset."
        )
