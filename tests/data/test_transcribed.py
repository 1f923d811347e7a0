import numpy as np
import pytest

from keras_speechssm.audio import read_audio, write_audio
from keras_speechssm.data import transcribed
from keras_speechssm.data.corpora import read_segments
from keras_speechssm.data.transcribed import prepare_transcribed
from keras_speechssm.data.voices import missing_programs

needs_flite = pytest.mark.skipif("flite" in missing_programs(), reason="not installed: flite")


@pytest.fixture
def recordings(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name, seconds in (("LJ1", 1.0), ("LJ2", 2.0), ("noise", 1.0)):
        write_audio(tmp_path / "in" / "deep" / f"{name}.flac", np.full(int(16e3 * seconds), 0.1))
    (tmp_path / "t.csv").write_text("LJ1|Dr. Hello|Hello there.\n\nLJ2|Hello.\nLJ3|Gone.\n")
    return tmp_path


@needs_flite
def test_words_and_phonemes_lie_beside_links(recordings, monkeypatch):
    arguments = recordings / "in", recordings / "t.csv", recordings / "out"
    expected = {"recordings": 2, "without_transcript": 1}
    assert prepare_transcribed(*arguments) == expected
    (segment,) = read_segments(recordings / "out" / "LJ1.flac")
    assert (segment.text, segment.start, segment.end) == ("Hello there.", 0.0, 1.0)
    assert segment.phonemes == ("hh", "ax", "l", "ow", "dh", "eh", "r")
    assert len(read_audio(recordings / "out" / "LJ2.flac")) == 32000
    assert not (recordings / "out" / "noise.json").exists()
    monkeypatch.setattr(transcribed, "pronounce", None)  # what is there is not made again
    assert prepare_transcribed(*arguments) == expected


@needs_flite
def test_what_does_not_fit_is_said_before_anything_is_written(recordings):
    for lines, message in (("LJ1\n", "line 1: expected <name>"), ("LJ9|Hello.\n", "No recording")):
        (recordings / "t.csv").write_text(lines)
        with pytest.raises(ValueError, match=message):
            prepare_transcribed(recordings / "in", recordings / "t.csv", recordings / "out")
    assert not (recordings / "out").exists()


def test_without_flite(recordings, monkeypatch):
    monkeypatch.setattr(transcribed, "missing_programs", lambda: ["flite"])
    with pytest.raises(ValueError, match="flite"):
        prepare_transcribed(recordings / "in", recordings / "t.csv", recordings / "out")
