import json

import keras
import numpy as np
import pytest
from gradient import gradients
from keras import ops

from keras_speechssm.models import SoundStream, SourceFilterSoundStream
from keras_speechssm.models.preset_mixin import load_part
from keras_speechssm.models.soundstream.source_filter_soundstream import (
    NUM_PITCH_BINS,
    SourceFilterSynthesis,
    SpectralAnalysis,
    expected_pitch,
    pitch_bins,
)

HOP = 80


def synthesis_of(pitch_bin: int, voiced: float, noise: float, steps: int = 400):
    """One second or two at a pitch bin, with the same gain in every band."""
    layer = SourceFilterSynthesis(HOP)
    layer.build((None, None, 1))
    layer.pitch.kernel.assign(np.zeros((1, NUM_PITCH_BINS)))
    layer.pitch.bias.assign(30.0 * np.eye(NUM_PITCH_BINS)[pitch_bin])
    layer.gains.kernel.assign(np.zeros((1, 160)))
    # The inverse of the layer's squashing of gains.
    bias = [4.0 * np.arctanh((gain + 5.0) / 8.0) for gain in (voiced, noise)]
    layer.gains.bias.assign(np.repeat(bias, 80))
    waveform, logits, _ = layer(np.zeros((1, steps, 1), "float32"))
    return ops.convert_to_numpy(waveform)[0, :, 0], ops.convert_to_numpy(logits)


@pytest.mark.slow_to_compile
@pytest.mark.parametrize("pitch_bin", [0, 20, 79])
def test_harmonics_of_the_pitch_and_nothing_between_them(pitch_bin):
    waveform, _ = synthesis_of(pitch_bin, voiced=-1.0, noise=-12.9)
    pitch = pitch_bins()[pitch_bin]
    part = waveform[8000:24000]
    spectrum = np.abs(np.fft.rfft(part * np.blackman(len(part)))) / len(part)
    # The root of a peak's power, not its highest bin: harmonics lie between bins.
    peaks = [spectrum[round(n * pitch) + np.arange(-3, 4)] for n in range(1, 6)]
    near = np.array([np.sqrt(np.sum(peak**2)) for peak in peaks])
    between = np.array([spectrum[round((n + 0.5) * pitch)] for n in range(1, 6)])
    assert near.min() > 300 * between.max()
    assert near.max() < 1.1 * near.min()  # the same gain in every band


def test_unit_power_whatever_the_pitch():
    for pitch_bin in (0, 40, 79):
        waveform, _ = synthesis_of(pitch_bin, voiced=0.0, noise=-12.9)
        assert abs(waveform[8000:24000].std() - 1.0) < 0.05


def test_noise_is_white_and_of_unit_power():
    waveform, _ = synthesis_of(20, voiced=-12.9, noise=0.0)
    part = waveform[8000:24000]
    power = (np.abs(np.fft.rfft(part)) ** 2).reshape(-1)[:8000].reshape(8, 1000).mean(axis=1)
    assert 0.9 < part.std() < 1.1
    assert power.max() < 1.3 * power.min()


def test_pitch_between_bins_and_best_of_two_peaks():
    bins = pitch_bins()
    logits = np.full((2, NUM_PITCH_BINS), -20.0, "float32")
    logits[0, 10:12] = 0.0
    logits[1, 10], logits[1, 60] = 0.0, 5.0
    pitch = ops.convert_to_numpy(expected_pitch(logits))
    np.testing.assert_allclose(pitch, [np.sqrt(bins[10] * bins[11]), bins[60]], rtol=1e-4)


def test_synthesis_is_causal_by_gradients():
    keras.utils.set_random_seed(0)
    layer = SourceFilterSynthesis(HOP)
    x = np.random.default_rng(0).normal(size=(1, 20, 6)).astype("float32")
    layer.build(x.shape)
    (gradient,), _ = gradients(lambda x: ops.sum(layer(x)[0][:, : 10 * HOP] ** 2), [x])
    assert np.all(gradient[0, 10:] == 0.0)
    assert np.all(np.abs(gradient[0, :10]).max(axis=-1) > 0.0)


