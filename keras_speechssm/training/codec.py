"""Training of SoundStream: reconstruction losses and batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import keras
import numpy as np
from keras import ops

from keras_speechssm.audio import io as audio
from keras_speechssm.audio.mel import log_mel
from keras_speechssm.data.corpora import find_audio, read_durations
from keras_speechssm.data.pitch import measure_pitch, measure_voice
from keras_speechssm.files import open_path
from keras_speechssm.models.preset_mixin import initialize_from_preset
from keras_speechssm.models.soundstream.soundstream import SoundStream
from keras_speechssm.models.soundstream.source_filter_soundstream import (
    SourceFilterSoundStream,
    pitch_bins,
)
from keras_speechssm.presets import has_weights
from keras_speechssm.shapes import SAMPLE_RATE
from keras_speechssm.training.adversarial import (
    AdversarialCodec,
    AdversarialPhaseIn,
    Discriminators,
)
from keras_speechssm.training.callbacks import Progress
from keras_speechssm.training.config import (
    AudioTrainingConfig,
    TrainingConfig,
    check_model_config,
    demo_arguments,
)
from keras_speechssm.training.distribution import distributed, save_preset
from keras_speechssm.training.speech_crops import draw_readable
from keras_speechssm.training.trainer import fit_resumable, make_optimizer

PITCH_WEIGHT = 3.0
"""Weight of `PitchLoss` relative to `CodecLoss`."""

SILENT_LOG_GAIN, QUIET_LOG_GAIN, QUIET_WEIGHT = -11.0, -8.0, 0.2
"""`LogGainLoss` compares nothing below the first, and weighs what is below the second less."""

MASKED_LOG_GAIN = 2.5
"""Pulses that are this much (22 dB) weaker than the noise are not heard, nor such noise."""


@keras.saving.register_keras_serializable(package="keras_speechssm")
class CodecLoss(keras.losses.Loss):
    """Reconstruction loss of a codec: relative waveform error, mel and spectral distances.

    The weighted sum of

    - the squared error of the waveform relative to its energy, `|x - y|^2 / |x|^2`, without
      which a small codec does not learn phase;
    - the L1 distance of log-mel spectra over several windows (SoundStream, equation 4, with
      DAC's logarithm instead of its pair of L1 and L2);
    - the L1 distance of the magnitude spectra, relative to the true ones.

    Args:
        waveform_weight: Weight of the first term. Defaults to `10.0`.
        mel_weight: Weight of the second term. Defaults to `20.0`.
        spectral_weight: Weight of the third term. Defaults to `5.0`.
        windows: Analysis windows in samples; the hops are a quarter of them.
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
            bands = min(80, window // 8 // 4 * 2)
            mel = ops.abs(log_mel(true, bands, 1e-2, base=10) - log_mel(pred, bands, 1e-2, base=10))
            mel = ops.mean(mel, axis=(1, 2))
            distance = self.mel_weight * mel + self.spectral_weight * spectral
            loss = loss + (1.0 / len(self.windows)) * distance
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


@keras.saving.register_keras_serializable(package="keras_speechssm")
class PitchLoss(keras.losses.Loss):
    """Cross-entropy of the pitch, in nats, over steps that have one.

    Call arguments:
        y_true: float (batch, time), pitch in Hz, 0 where there is none. A pitch between two
            bins counts for both.
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
        targets = ops.maximum(0.0, 1.0 - ops.abs(place[..., None] - numbers))
        loss = -ops.sum(targets * ops.log_softmax(y_pred, axis=-1), axis=-1)
        voiced_fraction = ops.maximum(ops.mean(ops.cast(voiced, "float32")), 1e-3)
        return ops.mean(ops.where(voiced, loss, 0.0), axis=-1) / voiced_fraction


@keras.saving.register_keras_serializable(package="keras_speechssm")
class LogGainLoss(keras.losses.Loss):
    """L1 distance of the filters of a source-filter codec, in nats.

    The distance of the power of pulses and noise together, plus a quarter of that of each alone.
    What is far below the power of both is not heard, and not compared.

    Spectral distances of waveforms do not train such filters well: the spectrum of noise varies
    at random, and a filter only shows at the harmonics of the pitch.

    Call arguments:
        y_true, y_pred: float (batch, time, 2 * bands), the natural logarithm of the gains for
            the pulses, then for the noise.

    Returns:
        float, the mean over the batch.
    """

    def __init__(self, name: str = "log_gain_loss", **kwargs):
        super().__init__(name=name, **kwargs)

    def call(self, y_true, y_pred):
        true = ops.split(ops.maximum(y_true, SILENT_LOG_GAIN), 2, axis=-1)
        pred = ops.split(y_pred, 2, axis=-1)
        true_sum, pred_sum = (0.5 * ops.logaddexp(2.0 * a, 2.0 * b) for a, b in (true, pred))
        loss = ops.abs(true_sum - pred_sum)
        inaudible = true_sum - MASKED_LOG_GAIN
        for a, b in zip(true, pred, strict=True):
            loss = loss + 0.25 * ops.abs(ops.maximum(a, inaudible) - ops.maximum(b, inaudible))
        weights = ops.where(true_sum > QUIET_LOG_GAIN, 1.0, QUIET_WEIGHT)
        return ops.mean(weights * loss, axis=(1, 2))


class CodecBatches:
    """Random crops of recordings, as a function of the batch's number.

    Args:
        audio_folders: Folders of audio files of any format.
        batch_size: Crops per batch.
        crop_seconds: Seconds per crop, a whole number of codec frames.
        seed: Seed of the crops.
        folder_weights: Weight of each folder among the crops. Defaults to `None`: all alike.
        pitch_hop: Samples from one pitch target to the next, for a codec that predicts pitch.
            Defaults to `None`: no pitch.
        with_log_gains: Whether to measure the gains of the codec's filters, too.
            Defaults to `False`.
        known_durations: See `read_durations`. Defaults to `None`.

    Returns:
        When called with a number: `(waveform, targets)`, float32 (batch, samples) each. With
        `pitch_hop`, `targets` is a dict of the `waveform` and of `pitch_logits`, the pitch in Hz,
        float32 (batch, samples / pitch_hop), 0 where there is none; and, if asked for, of
        `log_gains`, float32 (batch, samples / pitch_hop, 160).
    """

    def __init__(
        self,
        audio_folders: Sequence[str | Path],
        batch_size: int,
        crop_seconds: float,
        seed: int,
        folder_weights: Sequence[float] | None = None,
        pitch_hop: int | None = None,
        with_log_gains: bool = False,
        known_durations: str | Path | None = None,
    ):
        self.pitch_hop = pitch_hop
        self.with_log_gains = with_log_gains
        # All files are opened once, so that a broken one is reported now, not hours later.
        self.files = [
            list(zip(paths, read_durations(paths, known_durations), strict=True))
            for paths in (find_audio([folder]) for folder in audio_folders)
        ]
        weights = np.ones(len(self.files)) if folder_weights is None else np.asarray(folder_weights)
        self.weights = weights / weights.sum()
        self.batch_size = batch_size
        self.samples = round(crop_seconds * SAMPLE_RATE)
        self.seed = seed

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray | dict]:
        rng = np.random.default_rng((self.seed, step))
        crops = np.stack([draw_readable(lambda: self._crop(rng)) for _ in range(self.batch_size)])
        if self.pitch_hop is None:
            return crops, crops
        if self.with_log_gains:
            pitches, log_gains = zip(
                *(measure_voice(crop, self.pitch_hop) for crop in crops), strict=True
            )
            targets = {"pitch_logits": np.stack(pitches), "log_gains": np.stack(log_gains)}
        else:
            pitches = [measure_pitch(crop, self.pitch_hop) for crop in crops]
            targets = {"pitch_logits": np.stack(pitches)}
        return crops, {"waveform": crops, **targets}

    def _crop(self, rng: np.random.Generator) -> np.ndarray:
        files = self.files[rng.choice(len(self.files), p=self.weights)]
        path, duration = files[rng.integers(len(files))]
        seconds = self.samples / SAMPLE_RATE
        start = rng.uniform(0.0, max(0.0, duration - seconds))
        crop = audio.read_audio(path, start=start, duration=seconds)[: self.samples]
        crop = np.pad(crop, (0, self.samples - len(crop)))
        # Vary the level: peaks from -18 dB to just below full scale.
        peak = np.abs(crop).max()
        if peak > 1e-3:
            crop = crop * (10.0 ** (-rng.uniform(0.5, 18.0) / 20.0) / peak)
        return crop.astype("float32")


@dataclass(kw_only=True, frozen=True)
class CodecTrainingConfig(AudioTrainingConfig):
    """Options of `train_codec`. See `TrainingConfig` for the rest.

    Args:
        preset: Preset of a `SoundStream` to start from. A preset without weights, such as
            `soundstream_16khz` (the paper's size), gives a new codec of its size. Defaults to
            `None`: a new codec.
        model_config: Arguments of `SoundStream` that replace those of the preset. Without a
            preset, the arguments of a new codec; by default those of the demo's.
        folder_weights: Weight of each audio folder among the crops. Defaults to `None`: all
            alike.
        waveform_weight: Weight of the waveform's own error, without which a small codec does
            not learn phase. A source-filter codec makes its own phases and does not use it.
        reconstruction_weight: Weight of `CodecLoss`. 0 trains a source-filter codec by its pitch
            and filters alone, which takes less time, as no waveform is synthesized.
        log_gain_weight: Weight of `LogGainLoss`, which only a source-filter codec has. 0 does not
            measure the filters, which takes a core 0.04 s per second of speech.
        adversarial_weight: Weight of the generator loss. 0 trains without discriminators.
        feature_weight: Weight of the discriminators' feature distance. The default is a tenth of
            the paper's, because `CodecLoss` is closer to that of DAC, whose weight is 2.
        discriminator_channels: Channels of the discriminators' first convolutions.
        adversarial_start: Fraction of the run after which the codec learns from the
            discriminators, which reach their full weight a tenth of the run later. Before that
            they only learn themselves, and no weights count as the best.
        decoder_only: Whether encoder and quantizer stay as they are in `preset`. The tokens then
            stay the same, and a SoundStorm for them still fits.
    """

    folder_weights: Sequence[float] | None = None
    waveform_weight: float = 10.0
    reconstruction_weight: float = 1.0
    log_gain_weight: float = 20.0
    adversarial_weight: float = 1.0
    feature_weight: float = 10.0
    discriminator_channels: int = 16
    adversarial_start: float = 0.5
    decoder_only: bool = False
    batch_size: int = 16
    validation_steps: int = 4
    total_steps: int = 20_000
    beta_1: float = 0.8
    beta_2: float = 0.99

    fixed: ClassVar[tuple[str, ...]] = (
        "discriminator_channels",
        "decoder_only",
        *TrainingConfig.fixed,
    )

    def validate(self) -> None:
        super().validate()
        self._check_folder_weights(self.folder_weights)
        self._check_at_least(0, "waveform_weight", "reconstruction_weight", "log_gain_weight")
        self._check_at_least(0, "adversarial_weight", "feature_weight")
        self._check_at_least(1, "discriminator_channels")
        self._check_between(0, 1, "adversarial_start")
        # What only a `SourceFilterSoundStream` takes is checked when the kind of codec is known.
        own = {"stem", "lookahead", "sharpness"}
        sizes = {name: v for name, v in (self.model_config or {}).items() if name not in own}
        check_model_config(sizes, SoundStream)
        if self.decoder_only and not (self.preset and has_weights(SoundStream, self.preset)):
            raise ValueError(
                "decoder_only keeps the encoder of a trained codec; pass the preset of one."
            )


def train_codec(config: CodecTrainingConfig) -> SoundStream:
    """Train a SoundStream on folders of audio, or resume the run of the same folder.

    Uses reconstruction losses and SoundStream's adversarial losses (see `AdversarialCodec`).

    Args:
        config: The options. See `CodecTrainingConfig`.

    Returns:
        The trained model. It is also saved to `preset/` in `output_dir`.

    Raises:
        ValueError: If there is no audio, or the run was started with other options.
    """
    config.join_processes()
    config.check_resumed()
    keras.utils.set_random_seed(config.seed)
    with distributed(config.device_mesh, None, config.batch_size):
        sizes = {**({"dtype": config.dtype} if config.dtype else {}), **(config.model_config or {})}
        if config.preset is not None:
            model = initialize_from_preset(SoundStream, config.preset, **sizes)
        elif config.model_config:
            model = SoundStream.from_config(sizes)
        else:
            model = SourceFilterSoundStream(**{**demo_arguments("soundstream"), **sizes})
        if config.decoder_only:
            for layer in (*model.encoder_layers, model.quantizer):
                layer.trainable = False
        has_pitch = isinstance(model, SourceFilterSoundStream)
        if config.reconstruction_weight == 0 and not has_pitch:
            raise ValueError(
                f"reconstruction_weight of 0 leaves a {type(model).__name__} nothing to learn "
                "from; only a SourceFilterSoundStream has other losses."
            )
        pitch_hop = model.stem_stride if has_pitch else None
        with_log_gains = has_pitch and config.log_gain_weight > 0
        crops = (config.batch_size, config.crop_seconds)
        common = (pitch_hop, with_log_gains, open_path(config.output_dir) / "durations.json")
        make_batch = CodecBatches(
            config.audio_folders, *crops, config.seed, config.folder_weights, *common
        )
        validation_batches = None
        if config.validation_folders is not None:
            held_out = CodecBatches(
                config.validation_folders, *crops, config.seed + 1, None, *common
            )
            validation_batches = [held_out(step) for step in range(config.validation_steps)]
        trained, callbacks, best_from = model, [], 0.0
        if config.adversarial_weight > 0:
            trained = AdversarialCodec(
                model,
                Discriminators(config.discriminator_channels),
                config.adversarial_weight,
                config.feature_weight,
            )
            trained.build((None, make_batch.samples))
            progress = Progress(config.output_dir, config.total_epochs, config.max_seconds)
            callbacks = [AdversarialPhaseIn(progress, config.adversarial_start)]
            # Before that, the training loss is another one.
            best_from = min(1.0, config.adversarial_start + callbacks[0].duration)
        compile_codec(
            trained,
            has_pitch,
            make_optimizer(config),
            waveform_weight=config.waveform_weight,
            reconstruction_weight=config.reconstruction_weight,
            log_gain_weight=config.log_gain_weight,
        )
        fit_resumable(
            trained,
            make_batch,
            config,
            validation_batches=validation_batches,
            best_from=best_from,
            callbacks=callbacks,
            exported=model,
        )
        save_preset(model, config.output_dir, "preset")
    return model


def compile_codec(
    model: SoundStream | AdversarialCodec,
    has_pitch: bool,
    optimizer: keras.optimizers.Optimizer | None = None,
    waveform_weight: float = 10.0,
    reconstruction_weight: float = 1.0,
    log_gain_weight: float = 20.0,
) -> None:
    """Compile a codec, alone or with discriminators, with its losses.

    Args:
        model: The model.
        has_pitch: Whether it predicts pitch and filters, as a `SourceFilterSoundStream` does. It
            is then trained without the error of the waveform.
        optimizer: The optimizer. Defaults to `None`: Adam as `train_codec` uses it.
        waveform_weight: Weight of the waveform error in `CodecLoss`. Defaults to `10.0`.
        reconstruction_weight: Weight of `CodecLoss`. Defaults to `1.0`.
        log_gain_weight: Weight of `LogGainLoss`, with `has_pitch`; 0 needs no such targets.
            Defaults to `20.0`.
    """
    loss = CodecLoss(waveform_weight=0.0 if has_pitch else waveform_weight)
    weights = reconstruction_weight
    if has_pitch:
        losses = {
            "waveform": (loss, reconstruction_weight),
            "pitch_logits": (PitchLoss(), PITCH_WEIGHT),
            "log_gains": (LogGainLoss(), log_gain_weight),
        }
        # What has no weight is not computed.
        losses = {name: pair for name, pair in losses.items() if pair[1] > 0}
        loss = {name: loss for name, (loss, _) in losses.items()}
        weights = {name: weight for name, (_, weight) in losses.items()}
    if optimizer is None:
        optimizer = keras.optimizers.Adam(1e-3, beta_1=0.8, beta_2=0.99, global_clipnorm=1.0)
    model.compile(optimizer=optimizer, loss=loss, loss_weights=weights)
