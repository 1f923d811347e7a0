"""What RecurrentGemma's tensors are called and how they lie, in its three published forms.

Ours are the names of `GriffinBackbone`'s variables. Flax is the reference's form (orbax
on Kaggle), torch the same names with dots and transposed dense kernels (`.pt` on Kaggle),
Hugging Face has names of its own.
"""

from dataclasses import dataclass

import numpy as np

_DENSE, _PLAIN, _CONVOLUTION, _BRANCH_KERNEL, _BRANCH_BIAS = range(5)


@dataclass(frozen=True)
class ForeignTensor:
    """Where one of our variables lies in a checkpoint, and how.

    Attributes:
        name: the tensor's name there.
        form: "flax", "torch" or "hugging_face".
        kind: how the forms lay it out.
        branch: index of ours in a tensor that stacks both branches of the MLP.
    """

    name: str
    form: str
    kind: int
    branch: int = 0

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Shape there of a variable of shape `ours` here."""
        if self.kind == _DENSE and self.form != "flax":
            return ours[::-1]
        if self.kind == _CONVOLUTION and self.form == "hugging_face":
            return ours[1], 1, ours[0]
        if self.form != "hugging_face" and self.kind == _BRANCH_KERNEL:
            return 2, *ours
        if self.form != "hugging_face" and self.kind == _BRANCH_BIAS:
            return 2, 1, 1, *ours
        return ours[::-1] if self.kind == _BRANCH_KERNEL else ours

    def to_ours(self, tensor: np.ndarray) -> np.ndarray:
        """The tensor as our variable has it."""
        if self.kind == _CONVOLUTION and self.form == "hugging_face":
            return tensor[:, 0].T
        if self.form == "hugging_face":
            return tensor.T if self.kind in (_DENSE, _BRANCH_KERNEL) else tensor
        if self.kind == _BRANCH_KERNEL:
            return tensor[self.branch]
        if self.kind == _BRANCH_BIAS:
            return tensor[self.branch, 0, 0]
        return tensor.T if self.kind == _DENSE and self.form == "torch" else tensor

    def from_ours(self, array: np.ndarray) -> np.ndarray:
        """Our variable as Hugging Face's form has it."""
        if self.kind == _CONVOLUTION:
            return np.ascontiguousarray(array.T[:, None])
        return np.ascontiguousarray(array.T if self.kind in (_DENSE, _BRANCH_KERNEL) else array)


# Ours below a block -> Flax's, Hugging Face's, kind, branch.
_BLOCK = {
    "temporal_pre_norm/scale": ("temporal_pre_norm/scale", "temporal_pre_norm.weight", _PLAIN),
    "channel_pre_norm/scale": ("channel_pre_norm/scale", "channel_pre_norm.weight", _PLAIN),
    "mlp_block/gate_dense/kernel": (
        "mlp_block/ffw_up/w",
        "mlp_block.gate_proj.weight",
        _BRANCH_KERNEL,
        0,
    ),
    "mlp_block/gate_dense/bias": (
        "mlp_block/ffw_up/b",
        "mlp_block.gate_proj.bias",
        _BRANCH_BIAS,
        0,
    ),
    "mlp_block/up_dense/kernel": (
        "mlp_block/ffw_up/w",
        "mlp_block.up_proj.weight",
        _BRANCH_KERNEL,
        1,
    ),
    "mlp_block/up_dense/bias": ("mlp_block/ffw_up/b", "mlp_block.up_proj.bias", _BRANCH_BIAS, 1),
    "mlp_block/down_dense/kernel": (
        "mlp_block/ffw_down/kernel",
        "mlp_block.down_proj.weight",
        _DENSE,
    ),
    "mlp_block/down_dense/bias": ("mlp_block/ffw_down/bias", "mlp_block.down_proj.bias", _PLAIN),
}
for _linear in ("linear_x", "linear_y", "linear_out"):
    for _ours, _theirs, _kind in (("kernel", "weight", _DENSE), ("bias", "bias", _PLAIN)):
        _BLOCK[f"temporal_block/{_linear}/{_ours}"] = (
            f"recurrent_block/{_linear}/{_ours}",
            f"temporal_block.{_linear}.{_theirs}",
            _kind,
        )
_BLOCK["temporal_block/conv_1d/kernel"] = (
    "recurrent_block/conv_1d/w",
    "temporal_block.conv_1d.weight",
    _CONVOLUTION,
)
_BLOCK["temporal_block/conv_1d/bias"] = (
    "recurrent_block/conv_1d/b",
    "temporal_block.conv_1d.bias",
    _PLAIN,
)
_BLOCK["temporal_block/rg_lru/a_param"] = (
    "recurrent_block/rg_lru/a_param",
    "temporal_block.rg_lru.recurrent_param",
    _PLAIN,
)
for _gate, _theirs in (("input_gate", "input_gate"), ("a_gate", "recurrent_gate")):
    for _ours, _short, _long in (("kernel", "w", "weight"), ("bias", "b", "bias")):
        _BLOCK[f"temporal_block/rg_lru/{_gate}/{_ours}"] = (
            f"recurrent_block/rg_lru/{_gate}/{_short}",
            f"temporal_block.rg_lru.{_theirs}_{_long}",
            _PLAIN,
        )
for _dense, _flax, _theirs in (
    ("query_dense", "proj_q", "q_proj"),
    ("key_dense", "proj_k", "k_proj"),
    ("value_dense", "proj_v", "v_proj"),
    ("output_dense", "proj_final", "o_proj"),
):
    _BLOCK[f"temporal_block/{_dense}/kernel"] = (
        f"attention_block/{_flax}/kernel",
        f"temporal_block.{_theirs}.weight",
        _DENSE,
    )
_BLOCK["temporal_block/output_dense/bias"] = (
    "attention_block/proj_final/bias",
    "temporal_block.o_proj.bias",
    _PLAIN,
)

_WHOLE = {
    "token_embedding/embeddings": ("embedder/input_embedding", "model.embed_tokens.weight"),
    "final_norm/scale": ("final_norm/scale", "model.final_norm.weight"),
}


def foreign_tensor(path: str, form: str) -> ForeignTensor:
    """Where the variable `path` of a `GriffinBackbone` lies in a checkpoint of `form`."""
    if path in _WHOLE:
        flax, hugging_face = _WHOLE[path]
        kind, branch = _PLAIN, 0
    else:
        block, _, rest = path.partition("/")
        flax, hugging_face, kind, *branches = _BLOCK[rest]
        number, branch = block.removeprefix("griffin_block_"), sum(branches)
        flax, hugging_face = f"blocks.{number}/{flax}", f"model.layers.{number}.{hugging_face}"
    if form == "hugging_face":
        return ForeignTensor(hugging_face, form, kind, branch)
    if form == "torch":
        flax = flax.replace("/", ".").replace(".kernel", ".weight")
    return ForeignTensor(flax, form, kind, branch)
