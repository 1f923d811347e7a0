"""Training and evaluation with a large vocabulary: the logits of a whole row never exist."""

import re

import keras
import keras_hub
import numpy as np
import pytest
from gradient import gradients
from keras import ops

from keras_speechssm.models import GriffinBackbone, SpeechSSM, SpeechTransformer, target_scores
from keras_speechssm.models.speech_language_model import InputsAndTargets
from keras_speechssm.models.target_scores import score_targets

VOCABULARY = 5000  # three chunks, the last one with an id less
BATCH, TIME = 3, 7
ALL_LOGITS = BATCH * TIME * VOCABULARY


def make_model(kind="ssm"):
    keras.utils.set_random_seed(0)
    if kind == "ssm":
        sizes = dict(attention_window=4, use_rotary=False, block_pattern=("recurrent",))
        return SpeechSSM(GriffinBackbone(VOCABULARY, 1, 8, 8, 1, **sizes))
    backbone = keras_hub.models.GemmaBackbone(VOCABULARY, 1, 1, 1, 8, 16, 8, dropout=0.5)
    return SpeechTransformer(backbone, max_length=16)


def make_batch(model):
    """Targets that the model predicts at some places, and weights that differ."""
    rng = np.random.default_rng(0)
    x = {
        "token_ids": rng.integers(0, VOCABULARY, (BATCH, TIME)).astype("int32"),
        "reset_mask": rng.random((BATCH, TIME)) < 0.3,
    }
    logits = keras.Model.predict_on_batch(model, x)
    assert logits.shape == (BATCH, TIME, VOCABULARY)
    y = np.where(rng.random((BATCH, TIME)) < 0.5, logits.argmax(axis=-1), x["token_ids"])
    return x, y.astype("int32"), rng.random((BATCH, TIME)).astype("float32")


def compile_model(model, **options):
    accuracy = keras.metrics.SparseCategoricalAccuracy
    options = {
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
        "weighted_metrics": [accuracy(name="weighted")],
        **options,
    }
    model.compile(optimizer=keras.optimizers.SGD(1.0), **options)
    return model


