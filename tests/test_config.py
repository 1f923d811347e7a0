import random

import keras
import pytest

from keras_speechssm import config, layers


def test_the_recurrence_implementation_is_set_for_the_process():
    assert config.recurrence_implementation() == "auto"
    assert layers.set_recurrence_implementation is config.set_recurrence_implementation
    try:
        config.set_recurrence_implementation("scan")
        assert config.recurrence_implementation() == "scan"
    finally:
        config.set_recurrence_implementation("auto")


def test_an_unknown_implementation_changes_nothing():
    with pytest.raises(ValueError, match="got 'parallel'; on .* choose one of"):
        config.set_recurrence_implementation("parallel")
    if keras.config.backend() != "jax":
        with pytest.raises(ValueError, match="choose one of"):
            config.set_recurrence_implementation("pallas")
    assert config.recurrence_implementation() == "auto"


def test_seeds_follow_keras():
    keras.utils.set_random_seed(3)
    first = [config.draw_seed() for _ in range(3)]
    keras.utils.set_random_seed(3)
    assert [config.draw_seed() for _ in range(3)] == first
    assert len(set(first)) == 3 and all(0 <= seed < 2**63 for seed in first)
    random.seed()
