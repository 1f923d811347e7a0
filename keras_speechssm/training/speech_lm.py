"""Training a speech language model on semantic tokens: next-token loss on packed sequences."""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

import keras
import keras_hub

from keras_speechssm.checks import check_at_least, check_between
from keras_speechssm.data.packing import PackedSequences
from keras_speechssm.data.token_store import open_tokens
from keras_speechssm.files import check_run_config, save_run_config
from keras_speechssm.models.griffin.griffin_backbone import GriffinBackbone
from keras_speechssm.models.preset_mixin import initialize_from_preset
from keras_speechssm.models.speech_ssm.speech_ssm import SpeechSSM
from keras_speechssm.models.speech_transformer.speech_transformer import SpeechTransformer
from keras_speechssm.training.callbacks import PresetCheckpoint
from keras_speechssm.training.config import check_model_config, check_schedule
from keras_speechssm.training.distribution import distributed
from keras_speechssm.training.trainer import fit_resumable

DEFAULT_CONFIG = {
    "num_layers": 6,
    "hidden_dim": 256,
    "intermediate_dim": 768,
    "num_heads": 4,
    "attention_window": 512,
    "use_rotary": False,
}
"""About 5 million parameters (the demo has 4 layers, 3.3 million); the tokens give
`vocabulary_size`."""

DEFAULT_TRANSFORMER_CONFIG = {
    "num_layers": 6,
    "hidden_dim": 256,
    "intermediate_dim": 1660,  # both branches of the gated MLP
    "num_query_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
}
"""The Transformer of that size: as many parameters (to 0.1 %), of Gemma's form."""

MODELS = {
    "speech_ssm": (SpeechSSM, GriffinBackbone, DEFAULT_CONFIG),
    "speech_transformer": (
        SpeechTransformer,
        keras_hub.models.GemmaBackbone,
        DEFAULT_TRANSFORMER_CONFIG,
    ),
}
"""What can be trained: the model, its backbone, the backbone's default config."""


KEPT_OPTIONS = (
    "model",
    "preset",
    "text_preset",
    "model_config",
    "lora_rank",
    "sequence_length",
    "batch_size",
    "gradient_accumulation_steps",
    "steps_per_epoch",
    "ema_momentum",
    "seed",
)
"""Options that a run cannot change half way."""


def make_optimizer(
    learning_rate: float = 5e-4,
    weight_decay: float = 0.6,
    clip_norm: float = 1.0,
    gradient_accumulation_steps: int = 1,
    ema_momentum: float | None = None,
) -> keras.optimizers.Optimizer:
    """AdamW, clipped by the global norm; `ema_momentum` is that of a step.

    Biases, gains and the decay parameters of the recurrences are not decayed.
    """
    averages = {}
    if ema_momentum is not None:
        # Keras averages after each batch, though weights change after the last of a step only.
        momentum = ema_momentum ** (1.0 / gradient_accumulation_steps)
        averages = {"use_ema": True, "ema_momentum": momentum}
    optimizer = keras.optimizers.AdamW(
        learning_rate,
        weight_decay=weight_decay,
        beta_2=0.98,
        global_clipnorm=clip_norm,
        gradient_accumulation_steps=(
            gradient_accumulation_steps if gradient_accumulation_steps > 1 else None
        ),
        **averages,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "scale", "a_param"])
    return optimizer


