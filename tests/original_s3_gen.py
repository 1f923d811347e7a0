"""The original S3Gen of PyPI's `chatterbox-light`, part by part, with random weights."""

import functools
import importlib.machinery
import importlib.util
import sys
import types

import numpy as np
import pytest

use_diffusers = False
"""Whether the estimator has the layers of the real `diffusers`, which is slow to import."""


def original(name):
    """A module of `chatterbox.models.s3gen`, without the packages that are slow to import."""
    torch = pytest.importorskip("torch")
    if "chatterbox" not in sys.modules:
        if importlib.util.find_spec("chatterbox") is None:
            pytest.skip("needs chatterbox: pip install --no-deps chatterbox-light")
        root = importlib.util.find_spec("chatterbox").submodule_search_locations[0]
        for package in ("chatterbox", "chatterbox.models", "chatterbox.models.s3gen"):
            module = types.ModuleType(package)
            module.__path__ = ["/".join([root, *package.split(".")[1:]])]
            sys.modules[package] = module
    stubs = {
        "torchaudio": {"functional": types.SimpleNamespace(melscale_fbanks=None)},
        "torchaudio.compliance": {},
        "torchaudio.compliance.kaldi": {},
        **({} if use_diffusers else _diffusers(torch)),
    }
    replaced = {stub: sys.modules.get(stub) for stub in stubs}
    for stub, content in stubs.items():
        sys.modules[stub] = types.ModuleType(stub)
        sys.modules[stub].__spec__ = importlib.machinery.ModuleSpec(stub, None)
        vars(sys.modules[stub]).update(content)
    try:
        return importlib.import_module(f"chatterbox.models.s3gen.{name}")
    finally:
        for stub, module in replaced.items():
            if module is None:
                del sys.modules[stub]
            else:
                sys.modules[stub] = module


@functools.cache
def _diffusers(torch):
    """What the estimator imports from `diffusers`, which takes as long as all tests here.

    The layers are those of `diffusers` 0.42, for the arguments that the estimator gives them.
    """

    class GELU(torch.nn.Module):
        def __init__(self, dim_in, dim_out):
            super().__init__()
            self.proj = torch.nn.Linear(dim_in, dim_out)

        def forward(self, x):
            return torch.nn.functional.gelu(self.proj(x))

    class Attention(torch.nn.Module):
        def __init__(self, query_dim, heads, dim_head, **_):
            super().__init__()
            self.heads = heads
            self.to_q, self.to_k, self.to_v = (
                torch.nn.Linear(query_dim, heads * dim_head, bias=False) for _ in range(3)
            )
            self.to_out = torch.nn.ModuleList([torch.nn.Linear(heads * dim_head, query_dim)])

        def forward(self, x, encoder_hidden_states=None, attention_mask=None):
            def split(y):
                return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

            parts = split(self.to_q(x)), split(self.to_k(x)), split(self.to_v(x))
            y = torch.nn.functional.scaled_dot_product_attention(
                *parts, attn_mask=attention_mask[:, None]
            )
            return self.to_out[0](y.transpose(1, 2).flatten(2))

    unused = dict.fromkeys(("GEGLU", "AdaLayerNorm", "AdaLayerNormZero", "ApproximateGELU"))
    return {
        "diffusers": {},
        "diffusers.models": {},
        "diffusers.models.activations": {"get_activation": lambda _: torch.nn.SiLU()},
        "diffusers.models.attention": {"GELU": GELU, **unused},
        "diffusers.models.attention_processor": {"Attention": Attention},
        "diffusers.models.lora": {"LoRACompatibleLinear": torch.nn.Linear},
        "diffusers.utils": {},
        "diffusers.utils.torch_utils": {"maybe_allow_in_graph": lambda cls: cls},
    }


