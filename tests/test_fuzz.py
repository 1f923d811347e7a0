"""Wrong input of any kind gets one line, in time, in little memory, and leaves no file.

`SPEECHSSM_FUZZ=1000 pytest -m slow tests/test_fuzz.py` tries as many cases as one likes;
tests/fuzz.py alone does so in one process that can be resumed.
"""

import json
import os
import random

import pytest
from fuzz import CASES, answered, bombs, odd_pipeline, use_stub_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_speechssm.models import SpeechSSMPreprocessor

pytestmark = pytest.mark.any_backend

FEW = {"odd_audio": 8, "odd_words": 6, "odd_paths": 8, "odd_config": 3, "odd_bytes": 2}
FEW |= {"odd_data": 6, "odd_call": 12}


@pytest.mark.parametrize("case", [case for case in CASES if case is not odd_pipeline])
def test_a_few_cases(tmp_path, monkeypatch, case):
    use_stub_tokenizer(monkeypatch)
    for seed in range(FEW[case.__name__]):
        folder = tmp_path / str(seed)
        folder.mkdir()
        case(random.Random(seed), folder)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_many_cases(tmp_path_factory, monkeypatch, case):
    use_stub_tokenizer(monkeypatch)
    count = int(os.environ.get("SPEECHSSM_FUZZ", "120")) // len(CASES)

    @settings(max_examples=count, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def try_cases(rng):
        case(rng, tmp_path_factory.mktemp("case"))

    try_cases()


def test_files_and_sizes_that_would_fill_the_memory(tmp_path):
    for name in bombs(tmp_path / "names"):
        folder = tmp_path / name.replace(" ", "_")
        with answered(folder):
            bombs(folder)[name]()
            pytest.fail(f"{name} is loaded")


@pytest.mark.parametrize("config", [1.5, {"sequence_length": "x"}, {"unknown": 1}])
def test_a_preprocessor_of_wrong_types(tmp_path, config):
    (tmp_path / "preprocessor.json").write_text(json.dumps({"config": config}))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="preprocessor of preset .* could not be loaded") as found:
        SpeechSSMPreprocessor.from_preset(str(tmp_path))
    assert "\n" not in str(found.value)