@pytest.mark.slow_to_compile
def test_filter_rings_on_but_never_before():
    # One strongly peaked filter: what rings longer than its frame must not wrap round.
    keras.utils.set_random_seed(1)
    layer = SourceFilterSynthesis(HOP)
    x = np.random.default_rng(1).normal(size=(1, 30, 6)).astype("float32")
    layer.build(x.shape)
    layer.gains.kernel.assign(10.0 * np.random.default_rng(2).normal(size=(6, 160)))
    changed = x.copy()
    changed[:, 15:] += 1.0
    a, b = (ops.convert_to_numpy(layer(inputs)[0]) for inputs in (x, changed))
    scale = np.abs(a).max()
    assert np.abs(a - b)[:, : 15 * HOP].max() < 1e-6 * scale
    assert np.abs(a - b)[:, 15 * HOP :].max() > 1e-3 * scale


def test_analysis_hears_pitch_and_hardly_phase():
    keras.utils.set_random_seed(0)
    layer = SpectralAnalysis(8, HOP)
    time = np.arange(3200) / 16000

    def features(pitch, phase):
        tone = np.sin(2 * np.pi * pitch * time + phase).astype("float32")
        return ops.convert_to_numpy(layer(tone[None, :, None]))[0, 20:]

    heard = features(400, 0.0)
    assert heard.shape == (20, 8)
    by_phase = [np.abs(features(400, phase) - heard).mean() for phase in (1.0, 2.0, np.pi)]
    by_pitch = np.abs(features(424, 0.0) - heard).mean()  # a semitone
    assert max(by_phase) < 0.2 * by_pitch


def test_analysis_sees_nothing_ahead():
    layer = SpectralAnalysis(8, HOP)
    x = np.random.default_rng(0).normal(size=(1, 1600, 1)).astype("float32")
    (gradient,), _ = gradients(lambda x: ops.sum(layer(x)[:, :10] ** 2), [x])
    assert np.all(gradient[0, 10 * HOP :] == 0.0)
    assert np.abs(gradient[0, : 10 * HOP]).max() > 0.0


def test_analysis_sees_as_far_ahead_as_it_may():
    layer = SpectralAnalysis(8, HOP, lookahead=2 * HOP)
    x = np.random.default_rng(0).normal(size=(1, 1600, 1)).astype("float32")
    (gradient,), _ = gradients(lambda x: ops.sum(layer(x)[:, :10] ** 2), [x])
    assert np.all(gradient[0, 12 * HOP :] == 0.0)
    assert np.abs(gradient[0, 11 * HOP : 12 * HOP]).max() > 0.0


def test_lookahead_is_the_analysis_of_what_comes_later(tmp_path):
    keras.utils.set_random_seed(0)
    causal = SourceFilterSoundStream(**SMALL)
    causal.save_to_preset(str(tmp_path / "causal"))
    # Old presets know nothing of it.
    codec = SoundStream.from_preset(str(tmp_path / "causal"), lookahead=4 * HOP)
    assert codec.lookahead == 320 and causal.lookahead == 0
    x = (0.3 * np.random.default_rng(0).normal(size=4800)).astype("float32")
    later = np.concatenate([x[320:], np.zeros(320, "float32")])
    tokens = codec.encode(x)
    np.testing.assert_array_equal(tokens, causal.encode(later))
    assert np.any(tokens != causal.encode(x))
    np.testing.assert_array_equal(codec.decode(tokens), causal.decode(tokens))
    codec.save_to_preset(str(tmp_path / "codec"))
    loaded = SoundStream.from_preset(str(tmp_path / "codec"))
    assert loaded.get_config() == codec.get_config()
    np.testing.assert_array_equal(loaded.encode(x), tokens)


