"""Files whose headers say less, or more, than they hold are read to their ends."""

import logging
import os
import re
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from keras_speechssm.audio.io import read_audio, read_duration, read_speech, write_audio

pytestmark = pytest.mark.any_backend

ODD_FILES = Path(__file__).parents[2].parent / "shared" / "review" / "odd_audio"


def speech(seconds=8.0, rate=44_100, seed=0):
    """Two seconds of noise, then a quiet tone, so that variable bit rates vary."""
    count = round(seconds * rate)
    noise = 0.2 * np.random.default_rng(seed).normal(size=2 * rate)
    quiet = 0.3 * np.sin(2 * np.pi * 440 * np.arange(count) / rate)
    quiet[: 2 * rate] = np.clip(noise, -1, 1)
    return quiet.astype("float32")


def mp3(path, waveform, rate=44_100, mode="VARIABLE"):
    soundfile.write(path, waveform, rate, format="MP3", bitrate_mode=mode, compression_level=0.6)
    return path.read_bytes()


def without_tag(content):
    """Return an MP3 without its first frame, which has the number of frames."""
    syncs = [match.start() for match in re.finditer(rb"\xff[\xfb\xf3]", content)]
    tag = re.search(rb"Xing|Info", content).start()
    return content[next(place for place in syncs if place > tag + 100) :]


def place_of_tone(waveform):
    """Return the seconds in which the tone of 440 Hz is heard."""
    frames = waveform[: len(waveform) // 1600 * 1600].reshape(-1, 1600)
    spectrum = np.abs(np.fft.rfft(frames))
    return np.flatnonzero(spectrum.argmax(axis=1) == 44) / 10


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, "keras_speechssm")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("rate", [44_100, 22_050, 16_000])
def test_an_mp3_of_variable_rate_without_its_length_is_read_whole(tmp_path, rate):
    path = tmp_path / "stream.mp3"
    path.write_bytes(without_tag(mp3(path, speech(rate=rate), rate)))
    waveform = read_audio(path)
    assert len(waveform) / 16_000 == pytest.approx(8.0, abs=0.15)
    assert read_duration(path) * 16_000 == pytest.approx(len(waveform), abs=2)
    assert place_of_tone(waveform)[-1] > 7.7
    part = read_audio(path, start=5.0, duration=2.0)
    assert len(part) == 32_000 and np.std(part) == pytest.approx(0.3 / 2**0.5, abs=0.01)


def test_a_cut_mp3_is_as_long_as_what_is_left(tmp_path, warnings):
    path = tmp_path / "half.mp3"
    content = mp3(path, speech())
    path.write_bytes(content[: round(0.75 * len(content))])
    duration = read_duration(path)
    assert 0.5 < duration < 7.5
    assert len(read_audio(path)) == pytest.approx(duration * 16_000, abs=2)
    assert len(read_audio(path, start=duration - 0.1)) > 1000
    assert [m for m in warnings() if "its header says 8.0 s, but it has" in m]


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("tags", [True, False])
def test_joined_mp3s_are_read_whole(tmp_path, warnings, mode, tags):
    path = tmp_path / "joined.mp3"
    one, other = mp3(path, speech(4.0), mode=mode), mp3(path, speech(3.0, seed=1), mode=mode)
    if not tags:
        one, other = without_tag(one), without_tag(other)
    path.write_bytes(one + b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10) + other)
    assert len(read_audio(path)) / 16_000 == pytest.approx(7.0, abs=0.15)
    assert read_duration(path) == pytest.approx(7.0, abs=0.15)
    assert len(warnings()) == tags


def test_a_complete_mp3_is_left_to_libsndfile(tmp_path, warnings):
    path = tmp_path / "complete.mp3"
    mp3(path, speech())
    assert len(read_audio(path)) == 128_000 and read_duration(path) == 8.0 and not warnings()


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg_streams_are_read_whole(tmp_path, warnings, subtype):
    path = tmp_path / "radio.ogg"
    content = b""
    for seconds, rate in ((3.0, 48_000), (2.5, 24_000)):
        # libsndfile seeks wrongly in Vorbis files of a pure tone, which has few pages.
        hiss = 0.02 * np.random.default_rng(2).normal(size=round(seconds * rate))
        soundfile.write(path, speech(seconds, rate) + hiss, rate, format="OGG", subtype=subtype)
        content += path.read_bytes()
    path.write_bytes(content)
    waveform = read_audio(path)
    assert len(waveform) == pytest.approx(88_000, abs=800) and read_duration(path) == 5.5
    tone = place_of_tone(waveform)
    assert 2.5 in tone and 5.2 in tone and 4.0 not in tone
    # A part across the end of the first stream.
    np.testing.assert_allclose(
        read_audio(path, start=2.5, duration=1.0)[800:-800], waveform[40_800:55_200], atol=0.05
    )
    assert [m for m in warnings() if "it is 2 streams one after the other" in m]
    assert len(warnings()) == 1