def randomize(model):
    """Draws every weight, and statistics of normalizations that are not 0 and 1."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith(("running_var", "original0", "alpha")):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim > 1:
                tensor.normal_(0.0, 1.0 / tensor[0].numel() ** 0.5)
            else:
                tensor.normal_(1.0 if "weight" in name else 0.0, 0.2)
            if "resblocks" in name and name.endswith("original0"):
                tensor.mul_(0.3)  # Nine units add up.
            if name.endswith("classifier.weight"):
                tensor.mul_(100.0)  # Frequencies of a voice.
    return model.eval()


def make_speaker_encoder(growth=4, channels=16, sizes=(2, 1, 1)):
    xvector = original("xvector")
    # Otherwise 52 layers, whatever the arguments.
    xvector.zip = lambda *_: [(size, 3, min(i, 2)) for i, size in enumerate(sizes, start=1)]
    try:
        model = xvector.CAMPPlus(growth_rate=growth, init_channels=channels, memory_efficient=False)
    finally:
        del xvector.zip
    return randomize(model)


def make_vocoder(channels=16, f0_channels=8):
    f0_predictor = original("f0_predictor").ConvRNNF0Predictor(cond_channels=f0_channels)
    model = original("hifigan").HiFTGenerator(
        base_channels=channels,
        sampling_rate=24000,
        upsample_rates=[8, 5, 3],
        upsample_kernel_sizes=[16, 11, 7],
        source_resblock_kernel_sizes=[7, 7, 11],
        source_resblock_dilation_sizes=[[1, 3, 5]] * 3,
        f0_predictor=f0_predictor,
    )
    return randomize(model)


def make_flow(
    vocabulary_size=20,
    hidden_dim=32,
    intermediate_dim=48,
    num_heads=2,
    num_layers=2,
    num_upsampled_layers=1,
    channels=16,
    flow_heads=2,
    layers_per_stage=1,
    num_stages=2,
    mean_flow=False,
):
    upsample = original("transformer.upsample_encoder")
    encoder = upsample.UpsampleConformerEncoder(
        output_size=hidden_dim,
        attention_heads=num_heads,
        linear_units=intermediate_dim,
        num_blocks=num_layers,
        input_size=hidden_dim,
        pos_enc_layer_type="rel_pos_espnet",
    )
    # These sizes are constants there.
    encoder.pre_lookahead_layer = upsample.PreLookaheadLayer(hidden_dim, 3)
    encoder.up_layer = upsample.Upsample1D(hidden_dim, hidden_dim, 2)
    encoder.up_encoders = encoder.up_encoders[:num_upsampled_layers]
    estimator = original("decoder").ConditionalDecoder(
        channels=[channels],
        n_blocks=layers_per_stage,
        num_mid_blocks=num_stages,
        num_heads=flow_heads,
        meanflow=mean_flow,
    )
    flow = original("flow").CausalMaskedDiffWithXvec(
        input_size=hidden_dim,
        vocab_size=vocabulary_size,
        encoder=encoder,
        decoder=original("flow_matching").CausalConditionalCFM(estimator=estimator),
    )
    return randomize(flow)


def save_original(path, flow, vocoder, speaker_encoder, tokenizer=None):
    """Writes a file as Chatterbox publishes it, which has the weights of the tokenizer too."""
    import torch
    from safetensors.torch import save_file

    parts = {"flow": flow, "mel2wav": vocoder, "speaker_encoder": speaker_encoder}
    parts |= {} if tokenizer is None else {"tokenizer": tokenizer}
    state = {"tokenizer.window": torch.zeros(400)}
    for prefix, part in parts.items():
        state |= {f"{prefix}.{k}": v.contiguous() for k, v in part.state_dict().items()}
    save_file(state, str(path))


class StateTensors:
    """Reads a model of PyTorch as if it were a file."""

    place = "the original"

    def __init__(self, model, prefix):
        self._state = {f"{prefix}.{name}": value for name, value in model.state_dict().items()}

    def names(self):
        return [name for name in self._state if not name.endswith("num_batches_tracked")]

    def shape(self, name):
        return tuple(self._state[name].shape)

    def dtype(self, name):
        return "float32"

    def read(self, name):
        return self._state[name].numpy()


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")
