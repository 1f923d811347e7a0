"""Reading and writing audio: every rate, every channel count, every way to fail."""

import io
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_speechssm.audio.io import (
    AudioWriter,
    WavStream,
    check_output_path,
    read_audio,
    read_duration,
    read_speech,
    write_audio,
)

pytestmark = pytest.mark.any_backend


def tone(seconds=1.0, rate=16_000, frequency=440.0):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate).astype("f")


@pytest.mark.parametrize("suffix, tolerance", [(".wav", 1e-4), (".flac", 1e-4), (".ogg", 0.1)])
def test_what_is_written_is_read(tmp_path, suffix, tolerance):
    path = tmp_path / f"tone{suffix}"
    write_audio(path, tone())
    waveform = read_audio(path)
    assert waveform.dtype == np.float32 and waveform.shape == (16_000,)
    np.testing.assert_allclose(waveform, tone(), atol=tolerance)
    assert os.listdir(tmp_path) == [path.name]


def test_mp3_is_read(tmp_path):
    path = tmp_path / "tone.mp3"
    soundfile.write(path, tone(rate=44_100), 44_100, format="MP3")
    waveform = read_audio(path)
    middle = slice(4000, 12_000)
    spectrum = np.abs(np.fft.rfft(waveform[middle]))
    assert np.argmax(spectrum) * 2 == 440
    assert abs(len(waveform) - 16_000) < 1200  # The format pads by its own frames.


def test_six_channels_at_96_khz(tmp_path):
    path = tmp_path / "surround.wav"
    channels = np.stack([tone(0.5, 96_000, 200.0 * (i + 1)) for i in range(6)], axis=1)
    soundfile.write(path, channels, 96_000, subtype="FLOAT")
    waveform = read_audio(path)
    expected = np.mean([tone(0.5, 16_000, 200.0 * (i + 1)) for i in range(6)], axis=0)
    assert waveform.shape == (8000,)
    np.testing.assert_allclose(waveform[500:-500], expected[500:-500], atol=5e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 16_000), st.integers(1, 16_000))
def test_a_part_is_the_same_as_the_part_of_the_whole(tmp_path_factory, first, count):
    path = tmp_path_factory.getbasetemp() / "part.flac"
    if not path.exists():
        write_audio(path, tone(2.0))
    part = read_audio(path, first / 16_000, count / 16_000)
    np.testing.assert_array_equal(part, read_audio(path)[first : first + count])


def test_a_part_that_the_file_ends_in_is_shorter(tmp_path):
    write_audio(tmp_path / "tone.wav", tone())
    assert len(read_audio(tmp_path / "tone.wav", start=0.9, duration=5.0)) == 1600
    with pytest.raises(ValueError, match="no audio after 3 s"):
        read_audio(tmp_path / "tone.wav", start=3.0)
    with pytest.raises(ValueError, match="expected start >= 0"):
        read_audio(tmp_path / "tone.wav", start=-1.0)
    with pytest.raises(ValueError, match="duration > 0"):
        read_audio(tmp_path / "tone.wav", duration=0.0)


def bad_files(folder):
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("These are words, not sounds.\n" * 20)
    write_audio(folder / "short.wav", tone(0.2))
    write_audio(folder / "silent.wav", np.zeros(32_000))
    broken = tone()
    broken[100] = np.nan
    soundfile.write(folder / "nan.wav", broken, 16_000, subtype="FLOAT")
    soundfile.write(folder / "nan_48k.wav", np.stack([broken, tone()], 1), 48_000, "FLOAT")
    broken[100] = np.inf
    soundfile.write(folder / "inf.wav", broken, 16_000, subtype="FLOAT")
    soundfile.write(folder / "loud.wav", 40 * tone(), 16_000, subtype="FLOAT")
    soundfile.write(folder / "header_only.wav", np.zeros(0), 16_000)
    (folder / "folder.wav").mkdir()