@pytest.mark.parametrize("lookahead", [-80, 100])
def test_lookahead_is_whole_steps(lookahead):
    with pytest.raises(ValueError, match=f"multiple of stem_stride, 80 .* got {lookahead}"):
        SourceFilterSoundStream(lookahead=lookahead)


def test_a_codec_without_analysis_has_no_lookahead(tmp_path):
    layout = {**SMALL, "strides": (5, 4), "channels": (4, 4, 4), "stem_stride": 16}
    SoundStream(stem_kernel_size=32, **layout).save_to_preset(str(tmp_path))
    with pytest.raises(ValueError, match="lookahead"):
        SoundStream.from_preset(str(tmp_path), lookahead=320)


def test_sharpness_widens_formants_and_keeps_mean_tilt_and_power():
    bands = np.arange(80)
    tilt = -2.0 - 0.03 * bands
    formants = np.cos(np.pi * 6 * (bands + 0.5) / 80)
    noise = np.full(80, -9.0)
    layer = SourceFilterSynthesis(HOP, sharpness=1.5)
    gains = [np.tile(x, (1, 3, 1)).astype("float32") for x in (tilt + formants, noise)]
    pulses, hiss = (
        ops.convert_to_numpy(x)[0, 0]
        for x in layer._sharpened(*(ops.convert_to_tensor(x) for x in gains))
    )
    change = pulses - (tilt + formants)
    np.testing.assert_allclose(hiss - noise, change, atol=1e-5)
    # Half of the formants more; a straight tilt differs from a cosine a little.
    assert np.corrcoef(change, formants)[0, 1] > 0.99
    assert 0.45 < np.std(change) / np.std(formants) < 0.55
    power = [np.exp(2 * np.array(x)).sum() for x in ((pulses, hiss), (tilt + formants, noise))]
    np.testing.assert_allclose(power[0], power[1], rtol=1e-4)
    flat = [np.full((1, 2, 80), -1.0, "float32")] * 2
    for after in layer._sharpened(*(ops.convert_to_tensor(x) for x in flat)):
        np.testing.assert_allclose(ops.convert_to_numpy(after), -1.0, atol=1e-5)


def test_sharpness_of_a_trained_codec(tmp_path):
    keras.utils.set_random_seed(0)
    codec = SourceFilterSoundStream(**SMALL)
    codec.get_layer("decoder_stem").gains.kernel.assign(
        np.random.default_rng(0).normal(size=(6, 160))
    )
    codec.save_to_preset(str(tmp_path / "codec"))
    sharp = SoundStream.from_preset(str(tmp_path / "codec"), sharpness=1.4)
    sharp.save_to_preset(str(tmp_path / "sharp"))
    sharp = SoundStream.from_preset(str(tmp_path / "sharp"))
    assert sharp.sharpness == 1.4 and codec.sharpness == 1.0
    x = (0.3 * np.random.default_rng(0).normal(size=(1, 1600))).astype("float32")
    tokens = sharp.encode(x)
    np.testing.assert_array_equal(tokens, codec.encode(x))
    outputs = [ops.convert_to_numpy(model(x)["log_gains"]) for model in (sharp, codec)]
    np.testing.assert_array_equal(*outputs)
    # What is trained on the waveform must not learn to make up for it.
    z = np.random.default_rng(1).normal(size=(1, 20, 6)).astype("float32")
    layers = [model.get_layer("decoder_stem") for model in (sharp, codec)]
    outputs = [ops.convert_to_numpy(layer(z, training=True)[0]) for layer in layers]
    np.testing.assert_array_equal(*outputs)
    assert np.abs(sharp.decode(tokens) - codec.decode(tokens)).max() > 1e-4
    with pytest.raises(ValueError, match="sharpness"):
        SourceFilterSoundStream(sharpness=-1.0)


