"""The same Griffin in several libraries, each as calls to be timed.

Every class is made with a `GriffinSize` and gives functions that return only when their
work is done: `forward(batch, length)`, `train(batch, length)`, `decode(batch, steps, context)`.
"""

import dataclasses
from collections.abc import Callable

from keras_speechssm.benchmarks.griffin_size import GriffinSize
from keras_speechssm.benchmarks.peer_models import (
    CachedSpeechTransformer,
    FlaxReference,
    HuggingFace,
    state_bytes,
)


class DecodingSpeechSSM:
    """What `KerasSpeechSSM` and its quantised form share."""

    quantization: str | None = None

    def __init__(self, size: GriffinSize):
        from keras_speechssm.models import GriffinBackbone, SpeechSSM

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
