import inspect

import pytest

from keras_speechssm import layers, models
from keras_speechssm.layers import StreamingLayer

STREAMING = {"CausalConv1D", "CausalConv1DTranspose", "GriffinBlock", "LocalMultiQueryAttention"}
STREAMING |= {"RGLRU", "RecurrentBlock", "TemporalConv1D"}
STREAMING |= {"GriffinBackbone", "SpeechSSM", "SpeechTransformer"}


@pytest.mark.parametrize("module", [layers, models])
def test_the_layers_that_stream_are_known_by_the_protocol(module):
    classes = {name: getattr(module, name) for name in module.__all__}
    found = {
        name
        for name, value in classes.items()
        if inspect.isclass(value)
        and value is not StreamingLayer
        and issubclass(value, StreamingLayer)
    }
    assert found == STREAMING & set(classes)
    for name in found:
        assert list(inspect.signature(classes[name].initial_state).parameters)[1] == "batch_size"
        assert list(inspect.signature(classes[name].advance).parameters)[2] == "state"


def test_every_registered_layer_is_exported():
    import keras

    registered = {
        value.__name__
        for value in keras.saving.get_custom_objects().values()
        if getattr(value, "__module__", "").startswith("keras_speechssm.layers")
    }
    assert registered <= set(layers.__all__)
