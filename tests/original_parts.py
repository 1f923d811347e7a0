"""The originals of the open parts, with random weights, from `s3tokenizer` and `transformers`.

That of S3Gen is in `original_s3_gen.py`.
"""

import sys
import types

import numpy as np
import pytest


def s3_tokenizer_module():
    """PyPI's `s3tokenizer`; the packages that it imports for other models need not be there."""
    pytest.importorskip("torch")
    absent = [name for name in ("onnx", "torchaudio") if name not in sys.modules]
    for name in absent:
        sys.modules[name] = types.ModuleType(name)
    try:
        return pytest.importorskip("s3tokenizer")
    finally:
        for name in absent:
            del sys.modules[name]


def make_s3_tokenizer(num_layers=2, num_heads=2, hidden_dim=128, scale=0.05):
    """An S3TokenizerV2 with random weights."""
    s3_tokenizer_module()
    import torch
    from s3tokenizer.model_v2 import ModelConfig, S3TokenizerV2

    config = ModelConfig(
        n_mels=128, n_audio_state=hidden_dim, n_audio_head=num_heads, n_audio_layer=num_layers
    )
    model = S3TokenizerV2("speech_tokenizer_v2_25hz", config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, scale)
            if name.endswith("ln.weight"):
                parameter.add_(1.0)
    return model


def save_s3_tokenizer(model, path, prefix=""):
    """Writes a file as it is published."""
    from safetensors.torch import save_file

    state = {prefix + name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, str(path))


def s3_latents(model, mel, lengths):
    """The values before rounding of log-mel spectra (batch, mels, frames)."""
    import torch

    with torch.inference_mode():
        hidden, _ = model.encoder(torch.as_tensor(mel), torch.as_tensor(lengths))
        latents = model.quantizer._codebook.project_down(hidden).tanh() * 0.9990000128746033
    return latents.numpy()


def make_hubert(path, **config):
    """A HuBERT of `transformers` with random weights, saved to `path`."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "conv_dim": [8, 8, 8],
        "conv_kernel": [10, 8, 16],
        "conv_stride": [5, 8, 16],
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        **config,
    }
    torch.manual_seed(0)
    model = transformers.HubertModel(transformers.HubertConfig(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(path)
    return model


def make_base_hubert(path, name="mhubert"):
    """As `make_hubert`, with the sizes of mHuBERT-25Hz or of HuBERT base ("hubert")."""
    strides = [5, 2, 2, 2, 2, 2, 2, 2][: 8 if name == "mhubert" else 7]
    return make_hubert(
        path,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        conv_dim=[512] * len(strides),
        conv_kernel=[10, 3, 3, 3, 3, 2, 2, 2][: len(strides)],
        conv_stride=strides,
        num_conv_pos_embeddings=128,
        num_conv_pos_embedding_groups=16,
    )


def hidden_states(model, waveform, layer):
    """The features of one layer of a HuBERT."""
    import torch

    with torch.inference_mode():
        outputs = model(torch.tensor(waveform), output_hidden_states=True)
    return outputs.hidden_states[layer].numpy()


def make_dac(path, scale=0.01, **config):
    """A DAC of `transformers` with random weights, saved to `path`."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = {
        "encoder_hidden_size": 4,
        "decoder_hidden_size": 32,
        "n_codebooks": 3,
        "codebook_size": 16,
        **config,
    }
    config = transformers.DacConfig(downsampling_ratios=[2, 4, 5, 8], **config)
    model = transformers.DacModel(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("alpha"):
                parameter.uniform_(0.5, 2.0)
            elif parameter.ndim > 1 and "codebook" not in name:
                parameter.normal_(0.0, 0.5 / (parameter[0].numel() ** 0.5))
            else:  # Small biases: codes shall depend on the waveform.
                parameter.normal_(0.0, 1.0 if "codebook" in name else scale)
    model.save_pretrained(path)
    return model


def make_base_dac(path):
    """As `make_dac`, with the sizes of the published model for 16 kHz."""
    return make_dac(
        path,
        encoder_hidden_size=64,
        decoder_hidden_size=1536,
        n_codebooks=12,
        codebook_size=1024,
    )


def speech(*shape, seed=0):
    """Noise whose loudness varies, float32 in [-1, 1]; the samples are a multiple of 320."""
    rng = np.random.default_rng(seed)
    loudness = 10 ** rng.uniform(-4, -0.7, (*shape[:-1], shape[-1] // 320))
    noise = np.repeat(loudness, 320, axis=-1) * rng.normal(size=shape)
    return np.clip(noise, -1, 1).astype("float32")
