"""Compare Griffin with other implementations.

python benchmarks/peers.py forward --lengths 1024 4096
python benchmarks/peers.py train --lengths 1024 --output train.json
python benchmarks/peers.py decode --batch-sizes 1 8 64

The implementations are this package, the authors' Flax code, and `transformers` (extras `parity`
and `torch`). Each one decodes in the way that it offers: this package samples in compiled blocks
from ring buffers, Flax takes the most likely token in a compiled step with a cache of its final
size, and `transformers` takes it with a growing cache.
"""

import argparse
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable

from keras_speechssm.benchmarks import griffin
from keras_speechssm.benchmarks.griffin import GriffinSize

_PACKAGES = {
    "keras_speechssm": ["keras"],
    "keras_speechssm_int8": ["keras"],
    "speech_transformer": ["keras_hub"],
    "flax": ["recurrentgemma"],
    "hugging_face": ["transformers", "torch"],
}


class FlaxReference:
    """The authors' implementation, `recurrentgemma.jax`."""

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
        """Count the parameters."""
        import jax

        return sum(leaf.size for leaf in jax.tree_util.tree_leaves(self.params))

    def _inputs(self, batch, length):
        import jax.numpy as jnp

        positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
        return jnp.asarray(self.size.tokens(batch, length)), positions

    def forward(self, batch: int, length: int) -> Callable[[], object]:
        """Return a function that runs a whole forward pass."""
        import jax

        inputs = self._inputs(batch, length)
        apply = jax.jit(lambda params, *inputs: self.model.apply(params, *inputs)[0])
        return lambda: apply(self.params, *inputs).block_until_ready()

    def train(self, batch: int, length: int) -> Callable[[], object]:
        """Return a function that runs a training step with Adam."""
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

        def run():
            nonlocal carried
            carried = jax.block_until_ready(step(*carried))

        return run

    def decode(self, batch: int, steps: int, context: int = 1) -> Callable[[], object]:
        """Return a function that decodes the next `steps` tokens at each call."""
        import jax
        import jax.numpy as jnp

        # A whole window for any `context`, because the cache then has its final size.
        prompt = self._inputs(batch, self.size.attention_window)
        _, cache = jax.jit(self.model.apply)(self.params, *prompt)
        position = self.size.attention_window

        @jax.jit
        def step(params, token, position, cache):
            logits, cache = self.model.apply(params, token, position, cache)
            return jnp.argmax(logits[:, -1:], axis=-1).astype("int32"), cache

        token = jnp.zeros((batch, 1), "int32")

        def run():
            nonlocal token, cache, position
            for _ in range(steps):
                token, cache = step(self.params, token, jnp.full((batch, 1), position), cache)
                position += 1
            token.block_until_ready()

        return run


class HuggingFace:
    """RecurrentGemma of Hugging Face `transformers`, on PyTorch."""

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
                intermediate_size=2 * size.intermediate_dim,  # Both branches of the MLP.
                num_attention_heads=size.num_heads,
                num_key_value_heads=1,
                num_hidden_layers=size.num_layers,
                lru_width=size.hidden_dim,
                attention_window_size=size.attention_window,
            )
        ).to(self.device)

    def num_parameters(self) -> int:
        """Count the parameters."""
        return self.model.num_parameters()

    def _tokens(self, batch, length):
        import torch

        return torch.tensor(self.size.tokens(batch, length), dtype=torch.long, device=self.device)

    def _wait(self):
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def forward(self, batch: int, length: int) -> Callable[[], object]:
        """Return a function that runs a whole forward pass."""
        import torch

        tokens = self._tokens(batch, length)

        def run():
            with torch.no_grad():
                self.model(tokens, use_cache=False)
            self._wait()

        return run

    def train(self, batch: int, length: int) -> Callable[[], object]:
        """Return a function that runs a training step with Adam."""
        import torch

        tokens = self._tokens(batch, length + 1)
        optimizer = torch.optim.Adam(self.model.parameters(), 1e-3)

        def run():
            logits = self.model(tokens[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self._wait()

        return run

    def decode(self, batch: int, steps: int, context: int = 1) -> Callable[[], object]:
        """Return a function that decodes the next `steps` tokens at each call."""
        import torch
        from transformers import DynamicCache

        # transformers 5.24 renamed the argument.
        arguments = inspect.signature(self.model.forward).parameters
        name = "cache" if "cache" in arguments else "past_key_values"
        inputs = {name: DynamicCache(config=self.model.config), "use_cache": True}
        token = self._tokens(batch, max(2, context))  # Its first call refuses a single token.

        def run():
            nonlocal token
            with torch.no_grad():
                for _ in range(steps):
                    token = self.model(token, logits_to_keep=1, **inputs).logits.argmax(dim=-1)
            self._wait()

        return run


IMPLEMENTATIONS = {
    **griffin.IMPLEMENTATIONS,
    "flax": FlaxReference,
    "hugging_face": HuggingFace,
}
"""Name on the command line -> class with `forward`, `train`, or `decode`."""

PEERS = ("keras_speechssm", "flax", "hugging_face")


def is_installed(implementation: str) -> bool:
    """Return whether the packages of an implementation are installed."""
    return all(importlib.util.find_spec(package) for package in _PACKAGES[implementation])


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", choices=["forward", "train", "decode"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--batch-size", type=int, default=1, help="of forward and train")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 64], help="of decode")
    parser.add_argument("--steps", type=int, default=256, help="decoded tokens per call")
    parser.add_argument("--context", type=int, default=1, help="tokens before the decoded ones")
    parser.add_argument("--implementations", nargs="+", default=list(PEERS))
    parser.add_argument("--size", type=json.loads, help="arguments of GriffinSize, as JSON")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls; the median counts")
    parser.add_argument("--memory-gib", type=float, help="memory limit of each measurement")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds per measurement")
    parser.add_argument("--output", help=".json file; a plot is written next to it")
    arguments = parser.parse_args(argv)
    try:
        bench_peers(**vars(arguments))
    except ValueError as error:
        parser.error(str(error))


def bench_peers(
    work: str,
    lengths,
    batch_size: int,
    batch_sizes,
    steps: int,
    context: int,
    implementations,
    **options,
) -> None:
    """Measure the installed implementations, and report the results.

    Args:
        work: `forward`, `train`, or `decode`.
        lengths: Lengths of the sequences of `forward` and `train`.
        batch_size: Number of sequences of `forward` and `train`.
        batch_sizes: Numbers of sequences of `decode`.
        steps: Number of tokens of one call of `decode`.
        context: Number of tokens before the decoded ones.
        implementations: Names in `IMPLEMENTATIONS`.
        **options: `size`, `repeats`, `memory_gib`, `timeout`, and `output` of `run_benchmark`.

    Raises:
        ValueError: An argument is out of range, or nothing could be measured.
    """
    names = griffin.choose(implementations, work, IMPLEMENTATIONS)
    names = [name for name in names if is_installed(name)]
    if not names:
        raise ValueError("None of the implementations is installed: pip install '.[parity,torch]'.")
    if work == "decode":
        grid = [(size, steps) for size in batch_sizes]
    else:
        grid, context = [(batch_size, length) for length in lengths], None
    command = [sys.executable, __file__, "--task"]
    griffin.run_benchmark(work, grid, names, context=context, command=command, **options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--task"]:  # A subprocess of `run_benchmark`.
        griffin.run_task(sys.argv[2], IMPLEMENTATIONS)
    else:
        main()
