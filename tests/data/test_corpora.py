"""Corpora: which files are found, and how their segments are read."""

import json

import pytest

from keras_speechssm.audio.io import read_duration
from keras_speechssm.data.corpora import (
    PHONEMES,
    Segment,
    example_prompt,
    example_recordings,
    find_audio,
    read_durations,
    read_segments,
)

pytestmark = pytest.mark.any_backend


def test_audio_is_found_below_every_folder_once_and_sorted(tmp_path):
    for name in ("b/z.wav", "b/a.FLAC", "a/deep/er/x.mp3", "c/y.ogg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("b/z.json", "b/.z.wav.partial", "b/.hidden.wav", "b/notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "b" / "folder.wav").mkdir()
    found = find_audio([tmp_path / "b", tmp_path])
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["a/deep/er/x.mp3", "b/a.FLAC", "b/z.wav", "c/y.ogg"]
    assert find_audio(str(tmp_path)) == found
    assert find_audio(found[0]) == found[:1]


def test_nothing_to_find_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        find_audio(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="No audio in"):
        find_audio([tmp_path])
    with pytest.raises(ValueError, match="an empty list"):
        find_audio([])


def test_segments_are_read(tmp_path):
    assert read_segments(tmp_path / "a.wav") is None
    entries = [
        {"start": 0, "end": 1.5, "text": "Hello.", "phonemes": ["hh", "ax", "l", "ow"]},
        {"start": 2, "end": 3},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"voice": "slt", "segments": entries}))
    assert read_segments(tmp_path / "a.wav") == [
        Segment(0.0, 1.5, "Hello.", ("hh", "ax", "l", "ow")),
        Segment(2.0, 3.0, "", ()),
    ]


@pytest.mark.parametrize(
    "content",
    [
        *("{", "{}", "[]", '{"segments": [{"start": 0}]}'),
        '{"segments": [{"start": NaN, "end": 1}]}',
        '{"segments": [{"start": 0, "end": 1, "phonemes": [[]]}]}',
    ],
)
def test_damaged_segments_are_told(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match="unreadable|unknown phonemes"):
        read_segments(tmp_path / "a.wav")


def test_unknown_phonemes_are_told(tmp_path):
    entry = {"start": 0, "end": 1, "text": "x", "phonemes": ["pau", "aa"]}
    (tmp_path / "a.json").write_text(json.dumps({"segments": [entry]}))
    with pytest.raises(ValueError, match=r"unknown phonemes \['pau'\]"):
        read_segments(tmp_path / "a.wav")


def test_the_phonemes_are_distinct_and_without_pause():
    assert len(set(PHONEMES)) == len(PHONEMES) == 41
    assert "pau" not in PHONEMES


def test_the_example_prompt_is_speech_long_enough_to_continue():
    assert 8 < read_duration(example_prompt()) < 13


def test_example_recordings_are_attached_or_downloaded_or_the_prompt(tmp_path, monkeypatch):
    def offline(**options):
        raise Exception("no network")

    monkeypatch.setattr("keras.utils.get_file", offline)
    assert example_recordings(tmp_path / "missing") == [example_prompt()]
    (tmp_path / "downloaded" / "LibriSpeech" / "dev-clean" / "1272" / "1").mkdir(parents=True)
    (tmp_path / "downloaded" / "LibriSpeech" / "dev-clean" / "1272" / "1" / "a.flac").touch()
    monkeypatch.setattr("keras.utils.get_file", lambda **options: str(tmp_path / "downloaded"))
    (tmp_path / "attached").mkdir()
    (tmp_path / "attached" / "keras_speechssm-0.1.0-py3-none-any.whl").touch()
    assert [path.name for path in example_recordings(tmp_path / "attached")] == ["a.flac"]
    (tmp_path / "attached" / "mine.wav").touch()
    assert [path.name for path in example_recordings(tmp_path / "attached")] == ["mine.wav"]


def test_every_suffix_that_is_read_is_found_and_the_others_are_counted(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("keras_speechssm.data.corpora.can_use_av", lambda: False)
    names = "a.wav b.opus c.aiff d.wave e.w64 f.oga g.AIF h.au i.rf64".split()
    names += "j.caf k.aifc l.snd".split()
    for name in (*names, "x.m4a", "y.m4a", "z.WMA", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_audio(tmp_path)] == names
    assert "Skipped 3 recordings" in caplog.text and ".m4a: 2, .wma: 1" in caplog.text
    assert "x.m4a. Install PyAV (pip install av), or convert them: ffmpeg" in caplog.text
    # What no library here reads, and a link to a recording that has been moved.
    monkeypatch.setattr("keras_speechssm.data.corpora.can_use_av", lambda: True)
    caplog.clear()
    (tmp_path / "a.avi").touch()
    (tmp_path / "moved.wav").symlink_to("nowhere.wav")
    assert len(find_audio(tmp_path)) == len(names) + 3
    assert "Skipped 2 recordings" in caplog.text and "(.avi: 1, .wav: 1)" in caplog.text
    assert "a.avi. Convert them: ffmpeg" in caplog.text


def test_links_to_folders_are_followed_once(tmp_path):
    for name in ("far/a/x.wav", "here/y.wav"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "here" / "data").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "a" / "loop").symlink_to(tmp_path / "here")
    found = find_audio(tmp_path / "here")
    assert [path.relative_to(tmp_path / "here").as_posix() for path in found] == [
        "data/a/x.wav",
        "y.wav",
    ]


def test_durations_are_read_once_for_each_version_of_a_recording(tmp_path, monkeypatch):
    opened = []

    def fake(path):
        opened.append(path.name)
        return float(len(opened))

    monkeypatch.setattr("keras_speechssm.data.corpora.read_duration", fake)
    paths = [tmp_path / name for name in ("a.wav", "b.wav")]
    for path in paths:
        path.write_bytes(b"x")
    known = tmp_path / "run" / "durations.json"
    assert read_durations(paths, known) == [1.0, 2.0]
    assert read_durations(paths[::-1], known) == [2.0, 1.0]
    assert opened == ["a.wav", "b.wav"]
    paths[1].write_bytes(b"xx")
    assert read_durations(paths, known) == [1.0, 3.0]
    known.write_text('{"')  # damaged
    assert read_durations(paths[:1], known) == [4.0]
    assert read_durations(paths[:1]) == [5.0]