@pytest.mark.parametrize(
    "name, message",
    [
        ("missing.wav", "does not exist"),
        ("folder.wav", "is a folder"),
        ("empty.wav", r"is empty \(0 bytes\)"),
        ("header_only.wav", "has no audio"),
        ("text.wav", "cannot be read as audio"),
        ("short.wav", r"holds 0.20 s of audio; expected at least 0.5 s"),
        ("silent.wav", "all silence"),
        ("nan.wav", "1 samples are NaN or infinite"),
        ("nan_48k.wav", "1 samples are NaN or infinite"),
        ("inf.wav", "1 samples are NaN or infinite"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, name, message):
    bad_files(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        read_audio(tmp_path / name, min_seconds=0.5, allow_silence=False)
    assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)


def test_an_address_is_no_file():
    with pytest.raises(ValueError, match="https://example.org/a.wav is an address; download it"):
        read_speech("https://example.org/a.wav")


def test_over_full_scale_is_scaled_or_clipped_and_silence_may_be_allowed(tmp_path, caplog):
    bad_files(tmp_path)
    soundfile.write(tmp_path / "overshoot.wav", 3 * tone(), 16_000, subtype="FLOAT")
    assert read_audio(tmp_path / "overshoot.wav").max() == 1.0 and not caplog.text
    # The shape of the waveform is kept.
    waveform = read_audio(tmp_path / "loud.wav")
    np.testing.assert_allclose(waveform, tone() / np.abs(tone()).max(), atol=1e-6)
    assert "its samples reach 20; they are scaled to 1" in caplog.text
    assert not read_audio(tmp_path / "silent.wav").any()


def test_a_truncated_file_is_refused_or_read_short(tmp_path):
    path = tmp_path / "cut.flac"
    noise = np.random.default_rng(0).normal(size=64_000) * 0.1
    write_audio(path, noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    samples, message = 0, "damaged"
    try:
        samples = len(read_audio(path))
    except ValueError as error:
        message = str(error)
    assert samples < 64_000 and "damaged" in message and "\n" not in message


def test_a_file_that_does_not_say_its_length_is_refused(tmp_path):
    """As a FLAC that an encoder wrote to a pipe."""
    path = tmp_path / "pipe.flac"
    write_audio(path, tone(1.3))
    content = bytearray(path.read_bytes())
    # STREAMINFO begins at byte 8; the number of samples is the low 36 bits of its bytes 13 to 17.
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    for read in (read_audio, read_duration):
        with pytest.raises(ValueError, match="pipe.flac has no length in its header; re-encode it"):
            read(path)


def test_durations(tmp_path):
    write_audio(tmp_path / "a.wav", tone(1.25))
    assert read_duration(tmp_path / "a.wav") == 1.25
    (tmp_path / "b.wav").write_text("words")
    with pytest.raises(ValueError, match="b.wav cannot be read as audio"):
        read_duration(tmp_path / "b.wav")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
@pytest.mark.parametrize("short_by", [100, 2000, 12_000])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, suffix, short_by):
    resource = pytest.importorskip("resource")
    noise = 0.1 * np.random.default_rng(0).normal(size=16_000)
    path = tmp_path / f"a{suffix}"
    write_audio(path, noise)
    size = path.stat().st_size
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(size - short_by, 10), limits[1]))
    try:
        with pytest.raises(ValueError, match=f"Cannot write .*a{suffix} ") as caught:
            write_audio(path, noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_reason_of_a_full_disk_is_named(tmp_path, monkeypatch):
    def no_space(*_):
        raise soundfile.LibsndfileError(2)  # "System error."

    usage = SimpleNamespace(free=0)
    monkeypatch.setattr("keras_speechssm.audio.io.shutil.disk_usage", lambda folder: usage)
    writer = AudioWriter(tmp_path / "a.wav")
    monkeypatch.setattr(writer, "_file", SimpleNamespace(write=no_space, close=writer._file.close))
    with pytest.raises(ValueError, match="a.wav .the disk is full"), writer:
        writer.write(tone())
    assert not list(tmp_path.iterdir())


def test_stream_equals_whole(tmp_path):
    waveform = tone(1.3)
    with AudioWriter(tmp_path / "stream.wav") as writer:
        for block in np.array_split(waveform, 7):
            writer.write(block)
        assert writer.seconds == pytest.approx(1.3)
    write_audio(tmp_path / "whole.wav", waveform)
    assert (tmp_path / "stream.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()


def test_a_long_vorbis_block_is_written(tmp_path):
    write_audio(tmp_path / "long.ogg", tone(120.0))
    assert len(read_audio(tmp_path / "long.ogg")) == 120 * 16_000


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("keep", [True, False])
def test_an_interrupt_keeps_a_shorter_file_where_asked(tmp_path, interrupt, keep):
    path = tmp_path / "out.wav"
    with pytest.raises(interrupt):  # noqa: PT012
        with AudioWriter(path, keep_interrupted=keep) as writer:
            writer.write(tone(0.5))
            raise interrupt
    assert os.listdir(tmp_path) == (["out.wav"] if keep else [])
    if keep:
        assert len(read_audio(path)) == 8000


def test_an_interrupt_before_any_sound_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with AudioWriter(tmp_path / "out.wav"):
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_an_error_leaves_what_was_there_before(tmp_path):
    path = tmp_path / "out.flac"
    write_audio(path, tone())
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="broke"):  # noqa: PT012
        with AudioWriter(path) as writer:
            writer.write(tone(3.0))
            raise RuntimeError("broke")
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["out.flac"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_nan_is_ever_written(tmp_path, value):
    with pytest.raises(ValueError, match="NaN or infinite"):
        write_audio(tmp_path / "out.wav", np.append(tone(), value))
    assert os.listdir(tmp_path) == []


def test_outputs_that_cannot_be_written_are_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"'.mp3' is not a known format; use one of .wav, .flac"):
        AudioWriter(tmp_path / "out.mp3")
    with pytest.raises(ValueError, match="does not exist"):
        check_output_path(tmp_path / "nowhere" / "out.wav")
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(ValueError, match="it is a folder"):
        check_output_path(tmp_path / "folder.wav")
    with pytest.raises(ValueError, match="-5 Hz"):
        AudioWriter(tmp_path / "out.wav", sample_rate=-5)
    with pytest.raises(ValueError, match=r"expected \(samples,\)"):
        write_audio(tmp_path / "out.wav", np.zeros((2, 100)))
    assert os.listdir(tmp_path) == ["folder.wav"]


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match="is not writable"):
        check_output_path(tmp_path / "out.wav")


