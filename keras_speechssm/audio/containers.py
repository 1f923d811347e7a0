"""Find all audio in files whose headers say less than they hold.

libsndfile believes a header: it reads an MP3 up to an estimated length, the first of several
streams in one file, and nothing of a WAV whose recorder was killed. The functions here split such
a file into parts that libsndfile reads completely.
"""

import io
import mmap
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

# Kilobits per second and Hz of MPEG layer III, for MPEG 1 and for MPEG 2 and 2.5.
_BIT_RATES = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)

# Bits of the header that are the same in all frames of a stream: version, layer, rate.
_SAME = 0x001E0C00

_SYNC = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef].", re.DOTALL)

_OGG_FIRST = 0x02
_OGG_HEADER = 27


@dataclass(frozen=True)
class Part:
    """Bytes that form a complete audio file: `head`, then those of a file from start to stop."""

    head: bytes
    start: int
    stop: int


class PartReader(io.RawIOBase):
    """A read-only file of the bytes of a `Part`.

    Args:
        path: The file, or its content.
        part: The part of it.
    """

    def __init__(self, path: str | os.PathLike | bytes, part: Part):
        super().__init__()
        self._file = io.BytesIO(path) if isinstance(path, bytes) else open(path, "rb")  # noqa: SIM115
        self._part = part
        self._size = len(part.head) + part.stop - part.start
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer) -> int:
        count = max(0, min(len(buffer), self._size - self._place))
        head = self._part.head[self._place : self._place + count]
        buffer[: len(head)] = head
        if count > len(head):
            self._file.seek(self._part.start + max(0, self._place - len(self._part.head)))
            rest = self._file.read(count - len(head))
            buffer[len(head) : len(head) + len(rest)] = rest
            count = len(head) + len(rest)
        self._place += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def find_parts(content: bytes | str | os.PathLike) -> tuple[list[Part] | None, str]:
    """Split a file into the parts that libsndfile reads completely.

    Args:
        content: Path of an audio file that is not empty, or its bytes.

    Returns:
        The parts in order, or `None` if libsndfile reads all of the file as it is; and in what
        the file differs from its header, `""` if in nothing.
    """
    if isinstance(content, bytes):
        return _find_parts(content)
    with open(content, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _find_parts(data)


def _find_parts(data) -> tuple[list[Part] | None, str]:
    first = bytes(data[:12])
    if first[:4] == b"OggS":
        return _ogg_parts(data)
    if first[:4] in (b"RIFF", b"RF64", b"BW64") and first[8:] == b"WAVE":
        return _wav_parts(data)
    if first[:3] == b"ID3" or _SYNC.match(first):
        return _mp3_parts(data)
    return None, ""


def _wav_parts(data) -> tuple[list[Part] | None, str]:
    """Extend the data chunk of an unfinished WAV file to the end of the file."""
    place, kept, ends = 12, b"", len(data)
    unfinished = damaged = False
    while place + 8 <= ends:
        name = bytes(data[place : place + 4])
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        if name == b"data":
            start = place + 8
            if unfinished and size == 0xFFFFFFFF:
                size = 0
            if start == ends or not kept or (not size and _is_chunks(data, start)):
                return None, ""
            # A size of all ones means "up to the end of the file".
            head = b"RIFF" + b"\xff" * 4 + b"WAVE" + kept + b"data" + b"\xff" * 4
            if not size:
                what = "its header says 0 s (was the recorder killed?); it is read to its end"
                return [Part(head, start, ends)], what
            if damaged:
                return [Part(head, start, min(ends, start + size))], "its header is damaged"
            after = start + size + size % 2
            tag = bytes(data[after : after + 3])
            if after < ends and tag not in (b"TAG", b"ID3") and not _is_chunks(data, after):
                return None, f"it has {ends - after} bytes after its audio, which are not read"
            return None, ""
        if name == b"fmt ":
            kept = bytes(data[place : place + 8 + size])
        if name == b"ds64":
            unfinished = not any(data[place + 16 : place + 24])
        if not any(name):  # zeros that a recorder did not fill
            place, damaged = data.find(b"data", place), True
            if place < 0:
                return None, ""
            continue
        place += 8 + size + size % 2
    return None, ""


def _is_chunks(data, place: int) -> bool:
    """Return whether chunks with plain names follow, exactly up to the end of a WAV file."""
    while place + 8 <= len(data):
        if not re.fullmatch(rb"[A-Za-z0-9 _]{4}", bytes(data[place : place + 4])):
            return False
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    return place >= len(data) and place - len(data) <= 1


def _ogg_parts(data) -> tuple[list[Part] | None, str]:
    """Split an Ogg file where a new stream begins after the pages of another."""
    starts, place, in_header = [0], 0, True
    while (place := data.find(b"OggS", place)) >= 0 and place + _OGG_HEADER <= len(data):
        segments = data[place + 26]
        body = place + _OGG_HEADER + segments
        if data[place + 4] != 0:  # not a page
            place += 4
            continue
        is_first = bool(data[place + 5] & _OGG_FIRST)
        if is_first and not in_header:
            starts.append(place)
        in_header = is_first
        place = body + sum(data[place + _OGG_HEADER : body])
    if len(starts) == 1:
        return None, ""
    stops = [*starts[1:], len(data)]
    parts = [Part(b"", start, stop) for start, stop in zip(starts, stops, strict=True)]
    return parts, f"it is {len(parts)} streams one after the other; all are read"


@dataclass
class _Stream:
    """Frames of an MP3 that have the same format.

    Attributes:
        header: Header of the first frame.
        start: Where the first frame is, which may be a tag with the number of frames.
        after: Where the second frame is.
        stop: Where the last frame ends.
        frames: Number of frames with audio.
        claim: Number of frames by the tag; -1 without a tag or without a number.
        tag: Place of the number in the tag, from the start of the frame.
    """

    header: int
    start: int
    after: int
    stop: int
    frames: int
    claim: int = -1
    tag: int = 0


def _mp3_parts(data) -> tuple[list[Part] | None, str]:
    """Split an MP3 into its streams, each with a tag that has the right number of frames."""
    streams: list[_Stream] = []
    for place, header, size in _mp3_frames(data):
        tag = _mp3_tag(data, place, header, size)
        if tag is not None or not streams or (streams[-1].header ^ header) & _SAME:
            claim, where = tag or (-1, 0)
            stop = place + size
            streams.append(_Stream(header, place, stop, stop, int(tag is None), claim, where))
        else:
            streams[-1].frames += 1
            streams[-1].stop = place + size
    streams = [stream for stream in streams if stream.frames]
    if not streams or (len(streams) == 1 and streams[0].claim == streams[0].frames):
        return None, ""
    seconds = sum(_mp3_seconds(stream, stream.frames) for stream in streams)
    what = ""
    if len(streams) > 1:
        what = f"it is {len(streams)} recordings one after the other; all are read"
    elif streams[0].claim >= 0 and abs(streams[0].claim - streams[0].frames) > 1:
        claimed = _mp3_seconds(streams[0], streams[0].claim)
        what = f"its header says {claimed:.1f} s, but it has {seconds:.1f} s"
    return [_mp3_part(data, stream) for stream in streams], what


def _mp3_part(data, stream: _Stream) -> Part:
    if stream.claim == stream.frames:
        return Part(b"", stream.start, stream.stop)
    count = stream.frames.to_bytes(4, "big")
    if stream.claim >= 0:
        head = bytearray(data[stream.start : stream.after])
        head[stream.tag : stream.tag + 4] = count
        # The padding that LAME counted is at an end that is not there.
        lame = stream.tag + 112 + 21
        if stream.claim > stream.frames and len(head) > lame + 2:
            head[lame + 1] &= 0xF0
            head[lame + 2] = 0
        return Part(bytes(head), stream.after, stream.stop)
    # A frame of silence with a tag: long enough for it, without a checksum and without padding.
    header = (stream.header | 0x00010000) & 0xFFFF0DFF
    for index in range(1, 15):
        header = header & 0xFFFF0FFF | index << 12
        size = _mp3_frame_size(header)
        if size >= _mp3_side(header) + 12:
            break
    head = bytearray(size)
    head[:4] = header.to_bytes(4, "big")
    tag = _mp3_side(header)
    head[tag : tag + 12] = b"Xing" + (1).to_bytes(4, "big") + count
    start = stream.start if stream.tag == 0 else stream.after
    return Part(bytes(head), start, stream.stop)


def _mp3_frames(data) -> Iterator[tuple[int, int, int]]:
    """Yield place, header and size of each frame."""
    place, known, ends = 0, None, len(data)
    while place + 4 <= ends:
        header = int.from_bytes(data[place : place + 4], "big")
        size = _mp3_frame_size(header)
        if size and known is not None and not (header ^ known) & _SAME:
            if place + size > ends:
                return  # cut off
            yield place, header, size
            place += size
            continue
        # The first frame, another format, or no frame: look for two frames in a row.
        if bytes(data[place : place + 3]) == b"ID3":
            sizes = data[place + 6 : place + 10]
            place += 10 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(sizes))
            continue
        if size and place + size + 4 <= ends:
            following = int.from_bytes(data[place + size : place + size + 4], "big")
            if _mp3_frame_size(following) and not (header ^ following) & _SAME:
                known = header
                continue
        match = _SYNC.search(data, place + 1)
        tag = data.find(b"ID3", place + 1, match.start() if match else ends)
        if tag >= 0:
            place = tag
        elif match is None:
            return
        else:
            place = match.start()


