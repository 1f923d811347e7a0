import numpy as np
import pytest

from benchmarks.peers import IMPLEMENTATIONS, PEERS, is_installed
from keras_speechssm.benchmarks.griffin import GriffinSize, bench_train, measure

pytestmark = pytest.mark.any_backend

TINY = dict(
    num_layers=3,
    hidden_dim=16,
    intermediate_dim=24,
    num_heads=2,
    vocabulary_size=32,
    attention_window=8,
)


@pytest.fixture(params=PEERS)
def implementation(request):
    if not is_installed(request.param):
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
    found = measure(IMPLEMENTATIONS[implementation], work, 2, amount, TINY, repeats=2)
    assert found["seconds"] > 0.0 and found["peak_gib"] > 0.0
    assert found["parameters"] > 0


@pytest.mark.parametrize(
    "name", [pytest.param("keras_speechssm_int8", marks=pytest.mark.slow), "speech_transformer"]
)
def test_models_that_only_decode(name):
    found = measure(IMPLEMENTATIONS[name], "decode", 2, 4, TINY, repeats=1, context=9)
    assert found["seconds"] > 0.0 and found["limit_gflops"] > 0.0
    with pytest.raises(ValueError, match=f"{name} does not support train"):
        bench_train([8], implementations=[name], size=TINY)


def test_a_session_s_bytes_are_those_of_its_state():
    ours = IMPLEMENTATIONS["keras_speechssm"](GriffinSize(**TINY))
    # Keys and values of 9 slots, convolutions of 3 tokens, recurrences, positions and flags.
    assert ours.session_bytes(5) == ours.session_bytes(500)
    assert ours.session_bytes(5) == 4 * (2 * 9 * 8 + 2 * 3 * 16 + 2 * 16 + 1) + 2


def test_training_changes_the_weights():
    model = IMPLEMENTATIONS["keras_speechssm"](GriffinSize(**TINY))
    before = [np.array(weight) for weight in model.model.get_weights()]
    model.train(1, 8)()
    after = model.model.get_weights()
    assert any(np.abs(a - b).max() > 0 for a, b in zip(before, after, strict=True))
