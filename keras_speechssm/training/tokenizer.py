"""Training of the semantic tokenizer: masked prediction on all speech, CTC with transcripts.

`SemanticTokenizerPretraining` adds the losses of masked prediction and of the quantizer itself;
compile it with `PhonemeLoss`.
"""

import inspect
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import keras
from keras import ops

from keras_speechssm.data.corpora import PHONEMES, find_audio, read_segments
from keras_speechssm.data.transcripts import (
    CharacterLabels,
    CTCLabels,
    PhonemeLabels,
    SentencePieceLabels,
    normalize_text,
    read_transcripts,
)
from keras_speechssm.files import open_path
from keras_speechssm.models.preset_mixin import initialize_from_preset
from keras_speechssm.models.semantic_tokenizer.convert_whisper import load_whisper_frames
from keras_speechssm.models.semantic_tokenizer.log_mel_frames import LogMelFrames
from keras_speechssm.models.semantic_tokenizer.phoneme_head import BLANK
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer_pretraining import (
    SemanticTokenizerPretraining,
)
from keras_speechssm.presets import fetch_folder, has_weights, read_json_file
from keras_speechssm.training.callbacks import Progress
from keras_speechssm.training.config import (
    AudioTrainingConfig,
    TrainingConfig,
    check_model_config,
)
from keras_speechssm.training.distribution import (
    conformer_layout_map,
    distributed,
    save_preset,
)
from keras_speechssm.training.speech_crops import CropBatches
from keras_speechssm.training.trainer import fit_resumable, make_optimizer

logger = logging.getLogger(__name__)

NEW_TOKENIZER: dict = dict(
    vocabulary_size=96,
    num_layers=8,
    num_decoder_layers=1,
    hidden_dim=192,
    num_heads=4,
    intermediate_dim=512,
    num_phonemes=len(PHONEMES),
    attention_context=50,
    commitment_weight=0.1,
    agreement_weight=1.0,
    code_head=True,
    mask_start_rate=0.0,
    masked_codebook_size=1024,
    max_warp=0.18,
    coloration=0.3,
)
"""Arguments of a new tokenizer on log-mel features (6 M parameters) and of its training."""

NEW_TOKENIZER_ON_WHISPER: dict = {
    **{k: v for k, v in NEW_TOKENIZER.items() if k not in ("max_warp", "coloration")},
    "vocabulary_size": 64,
    "num_layers": 1,
}
"""The same on Whisper's encoder, which does most of the work and has no spectrum to perturb."""

