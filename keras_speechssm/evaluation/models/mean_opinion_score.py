"""Predictors of mean opinion scores by name."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from keras_speechssm.evaluation.models.distill_mos import DISTILL_MOS, DistillMOSPredictor
from keras_speechssm.shapes import SAMPLE_RATE

DNSMOS = "dnsmos"


class MOSPredictor(Protocol):
    """Predict the opinion score, 1 to 5, of a waveform float32 (samples,) at 16 kHz."""

    name: str

    def __call__(self, waveform: np.ndarray) -> float: ...


class DNSMOSPredictor:
    """The overall score of DNSMOS P.835, from the package `speechmos`.

    It was made for noise suppression: it measures noise and distortion, but neither prosody nor
    content. Clips below 9 s are repeated.

    Reference:
        - [Reddy et al. 2022](https://arxiv.org/abs/2110.01763)
    """

    name = DNSMOS

    def __init__(self):
        from speechmos import dnsmos

        self._run = dnsmos.run

    def __call__(self, waveform: np.ndarray) -> float:
        waveform = np.clip(np.asarray(waveform, "float32"), -1.0, 1.0)
        if not len(waveform):
            raise ValueError("A MOS predictor needs audio; the waveform is empty.")
        return float(self._run(waveform, SAMPLE_RATE)["ovrl_mos"])


MOS_PREDICTORS: dict[str, Callable[[], MOSPredictor]] = {
    DNSMOS: DNSMOSPredictor,
    DISTILL_MOS: DistillMOSPredictor,
}
"""Predictors by name."""


def installed_mos_predictors() -> tuple[str, ...]:
    """Return the names of the predictors whose packages are installed."""
    packages = {DNSMOS: ("speechmos",), DISTILL_MOS: ("distillmos", "torch")}
    return tuple(name for name in MOS_PREDICTORS if all(map(find_spec, packages[name])))


def load_mos_predictor(name: str = DNSMOS) -> MOSPredictor:
    """Load a predictor of mean opinion scores by its name.

    Args:
        name: `dnsmos` or `distillmos`.

    Raises:
        ValueError: The name is unknown, or the weights are not installed.
    """
    if name not in MOS_PREDICTORS:
        raise ValueError(f"Unknown MOS predictor {name!r}; expected {' or '.join(MOS_PREDICTORS)}.")
    return MOS_PREDICTORS[name]()
