import json

import numpy as np
import pytest

from keras_speechssm.audio.io import read_audio, write_audio
from keras_speechssm.data.corpora import read_segments
from keras_speechssm.data.recipes import transcribed
from keras_speechssm.data.recipes.synthesized import voices
from keras_speechssm.data.recipes.synthesized.voices import missing_programs
from keras_speechssm.data.recipes.transcribed import prepare_transcribed

pytestmark = pytest.mark.any_backend

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
    write_audio(recordings / "in" / "LJ2.flac", np.full(16000, 0.1))
    for lines, message in (
        ("\nLJ1\n", "line 2: expected <name>"),
        ("LJ9|Hello.\n", "No recording"),
        ("LJ2|Hello.\n", "Two recordings"),
    ):
        (recordings / "t.csv").write_text(lines)
        with pytest.raises(ValueError, match=message):
            prepare_transcribed(recordings / "in", recordings / "t.csv", recordings / "out")
    (recordings / "t.csv").write_text("LJ1|Hello.\n")
    with pytest.raises(ValueError, match="is inside"):
        prepare_transcribed(recordings / "in", recordings / "t.csv", recordings / "in" / "out")
    (recordings / "in" / "LJ1b.wav").write_bytes(b"")
    (recordings / "t.csv").write_text("LJ1b|Hello.\n")
    with pytest.raises(ValueError, match="LJ1b.wav is empty"):
        prepare_transcribed(recordings / "in", recordings / "t.csv", recordings / "out")


@needs_flite
def test_changed_transcripts_and_moved_recordings_are_taken(recordings):
    arguments = recordings / "t.csv", recordings / "out"
    prepare_transcribed(recordings / "in", *arguments)
    (recordings / "in").rename(recordings / "moved")
    (recordings / "t.csv").write_text("\ufeffLJ1|A fa\u00e7ade.\n", encoding="utf-8")
    prepare_transcribed(recordings / "moved", *arguments)
    (segment,) = read_segments(recordings / "out" / "LJ1.flac")
    assert segment.text == "A facade." and segment.phonemes[-1] == "d"
    assert len(read_audio(recordings / "out" / "LJ1.flac")) == 16000


def test_without_flite(recordings, monkeypatch):
    monkeypatch.setattr(voices.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="flite"):
        prepare_transcribed(recordings / "in", recordings / "t.csv", recordings / "out")


def test_a_folder_of_librispeech_is_its_own_transcript(tmp_path, monkeypatch):
    monkeypatch.setattr(transcribed, "check_programs", lambda programs: None)
    monkeypatch.setattr(transcribed, "pronounce", lambda text: text.split())
    (tmp_path / "84" / "1").mkdir(parents=True)
    write_audio(tmp_path / "84" / "1" / "84-1-0000.flac", np.full(16000, 0.1))
    (tmp_path / "84" / "1" / "84-1.trans.txt").write_text("84-1-0000 HH AX\n84-1-0001 GONE\n")
    found = prepare_transcribed(tmp_path / "84", tmp_path / "84", tmp_path / "out")
    assert found == {"recordings": 1, "without_transcript": 0}
    content = json.loads((tmp_path / "out" / "84-1-0000.json").read_text())
    assert content["segments"][0]["text"].lower() == "hh ax"


def test_a_space_separates_the_name_from_the_whole_text(tmp_path):
    """LibriSpeech's `.trans.txt`: the last word is not the transcript."""
    (tmp_path / "84-1.trans.txt").write_text("84-1-0000 HE BEGAN A CONFUSED\n")
    (tmp_path / "mls.txt").write_text("84-1-0000\tHE BEGAN A CONFUSED\n")
    (tmp_path / "lj.csv").write_text("84-1-0000|Dr. He|HE BEGAN A CONFUSED\n")
    for name, separator in (("84-1.trans.txt", " "), ("mls.txt", "\t"), ("lj.csv", "|")):
        found = transcribed._read_transcripts(tmp_path / name, separator)
        assert found == {"84-1-0000": "HE BEGAN A CONFUSED"}
