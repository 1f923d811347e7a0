"""Small RecurrentGemma models of the two reference libraries, and the files they write.

Weights are drawn larger than a fresh model's, so that every one of them matters to the
logits.
"""

import numpy as np

VOCABULARY, WIDTH, HEADS, INTERMEDIATE, LRU_WIDTH, LAYERS, WINDOW = 23, 16, 2, 24, 32, 5, 6
PATTERN = ("recurrent", "recurrent", "attention")


def make_flax(seed=0):
    """`(model, params)` of google-deepmind/recurrentgemma."""
    import jax
    import jax.numpy as jnp
    from recurrentgemma import jax as reference
    from recurrentgemma.common import TemporalBlockType

    kinds = [TemporalBlockType[PATTERN[n % 3].upper()] for n in range(LAYERS)]
    model = reference.Griffin(
        reference.GriffinConfig(
            vocab_size=VOCABULARY,
            width=WIDTH,
            mlp_expanded_width=INTERMEDIATE,
            num_heads=HEADS,
            block_types=tuple(kinds),
            embeddings_scale_by_sqrt_dim=True,
            attention_window_size=WINDOW,
            logits_soft_cap=30.0,
            lru_width=LRU_WIDTH,
        )
    )
    tokens = jnp.zeros((1, 2), "int32")
    params = model.init(jax.random.key(seed), tokens, jnp.arange(2)[None])
    return model, _enlarge(params, np.random.default_rng(seed))


def _enlarge(params, rng):
    import jax

    def draw(path, value):
        name = path[-1].key
        if name == "a_param":
            return value
        spread = 0.3 if value.ndim == 1 or name == "b" else value.shape[-2] ** -0.5
        drawn = rng.normal(size=value.shape) * spread
        return drawn.astype("float32")

    return jax.tree_util.tree_map_with_path(draw, params)


def flax_logits(model, params, tokens, positions=None):
    """Logits float32 (batch, time, vocabulary); a position of 0 starts a document."""
    import jax

    if positions is None:
        positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    return np.asarray(jax.jit(model.apply)(params, tokens, positions)[0], "float32")


def save_flax(params, folder):
    import orbax.checkpoint

    orbax.checkpoint.PyTreeCheckpointer().save(folder.resolve(), params)


def torch_state(params):
    """The state dictionary of the reference's torch form."""
    from recurrentgemma.conversion import flax_params_to_pytorch_state_dict

    state = flax_params_to_pytorch_state_dict(params)
    return {name.removeprefix("params."): value.contiguous() for name, value in state.items()}


def make_hugging_face(seed=0, dtype=None):
    """A `RecurrentGemmaForCausalLM`."""
    import torch
    from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

    torch.manual_seed(seed)
    model = RecurrentGemmaForCausalLM(
        RecurrentGemmaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=2 * INTERMEDIATE,
            num_attention_heads=HEADS,
            num_key_value_heads=1,
            num_hidden_layers=LAYERS,
            lru_width=LRU_WIDTH,
            attention_window_size=WINDOW,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("recurrent_param"):
                spread = (
                    0.3 if parameter.ndim == 1 or "bias" in name else parameter.shape[-1] ** -0.5
                )
                parameter.copy_(torch.randn_like(parameter) * spread)
    return model.to(dtype or torch.float32).eval()


def hugging_face_logits(model, tokens, window):
    """Logits of the whole sequence where a query sees `window` keys, itself counted in."""
    import torch

    for layer in model.model.layers:
        if hasattr(layer.temporal_block, "attention_window_size"):
            layer.temporal_block.attention_window_size = window
    model.config.attention_window_size = window
    with torch.no_grad():
        logits = model(torch.tensor(tokens), use_cache=False).logits
    return logits.float().numpy()
