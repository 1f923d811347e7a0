"""The synthesized corpus: plans are fair, files are whole and repeatable."""

import itertools
import json
import os

import numpy as np
import pytest
import soundfile

from keras_speechssm.audio.io import read_audio
from keras_speechssm.data.corpora import find_audio, read_segments
from keras_speechssm.data.recipes.synthesized import synthesis, voices
from keras_speechssm.data.recipes.synthesized.synthesis import prepare_synthesized
from keras_speechssm.data.recipes.synthesized.texts import read_texts
from keras_speechssm.data.recipes.synthesized.voices import missing_programs

pytestmark = pytest.mark.any_backend

needs_programs = pytest.mark.skipif(
    bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"
)

SENTENCES = (
    "The {0} was near the river, and nobody had seen it there before.",
    "Mr. Brown said that the {0} was his, but he could not prove it at all!",
    "Would you like to look at the {0} again?",
)


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for book in ("house", "garden", "heldout"):
        lines = [s.format(f"{book} number {i}") for i in range(8) for s in SENTENCES]
        (folder / f"{book}.txt").write_text("\n".join(lines))
    return folder


def prepare(texts, output, **options):
    lines = []
    paths = prepare_synthesized(
        texts,
        output,
        hours=0.008,
        heldout_hours=0.004,
        parallel_sentences=2,
        heldout_books=("heldout",),
        recording_seconds=8.0,
        progress=lines.append,
        **options,
    )
    return paths, lines


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_plan_covers_all_books_in_order_and_every_prefix_is_fair(texts, tmp_path):
    books = read_texts(texts)
    crowd = synthesis._voices(0, heldout=False)
    plan = synthesis._plan_readings(tmp_path / "train", books, crowd, 0.02, 0, 8.0)
    for count in range(1, len(plan)):
        counts = [sum(r.path.parent.name == book for r in plan[:count]) for book in books]
        assert max(counts) - min(counts) <= 1
    for book, pieces in books.items():
        said = [text for r in plan if r.path.parent.name == book for text in r.texts]
        assert said == [pieces[i % len(pieces)] for i in range(len(said))]
    programs = [r.voice.program for r in plan]
    assert {"flite", "espeak-ng"} == set(programs)


def test_more_hours_only_add_recordings(texts, tmp_path):
    books, crowd = read_texts(texts), synthesis._voices(0, heldout=False)
    short, long = (
        synthesis._plan_readings(tmp_path / "train", books, crowd, hours, 0, 8.0)
        for hours in (0.01, 0.02)
    )
    assert len(short) < len(long) and long[: len(short)] == short


@needs_programs
def test_the_corpus_is_whole_and_its_segments_fit(texts, tmp_path):
    output = tmp_path / "corpus"
    paths, lines = prepare(texts, output)
    assert sorted(paths) == find_audio(output) and len(set(paths)) == len(paths)
    assert f"{len(paths)}/{len(paths)} recordings" in lines[-1]
    assert not list(output.rglob(".*"))
    for path in paths:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        waveform, segments = read_audio(path), read_segments(path)
        assert np.abs(waveform).max() < 0.99
        level = 10 * np.log10(np.mean(np.square(waveform)))
        assert -27 < level < -13.5
        assert segments[0].start == 0 and segments[-1].end <= info.duration
        for one, following in itertools.pairwise(segments):
            assert one.end < following.start
        for segment in segments:
            assert 0.5 < segment.end - segment.start <= 12.0
            assert 5 < len(segment.phonemes) / (segment.end - segment.start) < 25
            spoken = waveform[round(segment.start * 16_000) : round(segment.end * 16_000)]
            assert np.abs(spoken).max() > 0.01


@needs_programs
def test_what_is_held_out_stays_out_of_training(texts, tmp_path):
    output = tmp_path / "corpus"
    prepare(texts, output)

    def voices(part):
        files = (output / part).rglob("*.json")
        return {json.loads(path.read_text())["voice"] for path in files}

    def words(part):
        return {s.text for p in find_audio(output / part) for s in read_segments(p)}

    assert {path.name for path in (output / "train").iterdir()} == {"house", "garden"}
    assert voices("heldout_voices") and not voices("heldout_voices") & voices("train")
    heldout = [words(part) for part in ("heldout_books", "heldout_voices", "parallel")]
    assert all(heldout)
    for i, one in enumerate(heldout):
        assert not one & words("train")
        assert all(not one & other for other in heldout[i + 1 :])
    for number in range(2):
        spoken = sorted((output / "parallel").glob(f"{number:03d}_*.json"))
        assert len(spoken) == 4
        assert len({json.loads(p.read_text())["segments"][0]["text"] for p in spoken}) == 1
    prepare(texts, output, parallel_voices=3)
    assert len(list((output / "parallel").glob("001_*.wav"))) == len(voices("parallel")) == 12
    unheard = {v.name for kind in synthesis._voices(0, heldout=True) for v in kind}
    assert len(voices("parallel") & unheard) == 6


