import keras
import numpy as np
import pytest
from keras import ops

from keras_speechssm.training.adversarial import Discriminators


def small():
    keras.utils.set_random_seed(0)
    return Discriminators(channels=2, pools=(1, 2), windows=(256,))


@pytest.mark.slow_to_compile
def test_each_gives_its_activations_and_logits():
    waveform = np.random.default_rng(0).normal(size=(2, 4096)).astype("float32")
    found = small()(waveform)
    assert len(found) == 3
    # 4,096 samples through four strides of 4; half of them after the average.
    assert [tuple(activations[-1].shape) for activations in found[:2]] == [(2, 16, 1), (2, 8, 1)]
    # 65 frames of hop 64 through three strides of 2 (rounded up), all bins into one.
    assert tuple(found[2][-1].shape) == (2, 9, 1, 1)
    assert [len(activations) for activations in found] == [7, 7, 8]


@pytest.mark.slow_to_compile
@pytest.mark.parametrize("member", [0, 1, 2])
def test_every_activation_hears_the_waveform(member):
    model, rng = small(), np.random.default_rng(0)
    a, b = (rng.normal(size=(1, 4096)).astype("float32") for _ in range(2))
    for x, y in zip(model(a)[member], model(b)[member], strict=True):
        assert np.abs(ops.convert_to_numpy(x) - ops.convert_to_numpy(y)).max() > 1e-4


def test_config_round_trip():
    model = small()
    again = Discriminators.from_config(model.get_config())
    assert (again.channels, again.pools, again.windows) == (2, (1, 2), (256,))