PRETRAINING_ARGUMENTS = tuple(inspect.signature(SemanticTokenizerPretraining).parameters)[1:-1]
"""Arguments of `SemanticTokenizerPretraining`, without the tokenizer."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class PhonemeLoss(keras.losses.Loss):
    """CTC in nats per phoneme, plus the cross-entropy of steps whose phoneme is known.

    CTC alone starts with a plateau of a thousand steps or more. The times of the phonemes, which
    a speech synthesizer knows, end it at once.

    The labels are int (batch, 2, time). Row 0, for CTC, has phoneme ids from 1, padded at the end
    with 0, the blank. An example whose row is all 0 has no transcript and is left out of the
    mean. There must be at least as many time steps as labels plus immediate repeats. Row 1 has
    the phoneme id of each time step, 0 where it is unknown.

    Args:
        alignment_weight: Weight of the cross-entropy. Defaults to `1.0`.
    """

    def __init__(
        self,
        alignment_weight: float = 1.0,
        name: str = "phoneme_loss",
        reduction: str = "sum_over_batch_size",
        **kwargs,
    ):
        super().__init__(name=name, reduction=reduction, **kwargs)
        self.alignment_weight = alignment_weight

    def call(self, y_true, y_pred):
        labels = ops.cast(y_true, "int32")
        logits = ops.cast(y_pred, "float32")
        return self._ctc(labels[:, 0], logits) + self._aligned(labels[:, 1], logits)

    def _ctc(self, labels, logits):
        label_lengths = ops.sum(ops.cast(labels != BLANK, "int32"), axis=1)
        batch, time = ops.shape(logits)[0], ops.shape(logits)[1]
        # The logits predict the blank at padding, so every example can have the full length.
        lengths = ops.zeros((batch,), dtype="int32") + time
        losses = ops.ctc_loss(labels, logits, label_lengths, lengths, mask_index=BLANK)
        transcribed = label_lengths > 0
        losses = losses / ops.cast(ops.maximum(label_lengths, 1), "float32")
        # Averaged over the batch this is the mean over its transcribed examples.
        fraction = ops.mean(ops.cast(transcribed, "float32"))
        fraction = ops.maximum(fraction, 1.0 / ops.cast(batch, "float32"))
        return ops.where(transcribed, losses, 0.0) / fraction

    def _aligned(self, phonemes, logits):
        known = ops.cast(phonemes != BLANK, "float32")
        losses = keras.losses.sparse_categorical_crossentropy(phonemes, logits, from_logits=True)
        # Averaged over the batch this is the mean over all known steps.
        scale = ops.cast(ops.shape(logits)[0], "float32") / ops.maximum(ops.sum(known), 1.0)
        return self.alignment_weight * scale * ops.sum(known * losses, axis=1)

    def get_config(self) -> dict:
        return {**super().get_config(), "alignment_weight": self.alignment_weight}


@dataclass(kw_only=True, frozen=True)
class TokenizerTrainingConfig(AudioTrainingConfig):
    """Options of `train_tokenizer`. See `TrainingConfig` for the rest.

    Args:
        audio_folders: Folders of speech. Recordings with a sidecar of their phonemes, as
            `speechssm prepare synthesized` writes it, are also trained on with CTC.
        validation_folders: Folders of transcribed speech. The weights with the lowest validation
            loss are kept. Defaults to `None`: the weights with the lowest training loss.
        preset: Preset of a `SemanticTokenizer` to start from. A preset without weights, such as
            `semantic_tokenizer_600m` (the paper's size), gives a new tokenizer of its size.
            Defaults to `None`: a new tokenizer of 6 M parameters or, with `whisper`, of
            1.5 M besides Whisper's.
        model_config: Arguments of `SemanticTokenizer` and `SemanticTokenizerPretraining`, which
            replace those of the preset.
        whisper: CTranslate2 folder of Whisper, or a KerasHub preset such as `whisper_tiny_en`,
            whose encoder becomes the front end and is not trained. Defaults to `None`: log-mel
            features, or the front end of the preset.
        initial_weights: `.weights.h5` file of a tokenizer to start from. Layers whose shapes do
            not match start from random weights.
        crop_seconds: Seconds of one training example.
        batch_size: Crops per batch, an even number for a model with `agreement_weight`.
        labels: What the auxiliary recognition loss reads: `phonemes` of sidecars; `characters` of
            transcripts; or the path of a SentencePiece model for them. Transcripts are those of
            LibriSpeech, MLS, Common Voice or VoxPopuli in `audio_folders`, or of sidecars.
        best_rq_weight: Weight of masked prediction. The model's `mask_start_rate` must be above 0
            as well.
        ctc_weight: Weight of the two recognition losses, from all tokens and from each one alone.
        untranscribed_fraction: Fraction of crops without transcripts.
        quantize_from: Fraction of the run after which the quantizer is phased in at the latest.
            It is phased in earlier when the phoneme loss has fallen.
    """

    whisper: str | Path | None = None
    initial_weights: str | Path | None = None
    labels: str = "phonemes"
    best_rq_weight: float = 0.1
    ctc_weight: float = 1.0
    untranscribed_fraction: float = 0.2
    quantize_from: float = 0.4
    crop_seconds: float = 8.0
    steps_per_epoch: int = 50
    warmup_steps: int = 250
    learning_rate: float = 2e-3
    weight_decay: float = 0.01

    fixed: ClassVar[tuple[str, ...]] = (
        "whisper",
        "initial_weights",
        "labels",
        *TrainingConfig.fixed,
    )

    def validate(self) -> None:
        super().validate()
        self._check_between(0, 1, "quantize_from", "untranscribed_fraction")
        self._check_at_least(0, "best_rq_weight", "ctc_weight")
        own = {k: v for k, v in (self.model_config or {}).items() if k not in PRETRAINING_ARGUMENTS}
        check_model_config(own, SemanticTokenizer)


def train_tokenizer(config: TokenizerTrainingConfig) -> SemanticTokenizer:
    """Train a semantic tokenizer on folders of audio, or resume the run of the same folder.

    Args:
        config: The options. See `TokenizerTrainingConfig`.

    Returns:
        The tokenizer with its best weights. It is also saved to `preset/` in `output_dir`.

    Raises:
        ValueError: If there is no speech, weights do not fit, or the run was started with other
            options.
    """
    config.join_processes()
    config.check_resumed()
    labels = open_labels(config)
    keras.utils.set_random_seed(config.seed)
    with distributed(config.device_mesh, conformer_layout_map, config.batch_size):
        model = _initial_model(config, labels)
        tokenizer, outputs = model.tokenizer, phoneme_outputs(model)
        durations = open_path(config.output_dir) / "durations.json"
        make_batch = CropBatches(
            config.audio_folders,
            config.crop_seconds,
            config.batch_size,
            config.seed,
            config.untranscribed_fraction,
            paired=model.agreement_weight > 0,
            outputs=outputs,
            known_durations=durations,
            labels=labels,
        )
        untrained = config.preset is None or not has_weights(SemanticTokenizer, config.preset)
        if untrained and isinstance(tokenizer.front_end, LogMelFrames):
            tokenizer.front_end.adapt(make_batch.example_waveforms())
        validation_batches = None
        if config.validation_folders:
            crops = (config.crop_seconds, config.batch_size, config.seed)
            held_out = CropBatches(
                config.validation_folders,
                *crops,
                0.0,
                augmented=False,
                outputs=outputs,
                known_durations=durations,
                labels=labels,
            )
            validation_batches = [held_out(step) for step in range(config.validation_steps)]
        compile_tokenizer(model, make_optimizer(config), config.ctc_weight)
        progress = Progress(config.output_dir, config.total_epochs, config.max_seconds)
        fit_resumable(
            model,
            make_batch,
            config,
            batch_threads=min(8, os.cpu_count() or 1),  # reading and augmenting take long
            validation_batches=validation_batches,
            callbacks=[QuantizerPhaseIn(progress, latest=config.quantize_from)],
            exported=tokenizer,
        )
        save_preset(tokenizer, config.output_dir, "preset")
    return tokenizer


def open_labels(config: TokenizerTrainingConfig) -> CTCLabels:
    """Return the classes of the recognition loss of a run.

    Args:
        config: Options of the run.

    Raises:
        ValueError: If there are no transcripts, or no such SentencePiece model.
    """
    if config.labels == "phonemes":
        return PhonemeLabels()
    texts = list(read_transcripts(config.audio_folders).values())
    texts += [s.text for p in find_audio(config.audio_folders) for s in read_segments(p) or ()]
    if not any(map(normalize_text, texts)):
        raise ValueError(
            f"labels is {config.labels!r}, but {', '.join(map(str, config.audio_folders))} has no "
            "transcripts; expected those of LibriSpeech, MLS, Common Voice or VoxPopuli, or .json "
            "files next to the recordings."
        )
    if config.labels == "characters":
        return CharacterLabels(texts)
    return SentencePieceLabels(config.labels)


def _initial_model(
    config: TokenizerTrainingConfig, labels: CTCLabels
) -> SemanticTokenizerPretraining:
    new = NEW_TOKENIZER if config.whisper is None else NEW_TOKENIZER_ON_WHISPER
    sizes = {} if config.preset else dict(new)
    sizes |= {**({"dtype": config.dtype} if config.dtype else {}), **(config.model_config or {})}
    trained = config.preset is not None and has_weights(SemanticTokenizer, config.preset)
    if trained and config.whisper is None:
        _check_labels(config, labels)
    if config.labels != "phonemes":
        sizes |= {"num_phonemes": len(labels.names), "labels": labels.names}
    pretraining = {"masked_loss_weight": config.best_rq_weight, "seed": config.seed}
    pretraining |= {name: sizes.pop(name) for name in PRETRAINING_ARGUMENTS if name in sizes}
    if config.whisper is not None:
        sizes["front_end"] = load_whisper_frames(config.whisper)
    if config.preset is None:
        tokenizer = SemanticTokenizer(**sizes)
    elif config.whisper is None:
        tokenizer = initialize_from_preset(SemanticTokenizer, config.preset, **sizes)
    else:
        # The weights of a preset belong to another front end.
        tokenizer = SemanticTokenizer.from_preset(config.preset, load_weights=False, **sizes)
    if config.initial_weights is not None:
        tokenizer.load_weights(str(config.initial_weights), skip_mismatch=True)
    model = SemanticTokenizerPretraining(tokenizer, **pretraining)
    tokenizer.masked_prediction = model.masked_loss_weight > 0 and model.mask_start_rate > 0
    if not tokenizer.masked_prediction:
        logger.info(
            "Masked prediction is off: best_rq_weight is %g, the model's mask_start_rate %g.",
            model.masked_loss_weight,
            model.mask_start_rate,
        )
    return model


def _check_labels(config: TokenizerTrainingConfig, labels: CTCLabels) -> None:
    folder = Path(fetch_folder(config.preset, SemanticTokenizer.preset_part))
    names = read_json_file(folder)["config"].get("labels")
    if tuple(names or PHONEMES) != labels.names:
        raise ValueError(
            f"labels is {config.labels!r}, but the preset {config.preset!r} reads other classes. "
            "Keep its labels, or pass its weights file as initial_weights: all layers except the "
            "recognition head start from it."
        )


def compile_tokenizer(
    model: SemanticTokenizer | SemanticTokenizerPretraining,
    optimizer: keras.optimizers.Optimizer | None = None,
    ctc_weight: float = 1.0,
) -> None:
    """Compile a model with its phoneme losses.

    Args:
        model: The model.
        optimizer: The optimizer. Defaults to `None`: AdamW as `train_tokenizer` uses it, with a
            learning rate of 1e-3.
        ctc_weight: Weight of the phoneme losses. Defaults to `1.0`.
    """
    if optimizer is None:
        optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.01, global_clipnorm=1.0)
    model.compile(
        optimizer=optimizer,
        loss={name: PhonemeLoss() for name in phoneme_outputs(model)},
        loss_weights=dict.fromkeys(phoneme_outputs(model), ctc_weight),
    )


def phoneme_outputs(model: SemanticTokenizer | SemanticTokenizerPretraining) -> list[str]:
    """List the names of the outputs that learn phonemes.

    Args:
        model: The model.
    """
    code_head = getattr(model, "code_head", False)
    return ["phoneme_logits", "code_logits"] if code_head else ["phoneme_logits"]


class QuantizerPhaseIn(keras.callbacks.Callback):
    """Phases in the quantizer once the model recognizes phonemes.

    The codes are not quantized until the training loss of the phonemes has fallen to `threshold`
    times that of the second epoch, or a fraction of `latest` of the run has passed. From there
    the quantized fraction rises linearly to 1 over `epochs` epochs. `GradualQuantization` says
    why.

    Args:
        progress: Progress of the run.
        threshold: Fraction of the loss of the second epoch. Defaults to `0.6`.
        epochs: Epochs of the rise. Defaults to `5`.
        latest: Fraction of the run. Defaults to `0.4`.
    """

    def __init__(
        self, progress: Progress, threshold: float = 0.6, epochs: int = 5, latest: float = 0.4
    ):
        super().__init__()
        self.progress = progress
        self.threshold = threshold
        self.epochs = epochs
        self.latest = latest

    def on_epoch_begin(self, epoch, logs=None):
        self.model.quantizer.quantized_fraction.assign(self.fraction(epoch))

    def fraction(self, epoch: int) -> float:
        """Return the quantized fraction of an epoch, from the metrics of earlier ones.

        Args:
            epoch: Number of the epoch, from 0.
        """
        lines = self.progress.metrics()[:epoch]
        # With a single output Keras does not log its loss separately.
        losses = [line.get("phoneme_logits_loss", line["loss"]) for line in lines]
        for done in range(1, epoch + 1):
            fallen = len(losses) >= done > 1 and losses[done - 1] <= self.threshold * losses[1]
            if fallen or self.progress.fraction(done) >= self.latest:
                return min(1.0, (epoch - done + 1) / self.epochs)
        return 0.0
