"""Puts this folder on the path, so that tests share `contract.py`; settings of libraries."""

import os
import sys
from pathlib import Path

# As the package does; Keras' own default is TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

# The first call of anything compiles; a deadline for each example would measure that.
settings.register_profile("keras_speechssm", deadline=None)
settings.load_profile("keras_speechssm")

if keras.backend.backend() == "torch":
    import torch

    # Tests are small: threads that wait for one another make them many times slower.
    torch.set_num_threads(1)

# Files whose subject computes with NumPy alone, or hands on to what has tests of its own:
# `run_on_backends.sh` runs them once, not on each backend.
ANY_BACKEND = {"data", "evaluation", "test_architecture.py", "test_audio.py", "test_documents.py"}
ANY_BACKEND |= {"test_examples.py", "test_function_parser.py", "test_packaging.py"}
ANY_BACKEND |= {"test_process_memory.py", "test_waveform.py", "test_whole_files.py"}
ANY_BACKEND |= {"test_windows.py"}
EACH_BACKEND = {"test_continuation.py", "test_generation.py", "test_packing.py"}
EACH_BACKEND |= {"test_phoneme_error.py", "test_position_likelihood.py", "test_report.py"}
EACH_BACKEND |= {"test_text_models.py", "test_token_agreement.py", "test_token_perplexity.py"}
EACH_BACKEND |= {"test_tokenization.py"}


def pytest_collection_modifyitems(items):
    root = Path(__file__).parent
    for item in items:
        parts = item.path.relative_to(root).parts
        if parts[0] in ANY_BACKEND and parts[-1] not in EACH_BACKEND:
            item.add_marker(pytest.mark.any_backend)