@needs_programs
def test_resuming_and_workers_change_nothing(texts, tmp_path):
    paths, _ = prepare(texts, tmp_path / "one")
    whole = contents(tmp_path / "one")
    # As an interrupt leaves it: one recording whole, one with its sidecar only.
    paths[0].unlink()
    paths[1].unlink()
    paths[1].with_suffix(".json").unlink()
    untouched = paths[2].stat().st_mtime_ns
    prepare(texts, tmp_path / "one", workers=3)
    assert contents(tmp_path / "one") == whole
    assert paths[2].stat().st_mtime_ns == untouched
    prepare(texts, tmp_path / "two", workers=4)
    assert contents(tmp_path / "two") == whole


@needs_programs
@pytest.mark.parametrize("option", [{"seed": 1}, {"recording_seconds": 9.0}])
def test_a_folder_goes_on_with_its_own_options_only(texts, tmp_path, option):
    options = {"hours": 0, "heldout_hours": 0, "parallel_sentences": 0, "progress": None}
    options |= {"heldout_books": ("heldout",), "recording_seconds": 8}
    prepare_synthesized(texts, tmp_path / "corpus", **options)
    prepare_synthesized(texts, tmp_path / "corpus", **options, workers=2)
    before = contents(tmp_path / "corpus")
    with pytest.raises(ValueError, match=f"was started with {next(iter(option))}"):
        prepare_synthesized(texts, tmp_path / "corpus", **(options | option))
    assert contents(tmp_path / "corpus") == before


@needs_programs
@pytest.mark.parametrize("name", ["heldout", "novel"])
def test_a_book_that_says_nothing_is_refused(tmp_path, name):
    books = {"heldout": "Alice was beginning to get very tired. " * 9, "novel": "Call me. " * 9}
    books[name] = "Well.\n" if name == "heldout" else "12\n"
    (tmp_path / "texts").mkdir()
    for book, text in books.items():
        (tmp_path / "texts" / f"{book}.txt").write_text(text)
    options = dict(hours=0.01, heldout_books=("heldout", "heldout"), progress=None)
    with pytest.raises(ValueError, match=f"^{name}.txt in .* is too short"):
        prepare_synthesized(tmp_path / "texts", tmp_path / "corpus", **options)
    assert not (tmp_path / "corpus").exists()


@needs_programs
def test_an_interrupt_leaves_only_whole_recordings(texts, tmp_path, monkeypatch):
    calls = []

    def stop(recording):
        calls.append(recording)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(recording)

    original = synthesis._record
    monkeypatch.setattr(synthesis, "_record", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(texts, tmp_path / "corpus", workers=1)
    found = find_audio(tmp_path / "corpus")
    assert len(found) >= 4
    assert all(path.with_suffix(".json").is_file() for path in found)


def test_bad_arguments_are_refused(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(voices.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="Not installed: flite"):
        prepare(texts, tmp_path / "out")
    monkeypatch.setattr(voices.shutil, "which", lambda name: name)
    with pytest.raises(ValueError, match=r"Held-out books \['alices-adventures"):
        prepare_synthesized(texts, tmp_path / "out", 1.0)
    with pytest.raises(ValueError, match="at least one training"):
        prepare_synthesized(texts, tmp_path / "out", 1.0, heldout_books=())
    with pytest.raises(ValueError, match="No .txt files"):
        prepare_synthesized(tmp_path / "nowhere", tmp_path / "out", 1.0)
    for options, message in (
        ({"workers": 0}, "expected 1 or more"),
        ({"parallel_voices": 0}, "expected 1 or more"),
        ({"parallel_voices": 13}, "1 to 12 voices"),
        ({"recording_seconds": 0.0}, "expected 0 or more hours"),
        ({"heldout_hours": -1.0}, "expected 0 or more hours"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare_synthesized(texts, tmp_path / "out", 1.0, **options)
    assert not os.path.exists(tmp_path / "out")
