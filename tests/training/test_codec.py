import json

import keras
import numpy as np
import pytest
import soundfile
from broken_runs import verify_last_epoch_is_repeated

from keras_speechssm.models import SoundStream
from keras_speechssm.models.soundstream.source_filter_soundstream import pitch_bins
from keras_speechssm.training.callbacks import read_metrics
from keras_speechssm.training.codec import (
    CodecBatches,
    CodecLoss,
    CodecTrainingConfig,
    LogGainLoss,
    PitchLoss,
    train_codec,
)

TINY = dict(
    strides=(5, 4),
    channels=(4, 4, 4),
    stem_stride=16,
    stem_kernel_size=32,
    dilations=(1,),
    separable=True,
    latent_dim=4,
    num_quantizers=2,
    codebook_size=8,
)
SOURCE_FILTER = dict(
    strides=(4,),
    channels=(4, 4),
    stem_stride=80,
    stem="source_filter",
    dilations=(1,),
    separable=True,
    latent_dim=4,
    num_quantizers=2,
    codebook_size=8,
)


def train(audio_folders, output_dir, **options):
    options = {"warmup_steps": 0, **options}
    return train_codec(
        CodecTrainingConfig(audio_folders=audio_folders, output_dir=output_dir, **options)
    )


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, seconds in (("a.wav", 2.0), ("b.flac", 0.2)):
        (tmp_path / "audio").mkdir(exist_ok=True)
        samples = 0.1 * rng.normal(size=int(16000 * seconds))
        soundfile.write(tmp_path / "audio" / name, samples, 16000)
    return tmp_path / "audio"


def loss_of(a, b, **kwargs):
    return float(keras.ops.convert_to_numpy(CodecLoss(**kwargs)(a, b)))


@pytest.mark.slow_to_compile
def test_loss_is_zero_for_a_perfect_copy_and_grows_with_the_error():
    rng = np.random.default_rng(0)
    x = (0.2 * rng.normal(size=(2, 4000))).astype("float32")
    assert loss_of(x, x) == pytest.approx(0.0, abs=1e-4)
    losses = [loss_of(x, x + s * rng.normal(size=x.shape).astype("float32")) for s in (0.01, 0.1)]
    assert 0.0 < losses[0] < losses[1]


@pytest.mark.slow_to_compile
def test_waveform_term_is_relative_to_the_energy():
    x = np.full((1, 4000), 0.5, "float32")
    only = dict(mel_weight=0.0, spectral_weight=0.0, waveform_weight=1.0)
    assert loss_of(x, 0.5 * x, **only) == pytest.approx(0.25, rel=1e-2)


@pytest.mark.slow_to_compile
def test_spectral_terms_see_what_they_should():
    # The same tone in opposite phase: only the waveform term objects.
    time = np.arange(8000) / 16000
    x = (0.5 * np.sin(2 * np.pi * 440 * time))[None].astype("float32")
    assert loss_of(x, -x, waveform_weight=0.0) == pytest.approx(0.0, abs=1e-3)
    other = (0.5 * np.sin(2 * np.pi * 880 * time))[None].astype("float32")
    assert loss_of(x, other, waveform_weight=0.0, spectral_weight=0.0) > 1.0
    assert loss_of(x, other, waveform_weight=0.0, mel_weight=0.0) > 1.0


def test_batches_are_a_function_of_the_step(folder):
    make = CodecBatches([folder], batch_size=4, crop_seconds=0.5, seed=3)
    x, y = make(7)
    assert x.shape == (4, 8000) and x.dtype == np.float32 and x is y
    assert 0.0 < np.abs(x).max() <= 1.0
    np.testing.assert_array_equal(x, make(7)[0])
    assert np.abs(x - make(8)[0]).max() > 0.0


def test_folder_weights_choose_folders(folder, tmp_path):
    (tmp_path / "silent").mkdir()
    soundfile.write(tmp_path / "silent" / "s.wav", np.zeros(16000), 16000)
    folders = [folder, tmp_path / "silent"]
    make = CodecBatches(folders, 8, 0.5, seed=0, folder_weights=[0.0, 1.0])
    assert np.all(make(0)[0] == 0.0)


def test_folder_without_audio_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="No audio in .*empty"):
        CodecBatches([tmp_path / "empty"], 1, 0.5, seed=0)


