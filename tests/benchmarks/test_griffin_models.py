import numpy as np
import pytest

from keras_speechssm.benchmarks.griffin_models import IMPLEMENTATIONS, GriffinSize
from keras_speechssm.benchmarks.measurement import installed, measure

TINY = dict(
    num_layers=3,
    hidden_dim=16,
    intermediate_dim=24,
    num_heads=2,
    vocabulary_size=32,
    attention_window=8,
)


@pytest.fixture(params=list(IMPLEMENTATIONS))
def implementation(request):
    if not installed(request.param):
        pytest.skip(f"{request.param} is not installed (extra parity)")
    return request.param


def test_same_size_gives_the_same_number_of_parameters(implementation):
    ours = IMPLEMENTATIONS["keras_speechssm"](GriffinSize(**TINY)).num_parameters()
    assert IMPLEMENTATIONS[implementation](GriffinSize(**TINY)).num_parameters() == ours


def test_default_size_has_21_million_parameters():
    size = GriffinSize()
    assert IMPLEMENTATIONS["keras_speechssm"](size).num_parameters() == pytest.approx(
        21.3e6, rel=0.01
    )


@pytest.mark.parametrize("work, amount", [("forward", 12), ("train", 12), ("decode", 4)])
def test_work_is_timed(implementation, work, amount):
    found = measure(implementation, work, 2, amount, TINY, repeats=2)
    assert found["seconds"] > 0.0 and found["peak_gib"] > 0.0
    assert found["parameters"] > 0


def test_training_changes_weights_and_decoding_goes_on():
    model = IMPLEMENTATIONS["keras_speechssm"](GriffinSize(**TINY))
    before = [np.array(weight) for weight in model.model.get_weights()]
    model.train(1, 8)()
    after = model.model.get_weights()
    assert any(np.abs(a - b).max() > 0 for a, b in zip(before, after, strict=True))
