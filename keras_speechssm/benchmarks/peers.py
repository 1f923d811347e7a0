"""The peers of this package's Griffin, each as calls to be timed; see `griffin_models`."""

import dataclasses
import inspect
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class GriffinSize:
    """Sizes of a Griffin; the defaults are 21 M parameters, for a CPU."""

    num_layers: int = 6
    hidden_dim: int = 512
    intermediate_dim: int = 1536
    num_heads: int = 4
    vocabulary_size: int = 4096
    attention_window: int = 2048

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{field.name} takes an integer of at least 1, got {value!r}.")

    @classmethod
    def from_config(cls, config: dict | None) -> "GriffinSize":
        """The size with these fields; `ValueError` for others."""
        config = config or {}
        names = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(config) - set(names)):
            raise ValueError(f"A size has {', '.join(names)}; got {unknown[0]!r}.")
        return cls(**config)

    def tokens(self, batch: int, length: int) -> np.ndarray:
        """Random tokens, int32 (batch, length)."""
        rng = np.random.default_rng(0)
        return rng.integers(0, self.vocabulary_size, (batch, length), dtype="int32")


def state_bytes(model) -> int:
    """The state of one sequence in a model of this package."""
    import keras

    leaves = keras.tree.flatten(model.initial_state(1))
    return sum(keras.ops.convert_to_numpy(leaf).nbytes for leaf in leaves)


class CachedSpeechTransformer:
    """This package's `SpeechTransformer` on Gemma, its cache as long as a sequence gets.

    Attention is global and multi-query; width, depth, heads and MLP are the others'.
    """

    def __init__(self, size: GriffinSize):
        import keras_hub

        self.size = size
        self.backbone = keras_hub.models.GemmaBackbone(
            vocabulary_size=size.vocabulary_size,
            num_layers=size.num_layers,
            num_query_heads=size.num_heads,
            num_key_value_heads=1,
            hidden_dim=size.hidden_dim,
            intermediate_dim=2 * size.intermediate_dim,  # both branches of the MLP
            head_dim=size.hidden_dim // size.num_heads,
        )

    def num_parameters(self) -> int:
        return self.backbone.count_params()

    def session_bytes(self, length: int) -> int:
        """Keys and values of one sequence of `length` tokens."""
        return state_bytes(self._model(length))

    def decode(self, batch: int, steps: int, context: int = 1) -> Callable[[], object]:
        """Every call makes the same steps, `context` tokens being cached: zeros, unread."""
        from keras import ops

        model = self._model(context + steps)
        state = model.start_generation(self.size.tokens(batch, 1), seed=0)
        length = ops.full((batch,), context, dtype="int32")
        state = state._replace(model={**state.model, "length": length})
        return lambda: model.continue_generation(state, steps)

    def _model(self, max_length):
        from keras_speechssm.models.speech_transformer.speech_transformer import SpeechTransformer

        return SpeechTransformer(self.backbone, max_length=max_length)


class FlaxReference:
    """`recurrentgemma.jax`, the authors' implementation."""

    def __init__(self, size: GriffinSize):
        import jax
        import jax.numpy as jnp
        from recurrentgemma import jax as reference
        from recurrentgemma.common import TemporalBlockType

        pattern = (TemporalBlockType.RECURRENT,) * 2 + (TemporalBlockType.ATTENTION,)
        self.size = size
        self.model = reference.Griffin(
            reference.GriffinConfig(
                vocab_size=size.vocabulary_size,
                width=size.hidden_dim,
                mlp_expanded_width=size.intermediate_dim,
                num_heads=size.num_heads,
                block_types=tuple(pattern[n % 3] for n in range(size.num_layers)),
                embeddings_scale_by_sqrt_dim=True,
                attention_window_size=size.attention_window,
                logits_soft_cap=30.0,
                lru_width=size.hidden_dim,
            )
        )
        tokens = jnp.zeros((1, 2), "int32")
        self.params = self.model.init(jax.random.key(0), tokens, jnp.arange(2)[None])

    def num_parameters(self) -> int:
        import jax

        return sum(leaf.size for leaf in jax.tree_util.tree_leaves(self.params))

    def _inputs(self, batch, length):
        import jax.numpy as jnp

        positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
        return jnp.asarray(self.size.tokens(batch, length)), positions

    def forward(self, batch: int, length: int) -> Callable[[], object]:
        import jax

        inputs = self._inputs(batch, length)
        apply = jax.jit(lambda params, *inputs: self.model.apply(params, *inputs)[0])
        return lambda: apply(self.params, *inputs).block_until_ready()

    def train(self, batch: int, length: int) -> Callable[[], object]:
        import jax
        import jax.numpy as jnp
        import optax

        optimizer = optax.adam(1e-3)
        carried = self.params, optimizer.init(self.params)
        targets = self.size.tokens(batch, length + 1)[:, 1:]
        inputs = self._inputs(batch, length)

        def loss(params):
            logits = self.model.apply(params, *inputs)[0]
            return optax.softmax_cross_entropy_with_integer_labels(
                logits.astype(jnp.float32), targets
            ).mean()

        @jax.jit
        def step(params, moments):
            gradients = jax.grad(loss)(params)
            updates, moments = optimizer.update(gradients, moments)
            return optax.apply_updates(params, updates), moments

        def step_on():
            nonlocal carried
            carried = jax.block_until_ready(step(*carried))

        return step_on

    def decode(self, batch: int, steps: int, context: int = 1) -> Callable[[], object]:
        import jax
        import jax.numpy as jnp

        # A whole window first, whatever `context` is: the cache then has its final size.
        prompt = self._inputs(batch, self.size.attention_window)
        _, cache = jax.jit(self.model.apply)(self.params, *prompt)
        position = self.size.attention_window

        @jax.jit
        def step(params, token, position, cache):
            logits, cache = self.model.apply(params, token, position, cache)
            return jnp.argmax(logits[:, -1:], axis=-1).astype("int32"), cache

        token = jnp.zeros((batch, 1), "int32")

        def step_on():
            nonlocal token, cache, position
            for _ in range(steps):
                token, cache = step(self.params, token, jnp.full((batch, 1), position), cache)
                position += 1
            token.block_until_ready()

        return step_on