def train_speech_lm(
    token_folders: Sequence[str | PathLike],
    output_dir: str | PathLike,
    *,
    validation_folders: Sequence[str | PathLike] | None = None,
    model: str = "speech_ssm",
    preset: str | None = None,
    text_preset: str | None = None,
    model_config: dict | None = None,
    lora_rank: int | None = None,
    dtype: str | None = None,
    rematerialize: bool = False,
    device_mesh: Sequence[int] | None = None,
    sequence_length: int = 6000,
    batch_size: int = 8,
    gradient_accumulation_steps: int = 16,
    total_steps: int = 100_000,
    warmup_steps: int = 1000,
    steps_per_epoch: int = 100,
    learning_rate: float = 5e-4,
    final_learning_rate: float = 0.05,
    weight_decay: float = 0.6,
    clip_norm: float = 1.0,
    ema_momentum: float | None = None,
    validation_steps: int = 8,
    keep_presets_every: int | None = None,
    seed: int = 0,
    max_seconds: float | None = None,
) -> SpeechSSM | SpeechTransformer:
    """Trains a speech language model on tokens; run again, it goes on where it stopped.

    The defaults are the paper's recipe (section 5, appendix B.1): AdamW at 5e-4 with a weight
    decay of 0.6, 1,000 steps of warm-up, a cosine to a twentieth, 100,000 steps of 768,000
    tokens (here 16 times 8 sequences of 4 min).

    Args:
        token_folders: stores of `speechssm prepare sequences`, or folders of tokens that
            `speechssm tokenize` wrote; of one tokenizer.
        output_dir: folder of the run; the trained model is written to `preset/` in it.
        validation_folders: the same of held-out recordings; the best weights on them are
            kept. Defaults to `None`: the training loss selects.
        model: `speech_ssm`, or `speech_transformer`: the paper's baseline, whose `max_length`
            is `sequence_length`. It reads a row as one sequence, SpeechSSM forgets what came
            before a recording.
        preset: of such a model to train on from, such as `speech_ssm_demo_en`, or one without
            weights to begin anew, such as `speech_ssm_2b`.
        text_preset: of a RecurrentGemma (or a Gemma) whose weights the model begins with, all
            but its embeddings of words.
        model_config: arguments of `GriffinBackbone` (or KerasHub's `GemmaBackbone`), over
            those of the preset or, without any, over the demo's.
        lora_rank: int. Trains low-rank matrices of this rank only. Defaults to `None`.
        dtype: policy of the model. `mixed_bfloat16` computes in bfloat16 on float32 weights.
            Defaults to the preset's, or Keras' own.
        rematerialize: keeps only the blocks' inputs for the gradient, and computes the rest
            again.
        device_mesh: devices that share each batch, `8`, each of them with the whole model; with
            a second number, devices that share each layer, `4 2` or `8 1`, the weights lie in
            shares on all of them. JAX only. Defaults to one device.
        sequence_length: int. Tokens of a row (6,000 are 4 min).
        batch_size: int. Rows at once.
        gradient_accumulation_steps: int. Batches whose gradients make one step.
        total_steps: int. Optimizer steps.
        warmup_steps: int. Steps over which the learning rate rises.
        steps_per_epoch: int. Steps between validations and checkpoints; the learning rate
            changes with them.
        learning_rate: float. Peak of AdamW's learning rate, which falls along a cosine.
        final_learning_rate: float. What it falls to, as a share of the peak.
        weight_decay: float. AdamW's, of all weights but biases, gains and decays.
        clip_norm: float. Largest norm of a step's gradients.
        ema_momentum: float. Validates and keeps moving averages of the weights with this
            momentum. Defaults to `None`: none.
        validation_steps: int. Batches of a validation.
        keep_presets_every: int. Steps between the presets that are kept in `presets/`, for
            `speechssm evaluate checkpoints` to choose from as the paper does. Defaults to
            `None`: none.
        seed: int. Seed of the weights and of the order of the rows.
        max_seconds: float or `None`. Training time of the whole run, the sessions before
            counted; the learning rate has fallen to its end by then. A run that is to go on
            wants a larger number.

    Returns:
        The trained model.

    Raises:
        ValueError: folders of different vocabularies or another than the preset's, too few
            tokens, arguments that exclude one another or are out of range, a run that was begun
            with others, or a loss that is no number any more.
    """
    options = dict(locals())
    _check_options(options)
    kept = {name: options[name] for name in KEPT_OPTIONS}
    check_run_config(output_dir, **kept)
    source = open_tokens(token_folders)
    rows = PackedSequences(source.lengths, source.read, sequence_length, seed)
    make_batch, validation_batches = rows.batches(batch_size), None
    if validation_folders:
        validation_batches = _held_out_batches(options, source.vocabulary_size)
    if model == "speech_transformer":
        make_batch, validation_batches = _without_resets(make_batch, validation_batches)
    callbacks = []
    if keep_presets_every is not None:
        folder = Path(output_dir) / "presets"
        callbacks = [PresetCheckpoint(folder, keep_presets_every, steps_per_epoch)]
    keras.utils.set_random_seed(seed)
    with distributed(device_mesh, MODELS[model][1].get_layout_map, batch_size):
        config = {**({"dtype": dtype} if dtype else {}), **(model_config or {})}
        with _rematerialized(rematerialize):
            speech_lm = make_model(
                model, source.vocabulary_size, preset, text_preset, sequence_length, config
            )
        if lora_rank is not None:
            speech_lm.backbone.enable_lora(lora_rank)
        speech_lm.compile(
            optimizer=make_optimizer(
                learning_rate, weight_decay, clip_norm, gradient_accumulation_steps, ema_momentum
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=None,
        )
        save_run_config(output_dir, **kept)  # now that they are known to work
        fit_resumable(
            speech_lm,
            make_batch,
            output_dir,
            learning_rate=learning_rate,
            total_steps=total_steps,
            steps_per_epoch=steps_per_epoch,
            batches_per_step=gradient_accumulation_steps,
            warmup_steps=warmup_steps,
            final_learning_rate=final_learning_rate,
            validation_batches=validation_batches,
            max_seconds=max_seconds,
            callbacks=callbacks,
        )
        speech_lm.save_to_preset(str(Path(output_dir) / "preset"))
    return speech_lm


def _check_options(options: dict) -> None:
    """Refuses options of `train_speech_lm` that are out of range."""
    if not options["token_folders"]:
        raise ValueError("token_folders is empty: give at least one folder of tokens.")

    def among(*names: str) -> dict:
        return {name: options[name] for name in names}

    check_at_least(1, **among("batch_size", "gradient_accumulation_steps", "validation_steps"))
    check_at_least(1, **among("lora_rank", "keep_presets_every"))
    check_schedule(
        **among("learning_rate", "total_steps", "steps_per_epoch"),
        **among("warmup_steps", "final_learning_rate", "max_seconds"),
    )
    check_at_least(0, **among("weight_decay", "seed"))
    check_at_least(1e-9, **among("clip_norm"))
    check_between(0, 0.999999, **among("ema_momentum"))
    begun = options["text_preset"] or options["preset"]
    if options["lora_rank"] and not begun:
        raise ValueError("lora_rank is given without a preset: of a new model LoRA learns nothing.")
    if options["model"] not in MODELS:
        raise ValueError(f"model is {options['model']!r}; expected one of {', '.join(MODELS)}.")
    backbone = MODELS[options["model"]][1]
    check_model_config(options["model_config"], backbone, ("vocabulary_size",))


def _held_out_batches(options: dict, vocabulary_size: int) -> list[tuple]:
    """What `train_speech_lm` validates on, by its options."""
    source = open_tokens(options["validation_folders"])
    _check_vocabulary(source.vocabulary_size, vocabulary_size, "validation_folders")
    length, batch_size = options["sequence_length"], options["batch_size"]
    rows = PackedSequences(source.lengths, source.read, length, options["seed"])
    devices = options["device_mesh"][0] if options["device_mesh"] else 1
    if min(len(rows), batch_size) % devices:
        raise ValueError(
            f"validation_folders give {len(rows)} rows of {length} tokens, which {devices} devices "
            "cannot share: give more recordings."
        )
    return rows.held_out_batches(batch_size, options["validation_steps"])


def make_model(
    name: str,
    vocabulary_size: int,
    preset: str | None,
    text_preset: str | None,
    sequence_length: int,
    config: dict,
) -> SpeechSSM | SpeechTransformer:
    """The model that training begins with; see `train_speech_lm`."""
    task, backbone, default_config = MODELS[name]
    if preset is not None and text_preset is not None:
        raise ValueError("Both preset and text_preset are given; a model begins with one.")
    room = {"max_length": sequence_length} if task is SpeechTransformer else {}
    if text_preset is not None:
        return task.from_text_preset(text_preset, vocabulary_size=vocabulary_size, **room, **config)
    if preset is None:
        config = {"vocabulary_size": vocabulary_size, **default_config, **config}
        return task(backbone(**config), **room)
    model = initialize_from_preset(task, preset, **room, **config)
    _check_vocabulary(model.backbone.vocabulary_size, vocabulary_size, f"preset {preset!r}")
    return model


def _without_resets(make_batch: Callable, validation_batches: list | None) -> tuple:
    """The same batches for a model that takes no `reset_mask`."""

    def bare(batch: tuple) -> tuple:
        inputs, *rest = batch
        return ({"token_ids": inputs["token_ids"]}, *rest)

    held_out = None if validation_batches is None else [bare(batch) for batch in validation_batches]
    return lambda step: bare(make_batch(step)), held_out


def _check_vocabulary(found: int, expected: int, name: str) -> None:
    if found != expected:
        raise ValueError(
            f"The training tokens are of a vocabulary of {expected}, {name} has {found}: "
            "tokenize all with the preset's own tokenizer."
        )


def _rematerialized(wanted: bool) -> keras.RematScope:
    blocks = ("griffin_block", "decoder_block")  # the second are KerasHub's
    names = [f"{block}_{number}" for block in blocks for number in range(256)]
    return keras.RematScope("list_of_layers" if wanted else None, layer_names=names)
