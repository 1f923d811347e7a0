"""Training of the semantic tokenizer: masked prediction on all speech, CTC where it is transcribed.

The model adds the masked-prediction and commitment losses itself; `PhonemeLoss` is the
loss to compile it with.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import keras
from keras import ops

from keras_speechssm.checks import check_at_least, check_between
from keras_speechssm.data.corpora import PHONEMES
from keras_speechssm.models.preset_mixin import initialize_from_preset
from keras_speechssm.models.semantic_tokenizer.phoneme_head import BLANK
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.presets import has_weights
from keras_speechssm.training.callbacks import Budget
from keras_speechssm.training.config import check_crops, check_model_config, check_schedule
from keras_speechssm.training.speech_crops import CropBatches
from keras_speechssm.training.trainer import fit_resumable

DEMO_CONFIG = {
    "vocabulary_size": 512,
    "num_layers": 4,
    "num_decoder_layers": 1,
    "hidden_dim": 144,
    "num_heads": 4,
    "intermediate_dim": 288,
    "num_phonemes": len(PHONEMES),
    "code_dim": 16,
    "attention_context": 50,
    "mask_start_rate": 0.02,
    "masked_codebook_size": 1024,
    "commitment_weight": 0.1,
}
"""Arguments of the first demo's `SemanticTokenizer` (1.7 M parameters), quick to train; today's
has those of its `config.json`."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class PhonemeLoss(keras.losses.Loss):
    """CTC in nats a phoneme, and the cross-entropy of steps whose phoneme is known.

    What is it for: `SemanticTokenizer`'s `phoneme_logits`. CTC alone begins with a plateau
    of a thousand steps and more, on which it tells the encoder nothing; a synthesizer
    that says when it speaks each phoneme ends that at once.

    Labels are int (batch, 2, time). Row 0, for CTC: phoneme ids from 1, filled up at the
    end with 0, the blank. An example whose row is all 0 has no transcript and counts
    neither in the sum nor in the mean. There must be at least as many time steps as labels
    and immediate repeats together, else no path exists. Row 1: the phoneme id of each
    time step, 0 where it is not known.

    Args:
        alignment_weight: float. Weight of the cross-entropy. Defaults to `1.0`.
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
        # The logits say blank at padding, so every example may run for the whole length.
        lengths = ops.zeros((batch,), dtype="int32") + time
        losses = ops.ctc_loss(labels, logits, label_lengths, lengths, mask_index=BLANK)
        transcribed = label_lengths > 0
        losses = losses / ops.cast(ops.maximum(label_lengths, 1), "float32")
        # Averaged over the batch this is the mean over its transcribed examples.
        share = ops.mean(ops.cast(transcribed, "float32"))
        share = ops.maximum(share, 1.0 / ops.cast(batch, "float32"))
        return ops.where(transcribed, losses, 0.0) / share

    def _aligned(self, phonemes, logits):
        known = ops.cast(phonemes != BLANK, "float32")
        losses = keras.losses.sparse_categorical_crossentropy(phonemes, logits, from_logits=True)
        # Averaged over the batch this is the mean over all known steps.
        scale = ops.cast(ops.shape(logits)[0], "float32") / ops.maximum(ops.sum(known), 1.0)
        return self.alignment_weight * scale * ops.sum(known * losses, axis=1)

    def get_config(self) -> dict:
        return {**super().get_config(), "alignment_weight": self.alignment_weight}


def train_tokenizer(
    audio_folders: Sequence[str | Path],
    output_dir: str | Path,
    *,
    validation_folders: Sequence[str | Path] | None = None,
    preset: str | None = None,
    model_config: dict | None = None,
    initial_weights: str | Path | None = None,
    crop_seconds: float = 8.0,
    batch_size: int = 8,
    total_steps: int = 10_000,
    learning_rate: float = 2e-3,
    best_rq_weight: float = 0.1,
    ctc_weight: float = 1.0,
    untranscribed_share: float = 0.2,
    quantize_from: float = 0.4,
    steps_per_epoch: int = 50,
    num_validation_batches: int = 8,
    max_seconds: float | None = None,
    seed: int = 0,
) -> SemanticTokenizer:
    """Trains a semantic tokenizer from folders of audio; run again, it resumes.

    Args:
        audio_folders: folders of speech. A recording with a sidecar of its phonemes, as `speechssm
            prepare synthesized` writes one, is trained on with CTC as well.
        output_dir: run folder: metrics, backup, best weights and, at the end, `preset/`.
        validation_folders: folders of transcribed speech for choosing the best weights.
            Without any, the training loss chooses.
        preset: of a SemanticTokenizer to train on from, or one without weights to begin anew,
            such as `semantic_tokenizer_600m`, the paper's size.
        model_config: arguments of `SemanticTokenizer`, over those of the preset or, without
            one, over `DEMO_CONFIG`.
        initial_weights: `.weights.h5` file of an earlier run to begin from. Layers that
            have no weights of the same shape there begin anew.
        crop_seconds: length of a training example.
        batch_size: crops in a step, an even number for a model with `agreement_weight`.
        total_steps: steps of the whole run; the learning rate falls along a cosine,
            by steps or by seconds, whichever runs out first.
        learning_rate: peak of AdamW's learning rate.
        best_rq_weight: weight of masked prediction.
        ctc_weight: weight of the phonemes' two losses, from all tokens and from each alone.
        untranscribed_share: share of crops without transcripts.
        quantize_from: share of the run at which the quantizer is phased in at the latest;
            early where the weights to begin from know phonemes already.
        steps_per_epoch: steps between validations and backups.
        num_validation_batches: batches of one validation.
        max_seconds: training time of the whole run, the sessions before counted; the learning
            rate has fallen to its end by then. A run that is to go on wants a larger number.
        seed: of weights, crops and masks.

    Returns:
        The tokenizer with its best weights; it lies in `output_dir/preset` too.

    Raises:
        ValueError: folders without speech or as short as a crop, a number out of range,
            arguments that `SemanticTokenizer` does not know, or weights that do not fit.
    """
    check_between(0, 1, quantize_from=quantize_from, untranscribed_share=untranscribed_share)
    check_at_least(1, num_validation_batches=num_validation_batches)
    check_crops(audio_folders, validation_folders, batch_size, crop_seconds)
    check_schedule(learning_rate, total_steps, steps_per_epoch, max_seconds=max_seconds)
    check_model_config(model_config, SemanticTokenizer)
    keras.utils.set_random_seed(seed)
    config = {"masked_loss_weight": best_rq_weight, "seed": seed, **(model_config or {})}
    if preset is None:
        model = SemanticTokenizer(**{**DEMO_CONFIG, **config})
    else:
        model = initialize_from_preset(SemanticTokenizer, preset, **config)
    if initial_weights is not None:
        model.load_weights(str(initial_weights), skip_mismatch=True)
    batches = CropBatches(
        audio_folders,
        crop_seconds,
        batch_size,
        seed,
        untranscribed_share,
        paired=model.agreement_weight > 0,
        outputs=phoneme_outputs(model),
    )
    if preset is None or not has_weights(SemanticTokenizer, preset):
        model.log_mel.adapt(batches.example_waveforms())
    validation = None
    if validation_folders:
        crops = (crop_seconds, batch_size, seed)
        outputs = phoneme_outputs(model)
        held_out = CropBatches(validation_folders, *crops, 0.0, augmented=False, outputs=outputs)
        validation = [held_out(step) for step in range(num_validation_batches)]
    compile_tokenizer(model, ctc_weight=ctc_weight)
    budget = Budget(Path(output_dir), -(-total_steps // steps_per_epoch), max_seconds)
    fit_resumable(
        model,
        batches,
        output_dir,
        learning_rate=learning_rate,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        batch_threads=min(8, os.cpu_count() or 1),  # reading, stretching and noise by NumPy
        validation_batches=validation,
        max_seconds=max_seconds,
        callbacks=[QuantizerPhaseIn(budget, latest=quantize_from)],
    )
    model.quantizer.quantized_share.assign(1.0)  # whoever trains on begins quantized
    model.save_to_preset(str(Path(output_dir) / "preset"))
    return model


def compile_tokenizer(
    model: SemanticTokenizer, learning_rate: float = 1e-3, ctc_weight: float = 1.0
) -> None:
    """Compiles `model` with AdamW (gradients clipped to a norm of 1) and its CTC loss."""
    model.compile(
        optimizer=keras.optimizers.AdamW(learning_rate, weight_decay=0.01, global_clipnorm=1.0),
        loss={name: PhonemeLoss() for name in phoneme_outputs(model)},
        loss_weights={name: ctc_weight for name in phoneme_outputs(model)},
    )


def phoneme_outputs(model: SemanticTokenizer) -> list[str]:
    """Names of the outputs that learn phonemes."""
    return ["phoneme_logits", "code_logits"] if model.code_head else ["phoneme_logits"]


class QuantizerPhaseIn(keras.callbacks.Callback):
    """Lets the quantizer in once the phonemes come.

    Unquantized until the phonemes' training loss has fallen to `threshold` of its second epoch's
    (at the latest when a share of `latest` of the budget is used); from there the quantized
    share rises in a straight line to 1 over `epochs` epochs. See `GradualVectorQuantizer` for
    why.

    Args:
        budget: what the run may use.
        threshold: float. Defaults to `0.6`.
        epochs: int. Defaults to `5`.
        latest: float. Defaults to `0.4`.
    """

    def __init__(
        self, budget: Budget, threshold: float = 0.6, epochs: int = 5, latest: float = 0.4
    ):
        super().__init__()
        self.budget = budget
        self.threshold = threshold
        self.epochs = epochs
        self.latest = latest

    def on_epoch_begin(self, epoch, logs=None):
        self.model.quantizer.quantized_share.assign(self.share(epoch))

    def share(self, epoch: int) -> float:
        """Quantized share of an epoch (from 0), read off the metrics of those before."""
        lines = self.budget.metrics()[:epoch]
        # With one output Keras logs no loss of its own for it.
        losses = [line.get("phoneme_logits_loss", line["loss"]) for line in lines]
        for done in range(1, epoch + 1):
            fallen = len(losses) >= done > 1 and losses[done - 1] <= self.threshold * losses[1]
            if fallen or self.budget.used(done) >= self.latest:
                return min(1.0, (epoch - done + 1) / self.epochs)
        return 0.0
