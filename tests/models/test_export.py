"""What `export` writes gives the outputs of the model; what it cannot write gets one line."""

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import LEVELS, VOCABULARY, tiny_models

BACKEND = keras.backend.backend()
FORMAT = "torch" if BACKEND == "torch" else "tf_saved_model"
TIME = 8


@pytest.fixture(scope="module")
def models():
    names = ("semantic_tokenizer", "speech_lm", "soundstorm", "soundstream")
    return dict(zip(names, tiny_models(), strict=True))


def make_inputs(name):
    rng = np.random.default_rng(0)
    waveform = 0.1 * rng.normal(size=(1, 640 * TIME)).astype("float32")
    tokens = rng.integers(0, VOCABULARY, (1, TIME)).astype("int32")
    mask = np.ones((1, TIME), bool)
    acoustic = rng.integers(0, 16, (1, 2 * TIME, LEVELS)).astype("int32")
    return {
        "semantic_tokenizer": {"waveform": waveform, "padding_mask": mask},
        "speech_lm": {"token_ids": tokens, "padding_mask": mask, "reset_mask": ~mask},
        "soundstorm": {
            "semantic_tokens": tokens,
            "acoustic_tokens": acoustic,
            "level": np.zeros(1, "int32"),
            "padding_mask": np.ones((1, 2 * TIME), bool),
        },
        "soundstream": {"waveform": waveform},
    }[name]


def run_exported(path, inputs):
    if FORMAT == "torch":
        import torch

        given = {name: torch.as_tensor(value) for name, value in sorted(inputs.items())}
        model = torch.export.load(path).module()
        return model(given["waveform"] if len(given) == 1 else given)
    import tensorflow as tf

    given = {name: tf.constant(value) for name, value in inputs.items()}
    model = tf.saved_model.load(path)
    return model.serve(given["waveform"] if len(given) == 1 else given)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporters
@pytest.mark.parametrize("name", ["semantic_tokenizer", "speech_lm", "soundstorm", "soundstream"])
def test_the_exported_model_gives_the_same(models, tmp_path, name):
    if FORMAT != "torch":
        pytest.importorskip("tensorflow")
    model, inputs = models[name], make_inputs(name)
    given = inputs["waveform"] if len(inputs) == 1 else inputs
    expected = keras.tree.flatten(model(given))
    path = str(tmp_path / ("a.pt2" if FORMAT == "torch" else "a"))
    signature = None
    if BACKEND != "tensorflow":
        specs = {k: keras.InputSpec(shape=v.shape, dtype=v.dtype.name) for k, v in inputs.items()}
        signature = [specs["waveform"] if len(specs) == 1 else specs]
    model.export(path, format=FORMAT, verbose=False, input_signature=signature)
    found = keras.tree.flatten(run_exported(path, inputs))
    for one, other in zip(found, expected, strict=True):
        one, other = (ops.convert_to_numpy(ops.cast(x, "float32")) for x in (one, other))
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_what_cannot_be_exported_gets_one_line(models, tmp_path):
    for name, model in models.items():
        for format in ("onnx", "litert"):
            with pytest.raises(ValueError, match=f"'{format}'; expected '{FORMAT}' on the backend"):
                model.export(str(tmp_path / name), format=format)
        if BACKEND != "tensorflow":
            with pytest.raises(ValueError, match="fixed shapes: .*InputSpec") as caught:
                model.export(str(tmp_path / name), format=FORMAT)
            assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())
