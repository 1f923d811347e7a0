from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from keras_speechssm.audio.io import read_audio
from keras_speechssm.evaluation.models.distill_mos import (
    DistillMOSPredictor,
    build_network,
    cut_windows,
)

pytestmark = pytest.mark.any_backend

PROMPT = Path(__file__).parents[3] / "examples" / "prompt.flac"


def test_windows_reach_from_the_first_sample_to_the_last():
    waveform = np.arange(300_000, dtype="float32")
    windows = cut_windows(waveform)
    assert windows[0, 0] == 0 and windows[-1, -1] == 299_999
    assert (np.diff(windows[:, 0]) <= 16_000).all()
    assert cut_windows(waveform[:122_880]).shape == (1, 122_880)
    short = cut_windows(waveform[1:1000])
    assert short.shape == (1, 122_880) and not short[0, 999:].any()


def test_the_network_scores_from_one_to_five():
    torch = pytest.importorskip("torch")
    network = build_network().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_133_226
    with torch.inference_mode():
        scores = network(torch.randn(2, 122_880))
    assert scores.shape == (2,) and ((scores > 1) & (scores < 5)).all()


def test_scores_are_those_of_the_published_package():
    torch = pytest.importorskip("torch")
    if find_spec("distillmos") is None:
        pytest.skip("distillmos is not installed")
    torch.set_num_threads(1)
    predict = DistillMOSPredictor()
    speech = read_audio(PROMPT)
    noise = 0.1 * np.random.default_rng(0).standard_normal(32_000).astype("float32")
    # Computed with distillmos 0.9.1 itself.
    assert predict(speech) == pytest.approx(3.1611, abs=1e-3)
    assert predict(noise) == pytest.approx(2.2058, abs=1e-3)
    with pytest.raises(ValueError, match="needs audio"):
        predict(speech[:0])