class HuggingFace:
    """`transformers`' RecurrentGemma on torch."""

    def __init__(self, size: GriffinSize):
        import torch
        from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

        torch.manual_seed(0)
        self.size = size
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = RecurrentGemmaForCausalLM(
            RecurrentGemmaConfig(
                vocab_size=size.vocabulary_size,
                hidden_size=size.hidden_dim,
                intermediate_size=2 * size.intermediate_dim,  # both branches of the MLP
                num_attention_heads=size.num_heads,
                num_key_value_heads=1,
                num_hidden_layers=size.num_layers,
                lru_width=size.hidden_dim,
                attention_window_size=size.attention_window,
            )
        ).to(self.device)

    def num_parameters(self) -> int:
        return self.model.num_parameters()

    def _tokens(self, batch, length):
        import torch

        return torch.tensor(self.size.tokens(batch, length), dtype=torch.long, device=self.device)

    def _wait(self):
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def forward(self, batch: int, length: int) -> Callable[[], object]:
        import torch

        tokens = self._tokens(batch, length)

        def run():
            with torch.no_grad():
                self.model(tokens, use_cache=False)
            self._wait()

        return run

    def train(self, batch: int, length: int) -> Callable[[], object]:
        import torch

        tokens = self._tokens(batch, length + 1)
        optimizer = torch.optim.Adam(self.model.parameters(), 1e-3)

        def step_on():
            logits = self.model(tokens[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self._wait()

        return step_on

    def decode(self, batch: int, steps: int, context: int = 1) -> Callable[[], object]:
        import torch
        from transformers import DynamicCache

        # transformers 5.24 renamed the argument.
        arguments = inspect.signature(self.model.forward).parameters
        name = "cache" if "cache" in arguments else "past_key_values"
        inputs = {name: DynamicCache(config=self.model.config), "use_cache": True}
        token = self._tokens(batch, max(2, context))  # its first call refuses a single one

        def step_on():
            nonlocal token
            with torch.no_grad():
                for _ in range(steps):
                    token = self.model(token, logits_to_keep=1, **inputs).logits.argmax(dim=-1)
            self._wait()

        return step_on


class DecodingSpeechSSM:
    """What `KerasSpeechSSM` and its quantized form share."""

    quantization: str | None = None

    def __init__(self, size: GriffinSize):
        from keras_speechssm.models.griffin.griffin_backbone import GriffinBackbone
        from keras_speechssm.models.speech_ssm.speech_ssm import SpeechSSM

        self.size = size
        self.model = SpeechSSM(GriffinBackbone(**dataclasses.asdict(size)))
        if self.quantization is not None:
            self.model.quantize(self.quantization)

    def num_parameters(self) -> int:
        return self.model.count_params()

    def session_bytes(self, length: int) -> int:
        """The state of one sequence, of any length."""
        return state_bytes(self.model)

    def decode(self, batch: int, steps: int, context: int = 1) -> Callable[[], object]:
        state = self.model.start_generation(self.size.tokens(batch, context), seed=0)

        def step_on():
            nonlocal state
            _, state = self.model.continue_generation(state, steps)

        return step_on


class KerasSpeechSSM(DecodingSpeechSSM):
    """This package, on the running Keras backend."""

    def forward(self, batch: int, length: int) -> Callable[[], object]:
        tokens = self.size.tokens(batch, length)
        return lambda: self.model.predict_on_batch(tokens)

    def train(self, batch: int, length: int) -> Callable[[], object]:
        tokens = self.size.tokens(batch, length + 1)
        self.model.compile(optimizer="adam", weighted_metrics=[])
        return lambda: self.model.train_on_batch(tokens[:, :-1], tokens[:, 1:])


class Int8SpeechSSM(DecodingSpeechSSM):
    """The same with its projections in int8, which decodes only."""

    quantization = "int8"


IMPLEMENTATIONS = {
    "keras_speechssm": KerasSpeechSSM,
    "keras_speechssm_int8": Int8SpeechSSM,
    "speech_transformer": CachedSpeechTransformer,
    "flax": FlaxReference,
    "hugging_face": HuggingFace,
}
"""Name of each implementation on the command line."""
