"""A model can be asked and saved while `fit` runs, and its `.keras` file resumes training."""

import dataclasses
import json
import threading
import zipfile

import keras
import keras_hub
import numpy as np
import pytest

from keras_speechssm.models import GriffinBackbone, SpeechSSM
from keras_speechssm.models.speech_language_model import Sampling

VOCABULARY = 7
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (8, 6)).astype("int32")


def make_model() -> SpeechSSM:
    keras.utils.set_random_seed(0)
    sizes = {"attention_window": 8, "use_rotary": False, "block_pattern": ("recurrent",)}
    model = SpeechSSM(GriffinBackbone(VOCABULARY, 1, 8, 8, 1, **sizes))
    model.compile(optimizer=keras.optimizers.AdamW(0.05), weighted_metrics=[])
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


def fit(model, *callbacks, epochs=1):
    x, y = TOKENS[:, :-1], TOKENS[:, 1:]
    history = model.fit(
        x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=[*callbacks]
    )
    return history.history["loss"]


def test_a_model_generates_and_is_saved_after_any_batch(model, tmp_path):
    asked, kept = [], []

    def ask(batch, logs):
        asked.append(model.generate(TOKENS[0], 4, seed=1))
        model.save_to_preset(tmp_path / "preset")
        kept.append([keras.ops.convert_to_numpy(weight) for weight in model.weights])

    fit(model, keras.callbacks.LambdaCallback(on_train_batch_end=ask))
    assert len(asked) == 2
    again = SpeechSSM.from_preset(str(tmp_path / "preset"))
    for saved, one in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(saved, one)
    # Each batch had the weights of that moment, and training was not disturbed.
    assert any(np.any(one != other) for one, other in zip(*kept, strict=True))
    plain = make_model()
    fit(plain)
    for one, other in zip(plain.weights, model.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the others do not lend weights")
def test_another_thread_and_a_part_of_the_model_get_one_line(model, tmp_path):
    errors = []

    def ask(use, *arguments):
        try:
            use(*arguments)
        except ValueError as error:
            errors.append(str(error))

    def on_batch(batch, logs):
        arguments = model.generate, TOKENS[0], 4
        thread = threading.Thread(target=ask, args=arguments)
        thread.start()
        thread.join()
        ask(model.backbone.save_to_preset, tmp_path / "backbone")

    fit(model, keras.callbacks.LambdaCallback(on_train_batch_end=on_batch))
    assert len(errors) == 4 and len({error[:20] for error in errors}) == 1
    assert all("`on_epoch_end`" in error and "\n" not in error for error in errors)
    assert not (tmp_path / "backbone").exists()
    assert model.generate(TOKENS[0], 4, seed=1).shape == (4,)


def test_a_keras_file_resumes_with_the_state_of_its_optimizer(model, tmp_path):
    fit(model)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again.optimizer, keras.optimizers.AdamW)
    assert int(again.optimizer.iterations) == int(model.optimizer.iterations) > 0
    np.testing.assert_allclose(fit(again, epochs=2), fit(model, epochs=2), rtol=1e-4)


def test_a_keras_file_keeps_the_sampler(tmp_path):
    model = make_model()
    model.compile(sampler=keras_hub.samplers.TopKSampler(k=3, temperature=0.5))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again._sampler == Sampling(0.5, top_k=3) and not again.optimizer.built
    assert keras.saving.load_model(tmp_path / "model.keras", compile=False)._sampler is None


def test_a_keras_file_of_an_earlier_version_keeps_the_sampler(tmp_path):
    model = make_model()
    model.compile(sampler="top_p")
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as new:
        names = [name for name in new.namelist() if not name.startswith("assets")]
        files = {name: new.read(name) for name in names}
    assert len(names) < len(new.namelist())
    config = json.loads(files["config.json"])
    state = {"sampler": dataclasses.asdict(Sampling(0.5, top_k=3)), "optimizer_built": False}
    config["compile_config"].update(state)
    files["config.json"] = json.dumps(config)
    with zipfile.ZipFile(tmp_path / "old.keras", "w") as old:
        for name, content in files.items():
            old.writestr(name, content)
    again = keras.saving.load_model(tmp_path / "old.keras")
    assert again._sampler == Sampling(0.5, top_k=3) and not again.optimizer.built
