"""Crops of damaged recordings cost a warning, not the training."""

import numpy as np
import pytest

from keras_speechssm.audio.io import write_audio
from keras_speechssm.training.codec import CodecBatches
from keras_speechssm.training.speech_crops import CropBatches

pytestmark = pytest.mark.any_backend


@pytest.fixture
def corpus(tmp_path):
    """Two whole recordings, and one that is cut to a third of what its header says."""
    rng = np.random.default_rng(0)
    for name in ("a.wav", "b.flac", "cut.flac"):
        write_audio(tmp_path / name, 0.1 * rng.normal(size=96_000))
    cut = tmp_path / "cut.flac"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 3])
    return tmp_path


@pytest.mark.parametrize(
    "make",
    [lambda folder: CodecBatches([folder], 2, 0.4, 0), lambda folder: CropBatches([folder], 1, 2)],
    ids=["codec", "tokenizer"],
)
def test_a_recording_shorter_than_its_header_does_not_end_a_training(corpus, caplog, make):
    batches = make(corpus)
    seen = [batches(step) for step in range(12)]
    assert "A crop was skipped" in caplog.text and "cut.flac is damaged" in caplog.text
    # A resumed run, which begins in the middle, gets the same batches.
    again = make(corpus)
    for step in (11, 5):
        one, other = (batch[0] for batch in (seen[step], again(step)))
        if isinstance(one, dict):
            one, other = one["waveform"], other["waveform"]
        np.testing.assert_array_equal(one, other)


def test_a_folder_of_damaged_recordings_is_refused(corpus):
    for name in ("a.wav", "b.flac"):
        (corpus / name).unlink()
    batches = CodecBatches([corpus], 2, 0.4, 0)
    batches.files = [[(path, 1000.0) for path, _ in batches.files[0]]]
    with pytest.raises(ValueError, match="cut.flac"):
        [batches(step) for step in range(3)]