def test_arrays_are_converted_as_files_are(tmp_path):
    stereo = np.stack([tone(rate=48_000), 0.5 * tone(rate=48_000, frequency=300.0)], axis=1)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, stereo, 48_000, "FLOAT")
    np.testing.assert_allclose(
        read_speech(stereo, sample_rate=48_000), read_speech(path), atol=1e-6
    )
    mono = read_speech(tone(2.0), duration=0.5)
    np.testing.assert_array_equal(mono, tone(2.0)[:8000])
    loud = 1.5 * tone()  # an array at 16 kHz is used as it is
    np.testing.assert_array_equal(read_speech(loud), loud)


@pytest.mark.parametrize(
    ("audio", "options", "message"),
    [
        ((16_000, np.ones(16_000, "f")), {}, "tuple, such as"),
        (np.ones((2, 16_000), "f"), {}, r"shape \(2, 16000\); expected one recording"),
        (np.ones((3, 16_000, 2), "f"), {}, "expected one recording"),
        (np.ones(16_000, "int16"), {}, "Divide 16-bit integers"),
        (np.ones((16_000, 2), "int16"), {}, "Divide 16-bit integers"),
        (np.ones(16_000, "f"), {"sample_rate": 0}, "at 1000 Hz or more"),
        (np.ones(16_000, "f"), {"sample_rate": 48_000}, "holds 0.33 s"),
        (tone(), {"sample_rate": "8000"}, "at '8000' Hz; expected"),
        (np.full((16_000, 2), np.nan, "f"), {}, "NaN"),
    ],
)
def test_arrays_that_are_not_recordings(audio, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_speech(audio, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (0.01 * tone(), "is very quiet, -46 dB of full scale"),
        (np.clip(9 * tone(), -1, 1), r"is clipped, \d\d % of its samples"),
        (0.1 + tone(), "has an offset of 0.10"),
        (tone(), None),
    ],
)
def test_levels_at_which_the_speech_suffers_get_a_warning(waveform, message, caplog):
    np.testing.assert_array_equal(read_speech(waveform), waveform.astype("float32"))
    assert re.search(message, caplog.text) if message else not caplog.text


def test_a_wav_stream_holds_the_samples_of_a_wav_file(tmp_path):
    waveform = np.random.default_rng(0).uniform(-1.1, 1.1, 3000).astype("float32")
    stream = WavStream(content := io.BytesIO())
    assert len(content.getvalue()) == 44  # a player starts with the header
    stream.write(waveform[:1000])
    assert len(content.getvalue()) == 44 + 2000 and stream.seconds == 1 / 16
    stream.write(waveform[1000:])
    write_audio(tmp_path / "file.wav", waveform)
    (tmp_path / "stream.wav").write_bytes(content.getvalue())
    expected, _ = soundfile.read(tmp_path / "file.wav", dtype="int16")
    np.testing.assert_array_equal(np.frombuffer(content.getvalue()[44:], "<i2"), expected)
    np.testing.assert_array_equal(
        read_audio(tmp_path / "stream.wav"), read_audio(tmp_path / "file.wav")
    )
    with pytest.raises(ValueError, match="NaN"):
        stream.write(np.array([np.nan]))
    with pytest.raises(ValueError, match=r"expected \(samples,\)"):
        stream.write(np.zeros((2, 2)))
