"""Formats that libsndfile cannot read are read with PyAV, whole and in parts."""

import numpy as np
import pytest

from keras_speechssm.audio import io
from keras_speechssm.audio.io import read_audio, read_duration
from keras_speechssm.data.corpora import find_audio

pytestmark = pytest.mark.any_backend
RATE = 44_100


def write(path, codec, channels):
    """Five seconds of a tone that rises, with a click at each second."""
    av = pytest.importorskip("av")
    time = np.arange(5 * RATE) / RATE
    tone = (0.3 * np.sin(2 * np.pi * (200 + 60 * time) * time)).astype("float32")
    tone[RATE // 2 :: RATE] = 0.9
    with av.open(str(path), "w") as container:
        layout = "stereo" if channels == 2 else "mono"
        stream = container.add_stream(codec, rate=RATE, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.stack([tone] * channels), "fltp", layout)
        frame.sample_rate, frame.pts = RATE, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return tone


@pytest.mark.parametrize("name, codec, channels", [("a.m4a", "aac", 2), ("a.mkv", "aac", 1)])
def test_a_recording_and_its_parts_are_read(tmp_path, name, codec, channels):
    path = tmp_path / name
    tone = io.to_mono_16khz(write(path, codec, channels), RATE)
    whole = read_audio(path)
    assert len(whole) / 16_000 == pytest.approx(5.0, abs=0.08)
    lags = np.arange(-2000, 2001)
    middle = slice(20_000, 60_000)
    matches = [np.dot(whole[20_000 + lag : 60_000 + lag], tone[middle]) for lag in lags]
    lag = lags[int(np.argmax(matches))]
    assert name != "a.m4a" or abs(lag) <= 2  # Matroska keeps the encoder's delay
    near = whole[20_000 + lag : 60_000 + lag]
    assert np.corrcoef(near, tone[middle])[0, 1] > 0.99
    assert read_duration(path) == pytest.approx(len(whole) / 16_000, abs=1e-3)
    part = read_audio(path, start=3.2, duration=0.75)
    assert len(part) == 12_000
    assert np.abs(part - whole[51_200:63_200])[400:-400].max() < 0.02
    with pytest.raises(ValueError, match="no audio after 9 s"):
        read_audio(path, start=9.0)


def test_a_damaged_file_gets_one_line(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "a.m4a").write_bytes(b"nothing of the kind " * 100)
    (tmp_path / "b.mp4").write_bytes(b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")  # a playlist
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match="cannot be read as audio") as caught:
            read_audio(path)
        assert "\n" not in str(caught.value)


def test_such_files_are_found_if_they_can_be_read(tmp_path, monkeypatch, caplog):
    for name in ("a.wav", "x.m4a", "z.WMA"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setattr("keras_speechssm.data.corpora.can_use_av", lambda: True)
    assert len(find_audio(tmp_path)) == 3 and not caplog.text
    monkeypatch.setattr(io, "can_use_av", lambda: False)
    with pytest.raises(ValueError, match="without PyAV; pip install av, or convert"):
        read_audio(tmp_path / "x.m4a")
