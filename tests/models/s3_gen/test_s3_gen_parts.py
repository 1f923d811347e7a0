"""Each part of S3Gen against the original, at small random sizes."""

import types

import numpy as np
import pytest
from keras import ops
from original_s3_gen import (
    StateTensors,
    make_flow,
    make_speaker_encoder,
    make_vocoder,
    normal,
    original,
)

from keras_speechssm.audio.mel import kaldi_log_mel
from keras_speechssm.compilation import compile_inference
from keras_speechssm.models.checkpoint_weights import assign_tensors
from keras_speechssm.models.s3_gen.cam_plus_plus import CAMPlusPlus
from keras_speechssm.models.s3_gen.convert_s3_gen import (
    encoder_targets,
    estimator_targets,
    speaker_encoder_targets,
    vocoder_targets,
)
from keras_speechssm.models.s3_gen.flow_estimator import FlowEstimator
from keras_speechssm.models.s3_gen.hift_vocoder import HiFTVocoder, source_sines
from keras_speechssm.models.s3_gen.s3_gen import prompt_mel
from keras_speechssm.models.s3_gen.s3_gen_encoder import S3GenEncoder


def run(layer, *inputs, method=None):
    """Calls a layer as a compiled function."""
    function = method or layer
    output = compile_inference(layer, lambda *tensors: function(*tensors))(*inputs)
    return ops.convert_to_numpy(output)


