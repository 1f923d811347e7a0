"""One tiny SpeechSSM for the tests of this folder: compiling it is what takes the time."""

import keras
import pytest
from keras import ops

from keras_speechssm.compilation import compile_inference
from keras_speechssm.models.griffin.griffin_backbone import GriffinBackbone
from keras_speechssm.models.speech_ssm.speech_ssm import SpeechSSM

VOCABULARY = 13


@pytest.fixture(scope="session")
def model():
    """Window 6, so that tests reach past it; weights as drawn."""
    keras.utils.set_random_seed(0)
    backbone = GriffinBackbone(
        vocabulary_size=VOCABULARY,
        num_layers=2,
        hidden_dim=16,
        intermediate_dim=24,
        num_heads=2,
        attention_window=6,
        use_rotary=False,
        block_pattern=("recurrent", "attention"),
    )
    return SpeechSSM(backbone)


@pytest.fixture(scope="session")
def whole(model):
    """The whole forward, tokens -> logits, as NumPy arrays; compiled, for the tests' speed."""
    forward = compile_inference(model, lambda inputs: model(inputs))

    def run(tokens, **masks):
        inputs = {"token_ids": tokens, **masks}
        return ops.convert_to_numpy(
            forward({k: ops.convert_to_tensor(v) for k, v in inputs.items()})
        )

    return run
