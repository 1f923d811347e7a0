"""Training SoundStream: its reconstruction losses, its batches, its command."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_speechssm.audio import io as audio
from keras_speechssm.audio.mel import mel_filters
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.data.pitch import measure_pitch
from keras_speechssm.models.preset_mixin import initialize_from_preset
from keras_speechssm.models.soundstream.soundstream import SoundStream
from keras_speechssm.models.soundstream.source_filter import pitch_bins
from keras_speechssm.shapes import SAMPLE_RATE
from keras_speechssm.training.adversarial import (
    AdversarialCodec,
    AdversarialPhaseIn,
    Discriminators,
)
from keras_speechssm.training.callbacks import Budget
from keras_speechssm.training.config import check_crops, check_model_config, check_schedule
from keras_speechssm.training.trainer import fit_resumable

DEMO_CODEC = dict(
    strides=(4,),
    channels=(192, 384),
    stem_stride=80,
    stem="source_filter",
    dilations=(1, 3, 9),
    frame_dilations=(1, 3, 9),
    residual_kernel_size=3,
    separable=True,
    activation="leaky_relu",
    latent_dim=64,
    num_quantizers=6,
    codebook_size=1024,
    quantizer_dropout=0.25,
)
"""Arguments of the demo preset's codec: 3 kbps, cheap enough for two CPU cores."""