def test_kaldi_log_mel_is_that_of_transformers():
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    waveform = 0.1 * normal(4000)
    filters = mel_filter_bank(
        257, 80, 20, 8000, 16000, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    expected = spectrogram(
        waveform.astype("float64"),
        window_function(400, "povey", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        log_mel="log",
        mel_floor=np.finfo("float32").eps,
        remove_dc_offset=True,
    ).T
    np.testing.assert_allclose(kaldi_log_mel(waveform), expected, atol=2e-4)


def test_prompt_mel(monkeypatch):
    librosa = pytest.importorskip("librosa")
    mel, waveform = original("utils.mel"), 0.1 * normal(20 * 480)
    filters = librosa.filters.mel(sr=24000, n_fft=1920, n_mels=80, fmax=8000)
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(mel, "_fb", lambda **_: torch.tensor(filters.T))
    expected = mel.mel_spectrogram(torch.tensor(waveform)).numpy()[0].T
    np.testing.assert_allclose(prompt_mel(waveform), expected, atol=1e-4)


@pytest.mark.slow_to_compile
def test_speaker_encoder():
    model = make_speaker_encoder()
    import torch

    encoder = CAMPlusPlus(channels=16, growth=4, stack_sizes=(2, 1, 1))
    encoder.build((None, None, 80))
    assign_tensors(StateTensors(model, "speaker_encoder"), speaker_encoder_targets(encoder))
    features = normal(1, 231, 80)
    with torch.inference_mode():
        expected = model(torch.tensor(features)).numpy()
    np.testing.assert_allclose(run(encoder, features), expected, atol=1e-4)


def test_vocoder(monkeypatch):
    model = make_vocoder()
    import torch

    vocoder = HiFTVocoder(channels=16, f0_channels=8)
    vocoder.build((None, None, 80))
    tensors = StateTensors(model, "mel2wav")
    assign_tensors(tensors, vocoder_targets(vocoder, tensors))
    mel, noise = normal(1, 12, 80), normal(1, 12 * 480, 9, seed=1)
    phases = np.random.default_rng(2).uniform(-np.pi, np.pi, 9)
    phases[0] = 0.0
    # The original's sines with our noise and our phases.
    drawn = torch.tensor(phases, dtype=torch.float32)[None, :, None]
    uniform = types.SimpleNamespace(sample=lambda sample_shape: drawn.clone())
    monkeypatch.setattr(original("hifigan"), "Uniform", lambda **_: uniform)
    with torch.inference_mode():
        spectrum = torch.tensor(mel.transpose(0, 2, 1))
        f0 = model.f0_predictor(spectrum)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn_like", lambda x: torch.tensor(noise.transpose(0, 2, 1)))
            sines = model.m_source.l_sin_gen(model.f0_upsamp(f0[:, None]))[0]
        merged = model.m_source.l_tanh(model.m_source.l_linear(sines.transpose(1, 2)))
        expected = model.decode(x=spectrum, s=merged.transpose(1, 2)).numpy()
    sines = sines.numpy().transpose(0, 2, 1)
    found = run(vocoder, mel, method=vocoder.predict_f0)
    assert (f0 > 10).any() and (f0 < 10).any() and expected.std() > 0.05
    np.testing.assert_allclose(found, f0.numpy(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(source_sines(f0.numpy(), phases, noise), sines, atol=2e-4)
    waveform = run(vocoder, mel, sines)
    np.testing.assert_allclose(waveform, expected, atol=1e-4)
    # A row with padding is the row alone, up to its end.
    padded = np.full((2, 15, 80), np.nan, "float32")
    padded[0, :12] = mel[0]
    padded[1] = normal(15, 80, seed=3)
    more = np.concatenate([np.pad(sines, ((0, 0), (0, 3 * 480), (0, 0))), normal(1, 7200, 9)])
    mask = np.arange(15) < np.array([[12], [15]])
    batched = run(vocoder, padded, more, mask)
    np.testing.assert_allclose(batched[0, : 12 * 480], waveform[0], atol=1e-5)
    assert not batched[0, 12 * 480 :].any()
    batched = run(vocoder, padded, mask, method=vocoder.predict_f0)
    np.testing.assert_allclose(batched[0, :12], found[0], rtol=1e-4, atol=1e-3)


def test_encoder():
    flow = make_flow()
    import torch

    encoder = S3GenEncoder(20, 80, 2, 1, num_heads=2, hidden_dim=32, intermediate_dim=48)
    encoder.build((None, None))
    tensors, targets = StateTensors(flow, "flow"), encoder_targets(encoder)
    assign_tensors(tensors, targets, ignored=set(tensors.names()) - set(targets))
    tokens = np.random.default_rng(0).integers(0, 20, (2, 11)).astype("int32")
    expected = []
    with torch.inference_mode():
        for row, length in zip(tokens, (11, 8), strict=True):
            embedded = flow.input_embedding(torch.tensor(row[None, :length]))
            hidden, _ = flow.encoder(embedded, torch.tensor([length]))
            expected.append(flow.encoder_proj(hidden).numpy()[0])
    mask = np.arange(11) < np.array([[11], [8]])
    found = run(encoder, tokens, mask)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4)
    np.testing.assert_allclose(found[1, :16], expected[1], atol=1e-4)


@pytest.mark.parametrize("mean_flow", [False, True])
def test_estimator(mean_flow):
    model = make_flow(mean_flow=mean_flow).decoder.estimator
    import torch

    estimator = FlowEstimator(80, 16, 2, 64, 1, 2, mean_flow=mean_flow)
    estimator.build((None, None, 80))
    place = "flow.decoder.estimator"
    assign_tensors(StateTensors(model, place), estimator_targets(estimator))
    mel, mean, condition = normal(3, 2, 14, 80)
    speaker, mask = normal(2, 80, seed=1), np.arange(14) < np.array([[14], [9]])
    time, next_time = np.array([0.3, 0.7], "float32"), np.array([0.8, 0.9], "float32")

    def torch_input(x):
        return torch.tensor(x if x.ndim < 3 else x.transpose(0, 2, 1))

    arguments = [torch_input(x) for x in (mel, mask[..., None].astype("float32"), mean, time)]
    others = [torch_input(x) for x in (speaker, condition)]
    with torch.inference_mode():
        r = torch.tensor(next_time) if mean_flow else None
        expected = model(*arguments, *others, r=r).numpy().transpose(0, 2, 1)
    mel[1, 9:] = np.nan
    found = run(estimator, mel, mean, speaker, condition, time, next_time, mask)
    assert np.abs(expected).std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)
