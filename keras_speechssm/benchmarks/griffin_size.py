"""The sizes that a benchmark gives to every implementation."""

import dataclasses

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
