import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from keras_speechssm.audio.io import read_audio
from keras_speechssm.data.recipes.librispeech_long import (
    agglomerate,
    find_chapters,
    prepare_librispeech_long,
    read_chapter_segments,
    read_librispeech_long,
)

pytestmark = pytest.mark.any_backend

RATE = 22050

SPEAKERS = """;ID  |SEX| SUBSET           |MINUTES| NAME
; a comment
61   | M | test-clean       |  8.08 | Paul-Gabriel Wiener
116  | M | dev-other        |  8.00 | Adam Katz
14   | F | train-clean-360  | 25.03 | Kristin LeMoine
"""


def tone(seconds):
    """Whose level tells the second, so that a cut can be seen."""
    times = np.arange(round(seconds * RATE)) / RATE
    levels = 0.1 + 0.05 * np.floor(times) % 0.6
    return (levels * np.sin(2 * np.pi * 440 * times)).astype("float32")


def add_chapter(root, speaker, chapter, segments, seconds, sentences=False):
    folder = root / "mp3" / speaker / chapter
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / f"{chapter}.mp3", tone(seconds), RATE, format="MP3")
    stem = f"{speaker}-{chapter}{'.sents' if sentences else ''}"
    names = [f"{speaker}-{chapter}-{number:04d}" for number in range(len(segments))]
    (folder / f"{stem}.seg.txt").write_text(
        "".join(f"{n} {a} {b}\n" for n, (a, b) in zip(names, segments, strict=True))
    )
    (folder / f"{stem}.trans.txt").write_text(
        "".join(f"{name} WORD{number}\n" for number, name in enumerate(names))
    )


def add_map(root, speaker, entries, sentences=False):
    lines = [f"# sentences only: {sentences}", "# utterance segment"]
    (root / "mp3" / speaker / "utterance_map.txt").write_text("\n".join([*lines, *entries]) + "\n")


@pytest.fixture
def original(tmp_path):
    root = tmp_path / "LibriSpeech"
    root.mkdir()
    (root / "SPEAKERS.TXT").write_text(SPEAKERS)
    add_chapter(root, "61", "70968", [(0.5, 2.0), (2.5, 4.0), (4.2, 7.0), (7.1, 7.9)], 8.5)
    add_chapter(root, "61", "70970", [(0.2, 1.0)], 2.0)  # no utterance of LibriSpeech is in it
    add_map(root, "61", ["61-70968-0000 61-70968-0001", "61-70968-0001 61-70968-0003"])
    add_chapter(root, "116", "288045", [(0.0, 3.0), (3.0, 5.5)], 6.0, sentences=True)
    add_map(root, "116", ["116-288045-0000 116-288045-0000"], sentences=True)
    return tmp_path


def test_segments_are_agglomerated_along_their_boundaries():
    segments = [(0, 2), (2, 4), (5, 6), (6, 16), (16, 17)]
    assert agglomerate(segments, 5) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert agglomerate(segments, 100) == [(0, 5)]
    assert agglomerate([(0, 300)], 240) == [(0, 1)]


@given(
    st.lists(st.tuples(st.floats(0.1, 9), st.floats(0, 2)), min_size=1, max_size=30),
    st.floats(1, 20),
)
def test_every_segment_is_in_one_group_and_groups_are_as_long_as_may_be(pieces, target):
    segments, now = [], 0.0
    for length, pause in pieces:
        segments.append((now, now + length))
        now += length + pause
    groups = agglomerate(segments, target)
    assert [n for first, stop in groups for n in range(first, stop)] == list(range(len(segments)))
    for first, stop in groups:
        assert stop == first + 1 or segments[stop - 1][1] - segments[first][0] <= target
        if stop < len(segments):
            assert segments[stop][1] - segments[first][0] > target


def test_chapters_are_those_that_librispeech_uses(original):
    chapters, problems = find_chapters(original, ["test-clean", "dev-other"])
    assert problems == []
    assert [(c.speaker, c.chapter, c.split, c.sentences_only) for c in chapters] == [
        ("61", "70968", "test-clean", False),
        ("116", "288045", "dev-other", True),
    ]
    spans, texts = read_chapter_segments(chapters[0])
    assert spans[1] == (2.5, 4.0) and texts[3] == "WORD3"
    with pytest.raises(ValueError, match="no speaker of dev-clean"):
        find_chapters(original, ["dev-clean"])
    with pytest.raises(ValueError, match="not LibriSpeech's original-mp3"):
        find_chapters(original / "LibriSpeech" / "mp3", ["test-clean"])


def test_the_benchmark_is_built_in_the_released_layout(original, tmp_path):
    out = tmp_path / "librispeech-long"
    splits = ["test-clean", "dev-other"]
    report = prepare_librispeech_long(original, out, splits=splits, target_seconds=4.0)
    found = {r.name: r for r in read_librispeech_long(out)}
    assert {name: r.text for name, r in found.items()} == {
        "70968_0000": "WORD0 WORD1",
        "70968_0001": "WORD2 WORD3",
        "288045_0000": "WORD0",
        "288045_0001": "WORD1",
    }
    assert found["70968_0001"].seconds == pytest.approx(7.9 - 4.2, abs=0.01)
    assert report["splits"]["test-clean"]["examples"] == 2 and report["skipped"] == []
    assert report["longer_than_210_s"]["dev-other"]["examples"] == 0
    # Contiguous, from the first start to the last end, and from the right place.
    heard = read_audio(found["70968_0000"].audio)
    whole = read_audio(original / "LibriSpeech" / "mp3" / "61" / "70968" / "70968.mp3")
    np.testing.assert_allclose(heard, whole[8000 : 8000 + len(heard)], atol=1e-4)