@pytest.mark.slow_to_compile
def test_train_codec_resumes_and_writes_a_preset(folder, tmp_path):
    arguments = dict(model_config=TINY, batch_size=2, crop_seconds=0.2, steps_per_epoch=2)
    arguments |= dict(adversarial_weight=0.0, validation_folders=[folder], total_steps=4)
    codec = train([folder], tmp_path / "run", **arguments)  # with discriminators: below
    verify_last_epoch_is_repeated(
        tmp_path / "run", lambda: train([folder], tmp_path / "run", **arguments)
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    loaded = SoundStream.from_preset(str(tmp_path / "run" / "preset"))
    x = np.random.default_rng(0).normal(size=1600).astype("float32") * 0.1
    np.testing.assert_array_equal(loaded.encode(x), codec.encode(x))


def pitch_loss_of(pitch, logits):
    return float(keras.ops.convert_to_numpy(PitchLoss()(pitch, logits)))


def test_pitch_loss_counts_steps_with_a_pitch_only():
    bins = pitch_bins()
    logits = np.zeros((1, 4, 80), "float32")
    logits[0, 1, 30] = 50.0
    pitch = np.array([[0.0, bins[30], 0.0, 0.0]], "float32")
    assert pitch_loss_of(pitch, logits) == pytest.approx(0.0, abs=1e-4)
    assert pitch_loss_of(pitch, np.zeros_like(logits)) == pytest.approx(np.log(80), rel=1e-4)
    assert pitch_loss_of(0.0 * pitch, logits) == 0.0


def test_pitch_between_two_bins_is_shared_and_outside_is_the_end():
    bins = pitch_bins()
    between = np.array([[np.sqrt(bins[30] * bins[31])]], "float32")
    logits = np.full((1, 1, 80), -1e3, "float32")
    logits[0, 0, 30:32] = 0.0
    assert pitch_loss_of(between, logits) == pytest.approx(np.log(2), rel=1e-3)
    logits = np.full((1, 1, 80), -1e3, "float32")
    logits[0, 0, 79] = 0.0
    assert pitch_loss_of(np.array([[900.0]], "float32"), logits) == pytest.approx(0.0, abs=1e-4)


def log_gain_loss_of(true, pred):
    pair = (np.asarray(x, "float32").reshape(1, 1, -1) for x in (true, pred))
    return float(keras.ops.convert_to_numpy(LogGainLoss()(*pair)))


def test_log_gain_loss_is_of_what_is_heard():
    # One band: pulses, noise.
    assert log_gain_loss_of([-2.0, -4.0], [-2.0, -4.0]) == 0.0
    # Both half a neper too strong: once for their sum, a quarter of it for each.
    assert log_gain_loss_of([-2.0, -4.0], [-1.5, -3.5]) == pytest.approx(0.75, rel=1e-5)
    # Noise far below the pulses is not compared, except in the sum, which it does not change.
    assert log_gain_loss_of([-2.0, -8.0], [-2.0, -12.0]) < 1e-4
    assert log_gain_loss_of([-2.0, -3.0], [-2.0, -4.0]) > 0.2
    # What is quiet counts for a fifth, and silence is silence.
    assert log_gain_loss_of([-9.0, -10.0], [-8.5, -9.5]) == pytest.approx(0.15, rel=1e-4)
    assert log_gain_loss_of([-20.0, -30.0], [-11.0, -11.0]) == pytest.approx(0.0, abs=1e-6)


def write_tone(folder):
    folder.mkdir()
    time = np.arange(16000) / 16000
    tone = sum(np.cos(2 * np.pi * n * 150 * time) / n for n in range(1, 12))
    soundfile.write(folder / "tone.wav", 0.2 * tone, 16000)


def test_source_filter_codec_trains_on_pitch_too(tmp_path):
    pytest.importorskip("pyworld")
    write_tone(tmp_path / "audio")
    batches = CodecBatches([tmp_path / "audio"], 2, 0.4, seed=0, pitch_hop=80)
    waveform, targets = batches(0)
    assert targets["waveform"] is waveform and targets["pitch_logits"].shape == (2, 80)
    assert abs(np.median(targets["pitch_logits"]) - 150.0) < 5.0
    assert set(targets) == {"waveform", "pitch_logits"}
    batches = CodecBatches([tmp_path / "audio"], 2, 0.4, 0, pitch_hop=80, with_log_gains=True)
    again, measured = batches(0)
    np.testing.assert_array_equal(again, waveform)
    np.testing.assert_array_equal(measured["pitch_logits"], targets["pitch_logits"])
    assert measured["log_gains"].shape == (2, 80, 160)
    arguments = dict(model_config=SOURCE_FILTER, batch_size=2, crop_seconds=0.4, steps_per_epoch=10)
    arguments["discriminator_channels"] = 2
    codec = train(
        [tmp_path / "audio"], tmp_path / "run", total_steps=20, learning_rate=1e-2, **arguments
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["pitch_logits_loss"] for line in lines]
    assert losses[1] < losses[0]
    loaded = SoundStream.from_preset(str(tmp_path / "run" / "preset"))
    np.testing.assert_allclose(
        loaded.decode(codec.encode(waveform)), codec.decode(codec.encode(waveform)), atol=1e-5
    )


def test_filters_alone_train_without_a_waveform(tmp_path):
    pytest.importorskip("pyworld")
    write_tone(tmp_path / "audio")
    codec = train(
        [tmp_path / "audio"],
        tmp_path / "run",
        model_config={**SOURCE_FILTER, "lookahead": 160},
        batch_size=2,
        crop_seconds=0.4,
        steps_per_epoch=10,
        total_steps=20,
        learning_rate=1e-2,
        adversarial_weight=0.0,
        reconstruction_weight=0.0,
    )
    assert codec.lookahead == 160
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert lines[1]["log_gains_loss"] < lines[0]["log_gains_loss"]
    assert "waveform_loss" not in lines[0]


def test_other_codecs_cannot_train_without_a_waveform(folder, tmp_path):
    with pytest.raises(ValueError, match="leaves a SoundStream nothing to learn from"):
        train([folder], tmp_path / "run", model_config=TINY, reconstruction_weight=0.0)
    assert not (tmp_path / "run").exists()


@pytest.mark.any_backend
@pytest.mark.slow
def test_training_with_discriminators_resumes_and_keeps_the_codec_only(folder, tmp_path):
    options = dict(
        validation_folders=[folder],
        model_config=TINY,
        batch_size=2,
        crop_seconds=0.26,
        steps_per_epoch=2,
        discriminator_channels=2,
        adversarial_start=0.0,
    )
    train([folder], tmp_path / "broken", total_steps=4, **options)
    broken = train([folder], tmp_path / "broken", total_steps=8, **options)
    verify_last_epoch_is_repeated(
        tmp_path / "broken", lambda: train([folder], tmp_path / "broken", total_steps=8, **options)
    )
    lines = read_metrics(tmp_path / "broken" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert all(line["discriminator_loss"] > 0 for line in lines)
    loaded = SoundStream.from_preset(str(tmp_path / "broken" / "preset"))
    for a, b in zip(loaded.get_weights(), broken.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow_to_compile
def test_training_begins_with_a_preset_with_or_without_weights(folder, tmp_path):
    options = dict(batch_size=2, crop_seconds=0.26, total_steps=1, steps_per_epoch=1)
    options |= dict(adversarial_weight=0.0, learning_rate=0.0)
    first = train([folder], tmp_path / "first", model_config=TINY, **options)
    preset = tmp_path / "first" / "preset"
    again = train([folder], tmp_path / "again", preset=str(preset), **options)
    table = first.encoder_layers[0].get_weights()[0]
    np.testing.assert_array_equal(again.encoder_layers[0].get_weights()[0], table)
    for weights in preset.glob("*.weights.h5"):
        weights.unlink()
    fresh = train([folder], tmp_path / "fresh", preset=str(preset), seed=1, **options)
    assert fresh.channels == first.channels
    assert np.abs(fresh.encoder_layers[0].get_weights()[0] - table).max() > 1e-3


@pytest.mark.slow_to_compile
def test_training_of_the_decoder_only_keeps_the_tokens(folder, tmp_path):
    options = dict(batch_size=2, crop_seconds=0.26, total_steps=2, steps_per_epoch=2)
    options |= dict(adversarial_weight=0.0)
    with pytest.raises(ValueError, match="pass the preset of one"):
        train([folder], tmp_path / "new", model_config=TINY, decoder_only=True, **options)
    train([folder], tmp_path / "first", model_config=TINY, **options)
    preset = str(tmp_path / "first" / "preset")
    first = SoundStream.from_preset(preset)
    trained = train([folder], tmp_path / "second", preset=preset, decoder_only=True, **options)
    fixed = len(first.quantizer.weights) + sum(len(x.weights) for x in first.encoder_layers)
    kept = [
        np.array_equal(*map(keras.ops.convert_to_numpy, pair))
        for pair in zip(first.weights, trained.weights, strict=True)
    ]
    assert all(kept[:fixed]) and not any(kept[fixed:])
    # A preset of it can be trained as a whole again.
    again = SoundStream.from_preset(str(tmp_path / "second" / "preset"))
    assert len(again.trainable_weights) == len(first.trainable_weights)