PITCH_WEIGHT = 3.0
"""Weight of a nat of pitch beside `CodecLoss`, whose distances its own weights set."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class CodecLoss(keras.losses.Loss):
    """What a decoded waveform lacks: relative waveform error, mel and spectral distances.

    The sum, each with its weight, of

    - the error of the waveform relative to the signal's energy, `|x - y|^2 / |x|^2`:
      without it a small codec does not learn phase;
    - L1 of log-mel spectra over several windows (SoundStream, equation 4, with DAC's
      logarithm in place of its L1 + L2 pair);
    - L1 of the linear magnitude spectra, relative to the signal's.

    Args:
        waveform_weight: float. Defaults to `10.0`.
        mel_weight: float. Defaults to `20.0`.
        spectral_weight: float. Defaults to `5.0`.
        windows: tuple of int. Analysis windows in samples; hops are a quarter.
            Defaults to `(256, 512, 1024, 2048)`.

    Call arguments:
        y_true, y_pred: float (batch, samples).

    Returns:
        float, the mean over the batch.
    """

    def __init__(
        self,
        waveform_weight: float = 10.0,
        mel_weight: float = 20.0,
        spectral_weight: float = 5.0,
        windows: Sequence[int] = (256, 512, 1024, 2048),
        name: str = "codec_loss",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.waveform_weight = waveform_weight
        self.mel_weight = mel_weight
        self.spectral_weight = spectral_weight
        self.windows = tuple(windows)

    def call(self, y_true, y_pred):
        error = ops.mean((y_true - y_pred) ** 2, axis=-1)
        energy = ops.mean(y_true**2, axis=-1) + 1e-4
        loss = self.waveform_weight * error / energy
        for window in self.windows:
            true, pred = _magnitude(y_true, window), _magnitude(y_pred, window)
            spectral = ops.mean(ops.abs(true - pred), axis=(1, 2))
            spectral = spectral / (ops.mean(true, axis=(1, 2)) + 1e-2)
            # As many bands as the window resolves.
            filters = mel_filters(min(80, window // 8 // 4 * 2), window)
            mel = ops.abs(_log_mel(true, filters) - _log_mel(pred, filters))
            mel = ops.mean(mel, axis=(1, 2))
            share = 1.0 / len(self.windows)
            loss = loss + share * (self.mel_weight * mel + self.spectral_weight * spectral)
        return loss

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "waveform_weight": self.waveform_weight,
            "mel_weight": self.mel_weight,
            "spectral_weight": self.spectral_weight,
            "windows": self.windows,
        }


def _magnitude(waveform, window: int):
    """Magnitude spectrum (batch, frames, window / 2 + 1)."""
    real, imaginary = ops.stft(waveform, window, window // 4, window)
    # The root's gradient is unbounded at zero.
    return ops.sqrt(real**2 + imaginary**2 + 1e-8)


def _log_mel(magnitude, filters):
    return ops.log10(ops.matmul(magnitude, filters) + 1e-2)


@keras.saving.register_keras_serializable(package="keras_speechssm")
class PitchLoss(keras.losses.Loss):
    """Cross-entropy of pitch, in nats, where there is one.

    Call arguments:
        y_true: float (batch, time), pitch in Hz, 0 where there is none. A pitch between
            two bins is shared by them.
        y_pred: float (batch, time, bins), logits.

    Returns:
        float, the mean over the steps that have a pitch.
    """

    def __init__(self, name: str = "pitch_loss", **kwargs):
        super().__init__(name=name, **kwargs)

    def call(self, y_true, y_pred):
        bins = np.log(pitch_bins())
        voiced = y_true > 0.0
        place = ops.log(ops.where(voiced, y_true, 100.0)) - float(bins[0])
        place = ops.clip(place / float(bins[1] - bins[0]), 0.0, len(bins) - 1.0)
        numbers = ops.arange(len(bins), dtype="float32")
        shares = ops.maximum(0.0, 1.0 - ops.abs(place[..., None] - numbers))
        loss = -ops.sum(shares * ops.log_softmax(y_pred, axis=-1), axis=-1)
        share_voiced = ops.maximum(ops.mean(ops.cast(voiced, "float32")), 1e-3)
        return ops.mean(ops.where(voiced, loss, 0.0), axis=-1) / share_voiced


class CodecBatches:
    """Random crops of recordings, as a function of the step.

    Args:
        audio_folders: folders of audio files of any format.
        batch_size: int. Crops in a batch.
        crop_seconds: float. Seconds of each, a whole number of codec frames.
        seed: int.
        folder_weights: share of the crops from each folder; by default even.
        pitch_hop: int or None. Samples from one pitch target to the next, for a codec that
            predicts pitch.

    Calling it with a step gives `(waveform, targets)`: float32 (batch, samples), and the
    same again; with `pitch_hop` a dict of it as `waveform`, and of `pitch_logits`: Hz, float32
    (batch, samples / pitch_hop), 0 where there is no pitch.
    """

    def __init__(
        self,
        audio_folders: Sequence[str | Path],
        batch_size: int,
        crop_seconds: float,
        seed: int,
        folder_weights: Sequence[float] | None = None,
        pitch_hop: int | None = None,
    ):
        self.pitch_hop = pitch_hop
        # All are opened once, so that what is no audio is said now, not hours later.
        self.files = [
            [(path, audio.read_duration(path)) for path in find_audio([folder])]
            for folder in audio_folders
        ]
        weights = np.ones(len(self.files)) if folder_weights is None else np.asarray(folder_weights)
        self.weights = weights / weights.sum()
        self.batch_size = batch_size
        self.samples = round(crop_seconds * SAMPLE_RATE)
        self.seed = seed

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray | dict]:
        rng = np.random.default_rng((self.seed, step))
        crops = np.stack([self._crop(rng) for _ in range(self.batch_size)])
        if self.pitch_hop is None:
            return crops, crops
        pitch = np.stack([measure_pitch(crop, self.pitch_hop) for crop in crops])
        return crops, {"waveform": crops, "pitch_logits": pitch}

    def _crop(self, rng: np.random.Generator) -> np.ndarray:
        files = self.files[rng.choice(len(self.files), p=self.weights)]
        path, duration = files[rng.integers(len(files))]
        seconds = self.samples / SAMPLE_RATE
        start = rng.uniform(0.0, max(0.0, duration - seconds))
        crop = audio.read_audio(path, start=start, duration=seconds)[: self.samples]
        crop = np.pad(crop, (0, self.samples - len(crop)))
        # Levels vary in the world: peaks from -18 dB to just below full scale.
        peak = np.abs(crop).max()
        if peak > 1e-3:
            crop = crop * (10.0 ** (-rng.uniform(0.5, 18.0) / 20.0) / peak)
        return crop.astype("float32")


def train_codec(
    audio_folders: Sequence[str | Path],
    output_dir: str | Path,
    *,
    validation_folders: Sequence[str | Path] | None = None,
    preset: str | None = None,
    model_config: dict | None = None,
    folder_weights: Sequence[float] | None = None,
    batch_size: int = 16,
    crop_seconds: float = 1.0,
    total_steps: int = 20_000,
    steps_per_epoch: int = 100,
    learning_rate: float = 1e-3,
    waveform_weight: float = 10.0,
    adversarial_weight: float = 1.0,
    feature_weight: float = 10.0,
    discriminator_channels: int = 16,
    adversarial_begins: float = 0.5,
    seed: int = 0,
    max_seconds: float | None = None,
) -> SoundStream:
    """Trains a SoundStream on folders of audio; run again, it goes on where it stopped.

    Adam, gradient norm clipped at 1. Reconstruction losses, and SoundStream's adversarial ones
    (see `AdversarialCodec`). Writes the run's files (see `fit_resumable`) and the preset
    `output_dir/preset`.

    Args:
        audio_folders: folders of audio files.
        output_dir: folder of the run.
        validation_folders: folders of other recordings; the weights that do best on them
            are kept. By default the training loss selects.
        preset: of a SoundStream to train on from, or one without weights to begin anew, such
            as `soundstream_16khz`, the paper's size.
        model_config: arguments of `SoundStream`, over the preset's; without a preset over the
            class' own defaults, a codec of convolutions. Defaults without a preset to
            `DEMO_CODEC`, a source-filter codec.
        folder_weights: share of the crops from each folder. Defaults to even.
        batch_size: crops in a step.
        crop_seconds: length of a crop.
        total_steps: steps of the whole run.
        steps_per_epoch: steps between validations and checkpoints.
        learning_rate: peak learning rate.
        waveform_weight: of the error of the waveform itself, without which a small codec does not
            learn phase. One of the source-filter kind has phases of its own, and does without.
        adversarial_weight, feature_weight: of the discriminators' losses; 0 for the first trains
            without them. The second is a tenth of the paper's: `CodecLoss` is nearer to DAC's,
            whose is 2.
        discriminator_channels: width of the discriminators.
        adversarial_begins: share of the run after which the codec listens to them, fully a
            tenth later; until then they only learn, and no weights count as the best.
        seed: int.
        max_seconds: training time of the whole run, the sessions before counted; the learning
            rate has fallen to its end by then. A run that is to go on wants a larger number.

    Returns:
        The trained model.
    """
    check_schedule(learning_rate, total_steps, steps_per_epoch, max_seconds=max_seconds)
    check_model_config(model_config, SoundStream)
    check_crops(audio_folders, validation_folders, batch_size, crop_seconds, folder_weights)
    keras.utils.set_random_seed(seed)
    if preset is None:
        model = SoundStream(**(model_config or DEMO_CODEC))
    else:
        model = initialize_from_preset(SoundStream, preset, **(model_config or {}))
    has_pitch = model.stem == "source_filter"
    pitch_hop = model.stem_stride if has_pitch else None
    crops = (batch_size, crop_seconds)
    batches = CodecBatches(audio_folders, *crops, seed, folder_weights, pitch_hop)
    validation = None
    if validation_folders is not None:
        held_out = CodecBatches(validation_folders, *crops, seed + 1, None, pitch_hop)
        validation = [held_out(step) for step in range(4)]
    trained, callbacks = model, []
    if adversarial_weight > 0:
        judges = Discriminators(discriminator_channels)
        trained = AdversarialCodec(model, judges, adversarial_weight, feature_weight)
        trained.build_on(batches.samples)
        budget = Budget(Path(output_dir), -(-total_steps // steps_per_epoch), max_seconds)
        callbacks = [AdversarialPhaseIn(budget, adversarial_begins)]
    compile_codec(trained, has_pitch, learning_rate, waveform_weight)
    fit_resumable(
        trained,
        batches,
        output_dir,
        learning_rate=learning_rate,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        validation_batches=validation,
        # Before, the training loss is another one.
        best_from=min(1.0, adversarial_begins + 0.1) if callbacks else 0.0,
        max_seconds=max_seconds,
        callbacks=callbacks,
    )
    model.save_to_preset(str(Path(output_dir) / "preset"))
    return model


def compile_codec(
    model, has_pitch: bool, learning_rate: float = 1e-3, waveform_weight: float = 10.0
) -> None:
    """Compiles a codec, alone or with discriminators, with Adam and its losses.

    Args:
        model: `SoundStream` or `AdversarialCodec`.
        has_pitch: whether it predicts pitch, as the source-filter kind does; then without the
            error of the waveform.
        learning_rate: float.
        waveform_weight: of `CodecLoss`.
    """
    loss, weights = CodecLoss(waveform_weight=0.0 if has_pitch else waveform_weight), None
    if has_pitch:
        loss = {"waveform": loss, "pitch_logits": PitchLoss()}
        weights = {"waveform": 1.0, "pitch_logits": PITCH_WEIGHT}
    optimizer = keras.optimizers.Adam(learning_rate, beta_1=0.8, beta_2=0.99, global_clipnorm=1.0)
    model.compile(optimizer=optimizer, loss=loss, loss_weights=weights)