def test_gains_of_the_output_are_those_of_the_filters():
    keras.utils.set_random_seed(0)
    codec = SourceFilterSoundStream(**SMALL)
    x = (0.3 * np.random.default_rng(0).normal(size=(2, 1600))).astype("float32")
    outputs = codec(x)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "waveform": (2, 1600),
        "pitch_logits": (2, 20, 80),
        "log_gains": (2, 20, 160),
    }
    gains = ops.convert_to_numpy(outputs["log_gains"])
    assert gains.min() > -13.0 and gains.max() < 3.0  # 8 tanh(x / 4) - 5
    stem = codec.get_layer("decoder_stem")
    stem.gains.bias.assign(np.full(160, 1e3))
    np.testing.assert_allclose(ops.convert_to_numpy(codec(x)["log_gains"]), 3.0, rtol=1e-5)


def test_gradient_reaches_the_gains_but_pitch_only_learns_from_its_own_loss():
    layer = SourceFilterSynthesis(HOP)
    layer.build((None, None, 4))
    x = np.random.default_rng(0).normal(size=(1, 10, 4)).astype("float32")

    def energy(pitch_kernel, gains_kernel):
        kernels = (layer.pitch.kernel, pitch_kernel), (layer.gains.kernel, gains_kernel)
        with keras.StatelessScope(list(kernels)):
            return ops.sum(layer(x)[0] ** 2)

    kernels = [ops.convert_to_numpy(dense.kernel) for dense in (layer.pitch, layer.gains)]
    (by_pitch, by_gains), _ = gradients(energy, kernels)
    assert np.all(by_pitch == 0.0)
    assert np.all(np.abs(by_gains).max(axis=0) > 0.0)


@pytest.mark.parametrize("stride", [1, 320])
def test_source_filter_takes_hops_of_five_milliseconds_or_so(stride):
    with pytest.raises(ValueError, match=f"40 to 160 samples, got {stride}"):
        SourceFilterSoundStream(stem_stride=stride)


SMALL = dict(
    strides=(4,),
    channels=(6, 8),
    stem_stride=80,
    frame_dilations=(1,),
    residual_kernel_size=3,
    separable=True,
    latent_dim=4,
    num_quantizers=3,
    codebook_size=16,
)


def test_a_preset_from_before_the_subclass_loads(tmp_path):
    keras.utils.set_random_seed(0)
    codec = SourceFilterSoundStream(**SMALL, activation="leaky_relu")
    rng = np.random.default_rng(0)
    for level in codec.quantizer.levels:
        level.codebook.assign(rng.normal(size=level.codebook.shape))
    codec.save_to_preset(str(tmp_path))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    assert config["registered_name"] == "keras_speechssm>SourceFilterSoundStream"
    config["module"] = "keras_speechssm.soundstream.soundstream"
    config["class_name"] = "SoundStream"
    config["registered_name"] = "keras_speechssm>SoundStream"
    config["config"]["stem"] = "source_filter"
    path.write_text(json.dumps(config))
    waveform = (0.3 * rng.normal(size=1600)).astype("float32")
    tokens = codec.encode(waveform)
    for loaded in (
        SoundStream.from_preset(str(tmp_path)),
        SourceFilterSoundStream.from_preset(str(tmp_path)),
        load_part(str(tmp_path), "soundstream"),
    ):
        assert isinstance(loaded, SourceFilterSoundStream)
        assert loaded.get_config() == codec.get_config() and "stem" not in codec.get_config()
        np.testing.assert_array_equal(loaded.encode(waveform), tokens)
        np.testing.assert_array_equal(loaded.decode(tokens), codec.decode(tokens))


def test_another_codec_is_not_a_source_filter_codec(tmp_path):
    layout = {**SMALL, "strides": (5, 4), "channels": (4, 4, 4), "stem_stride": 16}
    SoundStream(stem_kernel_size=32, **layout).save_to_preset(str(tmp_path))
    with pytest.raises(ValueError, match="is a SoundStream, not a SourceFilterSoundStream"):
        SourceFilterSoundStream.from_preset(str(tmp_path))