def wav(data_size, samples, fmt=None, between=b""):
    fmt = fmt or struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + between
    chunks += b"data" + struct.pack("<I", data_size) + samples
    return b"RIFF" + struct.pack("<I", 0) + b"WAVE" + chunks


def test_a_wav_whose_recorder_was_killed_is_read_to_its_end(tmp_path, warnings):
    path = tmp_path / "killed.wav"
    samples = (speech(2.5, 16_000) * 32_767).astype("<i2")
    path.write_bytes(wav(0, samples.tobytes()))
    np.testing.assert_allclose(read_audio(path), samples / 32_768, atol=1e-6)
    assert read_duration(path) == 2.5
    np.testing.assert_allclose(read_audio(path, start=2.0), samples[32_000:] / 32_768, atol=1e-6)
    assert len(warnings()) == 1 and "was the recorder killed?" in warnings()[0]


@pytest.mark.parametrize("between", [bytes(64), b"junk" + struct.pack("<I", 6) + bytes(6)])
def test_a_header_that_a_recorder_did_not_fill(tmp_path, between):
    path = tmp_path / "zeros.wav"
    samples = (speech(2.5, 16_000) * 32_767).astype("<i2")
    path.write_bytes(wav(80_000, samples.tobytes(), between=between))
    assert len(read_audio(path)) == 40_000


def test_chunks_after_the_audio_are_not_audio(tmp_path, warnings):
    path = tmp_path / "list.wav"
    extra = b"LIST" + struct.pack("<I", 4) + b"INFO"
    path.write_bytes(wav(32_000, bytes(32_000) + extra))
    assert len(read_audio(path)) == 16_000 and not warnings()
    path.write_bytes(wav(0, extra))
    with pytest.raises(ValueError, match="has no audio"):
        read_audio(path)
    path.write_bytes(wav(32_000, bytes(32_000) + b"\x01\x02\x03" * 1000))  # an old size
    assert len(read_audio(path)) == 16_000
    assert "3000 bytes after its audio, which are not read" in warnings()[-1]


def test_opposite_channels_do_not_cancel(tmp_path, warnings):
    tone = speech(2.0, 16_000)
    stereo = np.stack([0.9 * tone, -tone], axis=1)
    path = tmp_path / "phase.wav"
    soundfile.write(path, stereo, 16_000, "FLOAT")
    np.testing.assert_allclose(read_audio(path), np.clip(-tone, -1, 1), atol=1e-6)
    np.testing.assert_allclose(read_speech(stereo.clip(-1, 1)), -tone.clip(-1, 1), atol=1e-6)
    assert len([m for m in warnings() if "channel 2 is used alone" in m]) == 2
    offset = 0.3 + 0.3 * stereo.clip(-1, 1)
    np.testing.assert_allclose(read_speech(offset), offset[:, 1], atol=1e-6)
    # Channels that only differ are averaged: one of them silent, or noises.
    stereo[:, 1] = 0
    assert np.abs(read_speech(stereo) - 0.45 * tone).max() < 1e-6
    noise = 0.1 * np.random.default_rng(0).normal(size=(16_000, 8))
    np.testing.assert_allclose(read_speech(noise), noise.mean(axis=1), atol=1e-6)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "killed.wav"])
def test_a_pipe_is_read(tmp_path, name):
    source, pipe = tmp_path / name, tmp_path / "pipe"
    if name == "a.mp3":
        source.write_bytes(without_tag(mp3(source, speech())))
    elif name == "killed.wav":
        source.write_bytes(wav(0, bytes(4000) + b"\x01\x10" * 8000))
    else:
        write_audio(source, speech(2.0, 16_000))
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(source.read_bytes()))
    writer.start()
    waveform = read_audio(pipe)
    writer.join()
    np.testing.assert_array_equal(waveform, read_audio(source))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_an_empty_pipe_and_a_device_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(b""))
    writer.start()
    with pytest.raises(ValueError, match="is empty"):
        read_audio(tmp_path / "pipe")
    writer.join()
    with pytest.raises(ValueError, match="/dev/zero is not a file"):
        read_audio("/dev/zero")


def test_a_header_that_says_too_much_is_reported(tmp_path, warnings, monkeypatch):
    path = tmp_path / "long.flac"
    write_audio(path, speech(2.0, 16_000))
    monkeypatch.setattr(soundfile.SoundFile, "frames", 48_000)
    read_audio(path)
    assert "its header says 3.0 s, but it ends before" in warnings()[-1]


@pytest.mark.parametrize(
    "name, seconds",
    [
        ("twice_cbr_noheader.mp3", 22.87),
        ("twice_vorbis.ogg", 22.82),
        ("vbr_q4_22k.mp3", 57.08),
        ("vbr_q9_44k.mp3", 57.07),
    ],
)
def test_recordings_from_bug_reports(name, seconds):
    if not ODD_FILES.is_dir():
        pytest.skip("the files of the bug reports are not here")
    assert len(read_audio(ODD_FILES / name)) / 16_000 == pytest.approx(seconds, abs=0.02)
    assert read_duration(ODD_FILES / name) == pytest.approx(seconds, abs=0.02)