def _mp3_frame_size(header: int) -> int:
    """Return the bytes of a frame, or 0 if it is not a header of layer III."""
    version, index, rate = header >> 19 & 3, header >> 12 & 15, header >> 10 & 3
    if header >> 21 != 0x7FF or header >> 17 & 3 != 1 or version == 1:
        return 0
    if index in (0, 15) or rate == 3:
        return 0
    kilobits = _BIT_RATES[version == 3][index]
    hertz = _RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    return (144_000 if version == 3 else 72_000) * kilobits // hertz + (header >> 9 & 1)


def _mp3_side(header: int) -> int:
    """Return where the audio of a frame without checksum begins."""
    mono, first = header >> 6 & 3 == 3, header >> 19 & 3 == 3
    return 4 + ((17 if mono else 32) if first else (9 if mono else 17))


def _mp3_seconds(stream: _Stream, frames: int) -> float:
    version = stream.header >> 19 & 3
    hertz = _RATES[stream.header >> 10 & 3] >> {3: 0, 2: 1, 0: 2}[version]
    return frames * (1152 if version == 3 else 576) / hertz


def _mp3_tag(data, place: int, header: int, size: int) -> tuple[int, int] | None:
    """Return the frames that a tag counts, -1 if it does not, and where; `None` without tag."""
    side = _mp3_side(header)
    name = bytes(data[place + side : place + side + 4])
    if name in (b"Xing", b"Info"):
        counted = data[place + side + 7] & 1
        where = side + 8
    elif data[place + 36 : place + 40] == b"VBRI":
        counted, where = 1, 36 + 14
    else:
        return None
    if not counted or where + 4 > size:
        return -1, side
    return int.from_bytes(data[place + where : place + where + 4], "big"), where