def test_a_run_that_was_killed_resumes(original, tmp_path):
    out = tmp_path / "out"
    options = {"splits": ["test-clean"], "target_seconds": 4.0}
    prepare_librispeech_long(original, out, **options)
    _, lost = sorted(out.rglob("*.flac"))
    lost.with_suffix(".txt").unlink()  # killed before the last text
    (lost.parent / ".x.flac.1.partial").write_bytes(b"half")
    before = lost.read_bytes()
    prepare_librispeech_long(original, out, **options)
    assert lost.read_bytes() == before and len(read_librispeech_long(out)) == 2
    assert not list(out.rglob(".*.partial"))


BREAK = {
    "no audio": lambda folder: (folder / "70968.mp3").unlink(),
    "no segments": lambda folder: (folder / "61-70968.seg.txt").unlink(),
    "damaged segments": lambda folder: (folder / "61-70968.seg.txt").write_text("a b\n"),
    "backwards": lambda folder: (folder / "61-70968.seg.txt").write_text("a 3 2\n"),
    "no sound": lambda folder: (folder / "70968.mp3").write_bytes(b"nothing"),
    "too short": lambda folder: (folder / "61-70968.seg.txt").write_text("a 0 99\n"),
    "before the start": lambda folder: change(folder, "0.5 2.0", "-3 2.0"),
    "no number": lambda folder: change(folder, "7.1 7.9", "7.1 nan"),
    "overlap": lambda folder: change(folder, "0.5 2.0", "0.5 7.0"),
    "after the end": lambda folder: change(folder, "7.1 7.9", "8.9 9.3"),
    "no words": lambda folder: (folder / "61-70968.trans.txt").write_text("61-70968-0000 A\n"),
    "no map": lambda folder: (folder.parent / "utterance_map.txt").unlink(),
    "damaged map": lambda folder: (folder.parent / "utterance_map.txt").write_text("x\n"),
    "map of another kind": lambda folder: (folder.parent / "utterance_map.txt").write_text(
        "a: False\nb\nc a-b-c\n"
    ),
    "map that is not text": lambda folder: (folder.parent / "utterance_map.txt").write_bytes(
        b"a: False\nb\n\xff\xfe\n"
    ),
}


def change(folder, old, new):
    path = folder / "61-70968.seg.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new) + "\n\n")


@pytest.mark.parametrize("how", BREAK)
def test_broken_chapters_are_listed_and_skipped_or_stop_the_run(original, tmp_path, how):
    BREAK[how](original / "LibriSpeech" / "mp3" / "61" / "70968")
    options = {"splits": ["test-clean", "dev-other"], "target_seconds": 4.0}
    with pytest.raises(ValueError, match="1 of 2 chapters cannot be read"):
        prepare_librispeech_long(original, tmp_path / "out", **options)
    with pytest.raises(ValueError, match="has no test-clean|has no split"):
        prepare_librispeech_long(original, tmp_path / "out", max_skipped=0.5, **options)
    assert not list((tmp_path / "out").rglob("7*"))  # nothing of the broken chapter
    options["splits"] = ["dev-other", "dev-other"]
    report = prepare_librispeech_long(original, tmp_path / "out", **options)
    assert report["splits"]["dev-other"]["examples"] == 2


def test_another_target_takes_another_folder(original, tmp_path):
    prepare_librispeech_long(original, tmp_path / "out", splits=["dev-other"], target_seconds=4.0)
    with pytest.raises(ValueError, match="started with target_seconds 4.0"):
        prepare_librispeech_long(original, tmp_path / "out", splits=["dev-other"])


def test_blank_lines_are_no_damage(original):
    change(original / "LibriSpeech" / "mp3" / "61" / "70968", "0.5 2.0", "0.5 2.0")
    (chapter, _), _ = find_chapters(original, ["test-clean", "dev-other"])
    assert len(read_chapter_segments(chapter)[0]) == 4


def test_a_damaged_utterance_map_is_named(original, tmp_path):
    path = original / "LibriSpeech" / "mp3" / "61" / "utterance_map.txt"
    path.write_text("no header\n")
    with pytest.raises(ValueError, match="utterance_map.txt is damaged"):
        prepare_librispeech_long(original, tmp_path / "out", splits=["test-clean"])


def test_a_split_that_the_benchmark_has_not_is_refused_before_the_work(original, tmp_path):
    with pytest.raises(ValueError, match="splits has 'train-clean-360'; expected dev-clean, "):
        prepare_librispeech_long(original, tmp_path / "out", splits=["train-clean-360"])
    assert not (tmp_path / "out").exists()


def test_wrong_options_write_nothing(original, tmp_path):
    with pytest.raises(ValueError, match="target_seconds is 0"):
        prepare_librispeech_long(original, tmp_path / "out", target_seconds=0)
    with pytest.raises(ValueError, match="max_skipped is -1"):
        prepare_librispeech_long(original, tmp_path / "out", max_skipped=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="it is a file"):
        prepare_librispeech_long(original, tmp_path / "file", splits=["test-clean"])
    assert not (tmp_path / "out").exists()