def train(model, batch):
    """Return the logs of evaluation and of training, and the gradients (a step of SGD)."""
    before = [ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    logs = [
        model.test_on_batch(*batch, return_dict=True),
        model.train_on_batch(*batch, return_dict=True),
    ]
    after = [ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    return logs, [old - new for old, new in zip(before, after, strict=True)]


@pytest.fixture(
    scope="module",
    params=["ssm", pytest.param("transformer", marks=pytest.mark.slow_to_compile)],
)
def trained(request):
    """A model that was trained in chunks, its batch, and what `train` returned."""
    model = make_model(request.param)
    batch = make_batch(model)
    return request.param, model, batch, train(compile_model(model), batch)


@pytest.mark.slow_to_compile("tensorflow")
def test_losses_metrics_and_gradients_are_those_of_whole_logits(trained, monkeypatch):
    kind, _, batch, (found, gradients) = trained
    monkeypatch.setattr(target_scores, "CHUNK_SIZE", VOCABULARY)
    expected, of_whole = train(compile_model(make_model(kind)), batch)
    for logs, other in zip(found, expected, strict=True):
        assert logs.keys() == other.keys() == {"loss", "accuracy", "weighted"}
        assert 0 < logs["accuracy"] < 1 or kind != "ssm"
        for name in logs:
            np.testing.assert_allclose(logs[name], other[name], rtol=1e-6, err_msg=name)
    for one, other in zip(gradients, of_whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    # Dropout is for training only.
    evaluated, of_training = (logs["loss"] for logs in found)
    assert (abs(evaluated - of_training) < 1e-5) == (kind == "ssm")


def compile_step(batch):
    """Return the program of a training step, and its temporary memory."""
    import jax

    model = compile_model(make_model())
    model.optimizer.build(model.trainable_variables)
    model._symbolic_build(data_batch=batch)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([variable.value for variable in group] for group in groups)
    compiled = jax.jit(model.train_step, donate_argnums=0).lower(state, batch).compile()
    arrays = re.findall(r"f32\[([\d,]+)\]", compiled.as_text())
    sizes = [np.prod([int(size) for size in array.split(",")]) for array in arrays]
    return max(sizes), compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="reads JAX's program")
def test_no_program_of_jax_has_the_logits_of_all_tokens(monkeypatch):
    tokens, weights = np.zeros((BATCH, TIME), "int32"), np.ones((BATCH, TIME), "float32")
    batch = ({"token_ids": tokens, "reset_mask": tokens == 0}, tokens, weights)
    largest, memory = compile_step(batch)
    monkeypatch.setattr(target_scores, "CHUNK_SIZE", VOCABULARY)
    of_whole, memory_of_whole = compile_step(batch)
    assert largest <= ALL_LOGITS / 2 and of_whole >= ALL_LOGITS
    assert memory < 0.7 * memory_of_whole, (memory, memory_of_whole)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"reverse_dtype": "float32", "logit_soft_cap": 3.0}, "mixed_bfloat16"),
        ({"tie_weights": False}, "float32"),
    ],
)
def test_scores_are_those_of_the_logits(options, dtype, monkeypatch):
    monkeypatch.setattr(target_scores, "CHUNK_SIZE", 4)
    keras.utils.set_random_seed(0)
    embedding = keras.layers.ReversibleEmbedding(11, 6, dtype=dtype, **options)
    embedding.build()
    embedding.set_weights([20 * weight for weight in embedding.get_weights()])
    hidden = np.random.default_rng(0).normal(size=(2, 5, 6)).astype("float32")
    hidden[1, 2] = 0  # all logits are equal: the first id counts
    logits = ops.convert_to_numpy(ops.cast(embedding(hidden, reverse=True), "float32"))
    targets = np.where(np.arange(10).reshape(2, 5) % 2, 3, logits.argmax(axis=-1))
    weights = np.arange(10, dtype="float32").reshape(2, 5)
    rounded = ops.convert_to_tensor(hidden, embedding.compute_dtype)
    scores = score_targets(embedding, rounded, ops.convert_to_tensor(targets))
    is_best = ops.convert_to_numpy(scores.is_best)[..., 0]
    np.testing.assert_array_equal(is_best, logits.argmax(axis=-1) == targets)

    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def in_chunks(hidden):
        hidden = ops.cast(hidden, embedding.compute_dtype)
        scores = score_targets(embedding, hidden, ops.convert_to_tensor(targets))
        return crossentropy(ops.zeros((2, 5)), scores.logits, ops.convert_to_tensor(weights))

    def whole(hidden):
        logits = embedding(ops.cast(hidden, embedding.compute_dtype), reverse=True)
        return crossentropy(targets, logits, ops.convert_to_tensor(weights))

    tolerance = 1e-6 if dtype == "float32" else 2e-2
    variables = embedding.trainable_variables
    for one, other in zip(
        gradients(in_chunks, [hidden], variables),
        gradients(whole, [hidden], variables),
        strict=True,
    ):
        for gradient, expected in zip(one, other, strict=True):
            np.testing.assert_allclose(gradient, expected, atol=tolerance, rtol=tolerance)


class OtherLoss(SpeechSSM):
    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs)


def uses_logits(model):
    tokens = np.zeros((BATCH, TIME), "int32")
    return not isinstance(model._with_targets((tokens, tokens))[0], InputsAndTargets)


def test_other_losses_and_metrics_get_the_logits():
    model = make_model()
    for options in ({}, {"metrics": None, "weighted_metrics": None}, {"weighted_metrics": "auto"}):
        assert not uses_logits(compile_model(model, **options))
    crossentropy = keras.losses.SparseCategoricalCrossentropy
    for options in (
        {"loss": "sparse_categorical_crossentropy"},
        {"loss": crossentropy()},
        {"loss": crossentropy(from_logits=True, ignore_class=0)},
        {"metrics": [keras.metrics.SparseTopKCategoricalAccuracy()]},
        {"weighted_metrics": ["crossentropy"]},
    ):
        assert uses_logits(compile_model(model, **options)), options
    assert uses_logits(compile_model(OtherLoss(model.backbone)))
