import numpy as np
import pytest

from keras_speechssm.audio.io import write_audio
from keras_speechssm.data.recipes.librispeech_long import (
    librispeech_long_statistics,
    read_librispeech_long,
)

pytestmark = pytest.mark.any_backend


def add_example(root, split, speaker, chapter, number, seconds, text="SOME WORDS"):
    folder = root / split / speaker / chapter
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{chapter}_{number:04d}.flac"
    write_audio(path, np.zeros(round(seconds * 16000), "float32"))
    path.with_suffix(".txt").write_text(text + "\n")
    return path


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "librispeech-long"
    add_example(root, "test-clean", "61", "70968", 0, 4.0, "HE BEGAN A CONFUSED COMPLAINT")
    add_example(root, "test-clean", "61", "70968", 1, 2.0)
    add_example(root, "test-clean", "61", "70970", 0, 3.0)
    add_example(root, "dev-other", "116", "288045", 0, 1.0)
    return tmp_path


def test_the_archive_is_read_as_it_is_laid_out(archive):
    found = read_librispeech_long(archive)
    assert [(r.split, r.speaker, r.name) for r in found] == [
        ("dev-other", "116", "288045_0000"),
        ("test-clean", "61", "70968_0000"),
        ("test-clean", "61", "70968_0001"),
        ("test-clean", "61", "70970_0000"),
    ]
    assert found[1].text == "HE BEGAN A CONFUSED COMPLAINT" and found[1].seconds == 4.0
    assert found == read_librispeech_long(archive / "librispeech-long")
    assert len(read_librispeech_long(archive, ["dev-other"])) == 1


def test_statistics_have_the_form_of_table_1(archive):
    recordings = read_librispeech_long(archive, ["test-clean"])
    assert librispeech_long_statistics(recordings) == {
        "test-clean": {
            "hours": round(9 / 3600, 3),
            "examples": 3,
            "mean_seconds": 3.0,
            "chapters": 2,
            "speakers": 1,
        }
    }
    longer = librispeech_long_statistics(recordings, longer_than=3.5)["test-clean"]
    assert (longer["examples"], longer["chapters"]) == (1, 1)
    none = librispeech_long_statistics(recordings, longer_than=10.0)["test-clean"]
    assert (none["examples"], none["mean_seconds"]) == (0, 0.0)


def test_a_split_that_is_not_there_is_named(archive, tmp_path):
    with pytest.raises(ValueError, match="has no dev-clean"):
        read_librispeech_long(archive, ["dev-clean"])
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="has no split of"):
        read_librispeech_long(tmp_path / "other")


@pytest.mark.parametrize("broken", ["no text", "no audio", "two lines", "place", "no sound"])
def test_broken_archives_are_refused(archive, broken):
    path = archive / "librispeech-long" / "test-clean" / "61" / "70968" / "70968_0001.flac"
    if broken == "no text":
        path.with_suffix(".txt").unlink()
    elif broken == "no audio":
        path.unlink()
    elif broken == "two lines":
        path.with_suffix(".txt").write_text("ONE\nTWO\n")
    elif broken == "place":
        path.rename(path.with_name("99_0001.flac"))
        path.with_suffix(".txt").rename(path.with_name("99_0001.txt"))
    else:
        path.write_bytes(b"no audio at all")
    message = {
        "no text": "has no text",
        "no audio": "has no audio",
        "two lines": "has 2 lines",
        "place": "is not where",
        "no sound": "cannot be read as audio",
    }[broken]
    with pytest.raises(ValueError, match=message):
        read_librispeech_long(archive)
