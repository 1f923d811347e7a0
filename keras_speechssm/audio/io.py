"""Read and write audio files: WAV, FLAC, OGG; Opus, MP3, and AIFF (read only).

Formats that libsndfile cannot read, such as M4A, are read with PyAV where it is installed.

A waveform is float32 (samples,) in [-1, 1] at 16 kHz. Recordings of any sample rate and any number
of channels are converted to that. Output files appear atomically and never contain NaN.
"""

import functools
import importlib.util
import io
import logging
import os
import shutil
import struct
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from keras_speechssm.audio.containers import Part, PartReader, find_parts
from keras_speechssm.checks import check_finite, is_number, shown, to_int, validate_waveform
from keras_speechssm.files import check_local
from keras_speechssm.shapes import SAMPLE_RATE

logger = logging.getLogger(__name__)

OUTPUT_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
}
"""Container and sample format of the output by file extension."""

AV_SUFFIXES = tuple(
    ".m4a .m4b .mp4 .aac .wma .webm .mka .mkv .mov .3gp .amr .ac3 .ape .wv .tta .spx .sph".split()
)
"""Suffixes of recordings that are read with PyAV, in lower case."""

MIN_PROMPT_SECONDS = 0.5
"""Minimum length of a prompt. Shorter recordings contain too little of the voice."""

# libsndfile's Vorbis encoder overflows the stack on long writes, so they are split.
_WRITE_BLOCK = 10 * SAMPLE_RATE

# libsndfile reports this length if the header has none, as in a FLAC file written to a pipe.
_UNKNOWN_LENGTH = 2**63 - 1

_MAX_CHANNELS = 8

_FULL_DISK_BYTES = 2**20

# No speech is recorded at less, and one sample per second would become 16,000.
_MIN_SAMPLE_RATE = 1000

# Peak, fraction of clipped samples, and mean of a recording that is worth a warning.
_QUIET, _CLIPPED, _OFFSET = 0.03, 0.01, 0.05

# Beyond the overshoot of an encoder or a resampler. Arrays with such samples are refused.
_MAX_PEAK = 2.0

# A mean of channels with less than this part of their power has lost sound: 12 dB.
_CANCELED = 10**-1.2

# A pipe is read into memory: 2 GiB are 18 hours of 16-bit audio at 16 kHz.
_MAX_PIPED_BYTES = 2**31

# What PyAV may open: no playlists, and nothing from a network.
_AV_OPTIONS = {
    "format_whitelist": "mov,matroska,webm,asf,aac,amr,ac3,ape,wv,tta,ogg,nistsphere",
    "protocol_whitelist": "file",
}

# A header may count a little more than there is: a part of an MP3 frame, the end of a packet.
_TOLERATED_SECONDS = 0.1


def read_audio(
    path: str | Path,
    start: float = 0.0,
    duration: float | None = None,
    *,
    min_seconds: float = 0.0,
    allow_silence: bool = True,
) -> np.ndarray:
    """Read an audio file, or a part of it, as a 16 kHz mono waveform.

    Only the requested part is decoded. Channels are averaged, and other sample rates resampled.
    If averaging loses more than 12 dB because the channels have opposite phases, the loudest
    channel is used instead. A recording of floats that exceeds [-1, 1] more than twofold is scaled
    to it.

    A file is read to its end even if its header says less: MP3 without its length, several
    recordings one after the other in one MP3 or Ogg file, or WAV from a recorder that was killed.
    A warning is logged if the header and the audio differ.

    Args:
        path: A WAV, FLAC, OGG, Opus, MP3, or AIFF file, or a pipe such as `/dev/stdin`. With
            PyAV (`pip install av`) also M4A and others of `AV_SUFFIXES`.
        start: Seconds from the beginning of the file at which to start.
        duration: Number of seconds to read; fewer if the file ends earlier. Defaults to `None`
            (all).
        min_seconds: Minimum length of the audio in seconds.
        allow_silence: Whether silent audio is accepted.

    Returns:
        Waveform, float32 (samples,) in [-1, 1].

    Raises:
        ValueError: The file is missing, damaged, or not audio, or the part is out of range.

    Example:

    ```python
    from keras_speechssm.audio import read_audio

    waveform = read_audio("examples/prompt.flac", duration=3.0)  # float32 (48000,)
    ```
    """
    if "://" in str(path):
        raise ValueError(f"{path} is an address; download it, and pass the path of the file.")
    path = Path(path)
    numbers = is_number(start) and (duration is None or is_number(duration))
    if not numbers or not 0 <= start < np.inf or (duration is not None and not duration > 0):
        raise ValueError(
            f"start {shown(start)} s, duration {shown(duration)} s: expected start >= 0, "
            "duration > 0."
        )
    samples, rate = _decode(path, start, duration)
    if len(samples) == 0:
        raise ValueError(f"{path} has no audio after {start:g} s; expected a longer recording.")
    waveform = to_mono_16khz(samples, rate, name=str(path))
    return validate_waveform(
        waveform, min_seconds=min_seconds, allow_silence=allow_silence, name=str(path)
    )


def read_speech(
    audio, duration: float | None = None, sample_rate: float = SAMPLE_RATE
) -> np.ndarray:
    """Read a recording from a file or an array, and check that it can contain speech.

    Args:
        audio: Path of an audio file, or float array (samples,) or (samples, channels).
        duration: Number of seconds to use from its beginning. Defaults to `None` (all).
        sample_rate: Sample rate of an array in Hz. Files have their own. Defaults to `16000`.

    Returns:
        float32 (samples,) at 16 kHz; the mean of the channels, as in `read_audio`.

    Raises:
        ValueError: The file is not audio, or the array is not a recording, is not finite, is
            silent, or is shorter than half a second.
    """
    checks = {"min_seconds": MIN_PROMPT_SECONDS, "allow_silence": False}
    if isinstance(audio, str | os.PathLike):
        waveform = read_audio(audio, duration=duration, **checks)
        _warn_of_level(waveform, audio)
        return waveform
    if isinstance(audio, tuple):
        raise ValueError(
            "audio is a tuple, such as (rate, array); pass the array, and `sample_rate=rate`."
        )
    samples = np.asarray(audio)
    if samples.ndim == 2 and 1 <= samples.shape[1] <= _MAX_CHANNELS < samples.shape[0]:
        samples = _to_mono(validate_waveform(samples.T).T, "audio")
    if samples.ndim != 1:
        raise ValueError(
            f"audio has shape {samples.shape}; expected one recording (samples,), mono, or "
            "(samples, channels)."
        )
    if sample_rate != SAMPLE_RATE:
        samples = to_mono_16khz(validate_waveform(samples), sample_rate)
    waveform = validate_waveform(samples, **checks)
    waveform = waveform if duration is None else waveform[: round(duration * SAMPLE_RATE)]
    _warn_of_level(waveform, "audio")
    return waveform


def _warn_of_level(waveform: np.ndarray, name: str | os.PathLike) -> None:
    """Warn of levels at which the demo's tokens of the same speech are others."""
    offset, peak = float(waveform.mean()), float(np.abs(waveform).max())
    clipped = float(np.mean(np.abs(waveform) > 0.999))
    problems = []
    if peak < _QUIET:
        problems.append(f"is very quiet, {20 * np.log10(peak):.0f} dB of full scale")
    elif clipped > _CLIPPED:
        problems.append(f"is clipped, {100 * clipped:.0f} % of its samples")
    elif abs(offset) > _OFFSET:
        problems.append(f"has an offset of {offset:.2f}, which a high-pass filter removes")
    if problems:
        _warn_once(f"{name} {problems[0]}. The speech may suffer; use a better recording.")


def read_duration(path: str | Path) -> float:
    """Return the length of an audio file in seconds.

    The frames of an MP3 and the streams of an Ogg file are counted, because their headers may say
    less; what PyAV reads is decoded. A damaged file may have less audio than its header says.

    Args:
        path: A file that `read_audio` reads.

    Raises:
        ValueError: The file is missing, damaged, or not audio.
    """
    if _needs_av(path := Path(path)):
        return sum(len(samples) / rate for _, samples, rate in _av_blocks(path))
    with _open(path) as files:
        return sum(file.frames / file.samplerate for file in files)


def write_audio(path: str | Path, waveform: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
    """Write a waveform to an audio file atomically.

    Args:
        path: Output file; see `AudioWriter`.
        waveform: (samples,) in [-1, 1]. Values outside are clipped.
        sample_rate: Sample rate in Hz.

    Raises:
        ValueError: The file cannot be written; see `AudioWriter`.
    """
    with AudioWriter(path, sample_rate) as writer:
        writer.write(waveform)


def _checked_block(waveform) -> np.ndarray:
    waveform = np.asarray(waveform, dtype="float32")
    if waveform.ndim != 1:
        raise ValueError(f"A block has shape {waveform.shape}; expected (samples,).")
    check_finite(waveform, "A block to write")
    return np.clip(waveform, -1.0, 1.0)


class AudioWriter:
    """Write audio block by block, in bounded memory.

    The blocks go to a hidden file next to the output, which replaces it when the `with` block
    ends. Until then an existing file stays untouched.

    Args:
        path: Output file with the extension .wav, .flac (both 16-bit), or .ogg (Vorbis). Its
            folder must exist.
        sample_rate: Sample rate in Hz.
        keep_interrupted: Whether an interrupt (Ctrl-C, or a closed generator) keeps the blocks
            written so far as a valid, shorter file. Other errors discard them.

    Raises:
        ValueError: The format is unknown, or the file cannot be created.

    Example:

    ```python
    import numpy as np
    from keras_speechssm.audio import AudioWriter

    with AudioWriter("noise.wav") as writer:
        for _ in range(3):
            writer.write(np.random.uniform(-0.1, 0.1, 16000))
    ```
    """

    def __init__(
        self, path: str | Path, sample_rate: int = SAMPLE_RATE, keep_interrupted: bool = True
    ):
        self.path = Path(path)
        self.sample_rate = to_int("sample_rate", sample_rate)
        self.keep_interrupted = keep_interrupted
        self.num_samples = 0
        container, subtype = check_output_path(self.path)
        self._temporary = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}.partial")
        try:
            self._file = soundfile.SoundFile(
                self._temporary, "w", sample_rate, 1, subtype=subtype, format=container
            )
        except (soundfile.LibsndfileError, OSError) as error:
            self._temporary.unlink(missing_ok=True)
            reason = f"{_short(error)}, at {sample_rate} Hz"
            raise ValueError(f"Cannot write {self.path} ({reason}).") from error

    @property
    def seconds(self) -> float:
        """Length of the audio written so far in seconds."""
        return self.num_samples / self.sample_rate

    def write(self, waveform: np.ndarray) -> None:
        """Append a block.

        Args:
            waveform: (samples,) in [-1, 1]. Values outside are clipped.

        Raises:
            ValueError: The shape is wrong, a sample is not finite, or the disk is full.
        """
        clipped = _checked_block(waveform)
        try:
            for start in range(0, len(clipped), _WRITE_BLOCK):
                self._file.write(clipped[start : start + _WRITE_BLOCK])
        except (soundfile.LibsndfileError, OSError) as error:
            # libsndfile says "System error" only.
            full = shutil.disk_usage(self.path.parent).free < _FULL_DISK_BYTES
            reason = "the disk is full" if full else _short(error)
            raise ValueError(f"Cannot write {self.path} ({reason}).") from error
        self.num_samples += len(clipped)

    def close(self) -> None:
        """Finish the file and move it to its path.

        Raises:
            ValueError: The disk is full. The partial file is deleted.
        """
        try:
            self._file.close()
            if self._temporary.exists():
                self._check_complete()
                os.replace(self._temporary, self.path)
        except (soundfile.LibsndfileError, OSError) as error:
            raise ValueError(f"Cannot write {self.path} ({_short(error)}).") from error
        finally:
            self._temporary.unlink(missing_ok=True)

    def _check_complete(self) -> None:
        """Raise the error that libsndfile does not report if the disk is full at the last block."""
        with open(self._temporary, "rb+") as file:
            os.fsync(file.fileno())
        if self.num_samples:
            with soundfile.SoundFile(self._temporary) as file:
                if file.frames != self.num_samples:
                    raise OSError("the file is truncated: is the disk full?")

    def discard(self) -> None:
        """Delete the partial file. An existing output file stays untouched."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> "AudioWriter":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt | GeneratorExit)
        if kind is None or (interrupted and self.keep_interrupted and self.num_samples):
            self.close()
        else:
            self.discard()


class WavStream:
    """Write a WAV stream of unknown length, block by block, to a pipe or a file.

    Players read such a stream as it is made; its header says that the length is unknown. The
    samples are those of a `.wav` file of `AudioWriter` (16 bits, mono).

    Args:
        file: Binary file to write to, such as `sys.stdout.buffer`. It is flushed after each
            block and not closed.
        sample_rate: Sample rate in Hz.
        num_samples: Number of samples that the file has already, if it is continued.

    Example:

    ```python
    import io

    import numpy as np
    from keras_speechssm.audio import WavStream

    stream = WavStream(file := io.BytesIO())
    stream.write(np.zeros(16000))
    len(file.getvalue())  # 44 bytes of header, and 32000
    ```
    """

    def __init__(self, file: BinaryIO, sample_rate: int = SAMPLE_RATE, num_samples: int = 0):
        self.file = file
        self.sample_rate = sample_rate
        self.num_samples = num_samples
        if num_samples:
            return
        unknown = 2**32 - 1
        parts = (b"RIFF", unknown, b"WAVE", b"fmt ", 16, 1, 1)
        rates = (sample_rate, 2 * sample_rate, 2, 16, b"data", unknown)
        self.file.write(struct.pack("<4sI4s4sIHHIIHH4sI", *parts, *rates))
        self.file.flush()

    @property
    def seconds(self) -> float:
        """Length of the audio written so far in seconds."""
        return self.num_samples / self.sample_rate

    def write(self, waveform: np.ndarray) -> None:
        """Append a block.

        Args:
            waveform: (samples,) in [-1, 1]. Values outside are clipped.

        Raises:
            ValueError: The shape is wrong, or a sample is not finite.
        """
        waveform = _checked_block(waveform)
        # As libsndfile converts: 32 bits, of which the upper 16 are kept.
        wide = np.minimum(np.rint(waveform.astype("float64") * 2**31), 2**31 - 1)
        self.file.write((wide.astype("int64") >> 16).astype("<i2").tobytes())
        self.file.flush()
        self.num_samples += len(waveform)


def check_output_path(path: str | Path) -> tuple[str, str]:
    """Check that an output file can be written, before any work is done for it.

    Args:
        path: The output file.

    Returns:
        libsndfile's names of the container and the sample format.

    Raises:
        ValueError: The extension is unknown, or the folder is missing or not writable.
    """
    check_local("output", path)
    path = Path(path)
    if path.suffix.lower() not in OUTPUT_FORMATS:
        raise ValueError(
            f"Cannot write {path}: the extension {path.suffix!r} is not a known format; "
            f"use one of {', '.join(OUTPUT_FORMATS)}."
        )
    if not path.parent.is_dir():
        raise ValueError(f"Cannot write {path}: the folder {path.parent} does not exist; make it.")
    if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        what = "it is a folder" if path.is_dir() else f"{path.parent} is not writable"
        raise ValueError(f"Cannot write {path}: {what}; choose another output.")
    return OUTPUT_FORMATS[path.suffix.lower()]


@contextmanager
def _open(path: Path) -> Iterator[list[soundfile.SoundFile]]:
    """Open a file, as one or several parts that libsndfile reads to their ends."""
    with ExitStack() as stack:
        if path.is_fifo() or path.is_socket():
            with open(path, "rb") as file:
                content = file.read(_MAX_PIPED_BYTES)
            if len(content) == _MAX_PIPED_BYTES:
                raise ValueError(f"The pipe {path} has more than 2 GiB; write it to a file first.")
            parts, difference = find_parts(content)
            if difference:
                logger.warning("%s: %s.", path, difference)
            sources = [io.BytesIO(content)]
        else:
            if not path.is_file():
                what = "is not a file" if path.exists() else "does not exist"
                what = "is a folder" if path.is_dir() else what
                raise ValueError(
                    f"The audio file {path} {what}; pass the path of an existing file."
                )
            content, about = path, path.stat()
            parts, sources = None, [path]
            if about.st_size:
                parts = _find_parts(path, about.st_size, about.st_mtime_ns)
        if content == b"" or (content is path and not about.st_size):
            raise ValueError(f"The audio file {path} is empty (0 bytes); pass a recording.")
        if parts is not None:
            sources = [stack.enter_context(PartReader(content, part)) for part in parts]
        try:
            files = [stack.enter_context(soundfile.SoundFile(source)) for source in sources]
        except (soundfile.LibsndfileError, OSError) as error:
            raise ValueError(
                f"{path} cannot be read as audio ({_short(error)}); expected WAV, FLAC, OGG, Opus, "
                "MP3 or AIFF. Convert other formats: ffmpeg -i INPUT OUTPUT.flac"
            ) from error
        if files[0].frames == _UNKNOWN_LENGTH:  # libsndfile cannot read such a file to its end.
            raise ValueError(
                f"{path} has no length in its header; re-encode it: flac -d, then flac."
            )
        yield files


@functools.lru_cache(maxsize=65_536)
def _find_parts(path: Path, size: int, changed: int) -> list[Part] | None:
    """Find the parts of a file once per version of it, and warn once."""
    try:
        parts, difference = find_parts(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({_short(error)}).") from error
    if difference:
        logger.warning("%s: %s.", path, difference)
    return parts


@functools.lru_cache(maxsize=65_536)
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def can_use_av() -> bool:
    """Return whether PyAV, which reads the formats of `AV_SUFFIXES`, is installed."""
    return importlib.util.find_spec("av") is not None


def _needs_av(path: Path) -> bool:
    return path.suffix.lower() in AV_SUFFIXES and path.is_file() and path.stat().st_size > 0


def _av_blocks(path: Path, start: float = 0.0) -> Iterator[tuple[float, np.ndarray, int]]:
    """Decode a file with PyAV: position in seconds, (samples, channels), and rate of each block.

    The first block is at `start` or before it.
    """
    if not can_use_av():
        raise ValueError(
            f"{path} cannot be read without PyAV; pip install av, or convert the file: ffmpeg -i "
            "INPUT OUTPUT.flac"
        )
    import av

    try:
        with av.open(str(path), options=_AV_OPTIONS) as container:
            if not container.streams.audio:
                raise ValueError(f"{path} has no sound; pass a recording.")
            stream, position = container.streams.audio[0], 0.0
            # Other formats round the times of frames, or have none: they are read from the start.
            sought = start > 2 and container.format.name.startswith("mov")
            if sought:  # a second before, because the first frames lack what is before them
                container.seek(int((start - 1) * av.time_base))
            to_float = av.AudioResampler(format="fltp")
            for frame in container.decode(stream):
                if sought and frame.time is not None:
                    position, sought = frame.time, False
                for block in to_float.resample(frame):
                    samples = block.to_ndarray().T
                    yield position, samples, block.sample_rate
                    position += len(samples) / block.sample_rate
    except (av.error.FFmpegError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{path} cannot be read as audio ({reason}); convert it.") from error


def _decode_with_av(path: Path, start: float, duration: float | None) -> tuple[np.ndarray, int]:
    pieces, rate, end = [], SAMPLE_RATE, np.inf if duration is None else start + duration
    for position, samples, block_rate in _av_blocks(path, start):
        if not pieces:
            rate, channels = block_rate, samples.shape[1]
        if (block_rate, samples.shape[1]) != (rate, channels):
            raise ValueError(f"{path} changes its sample rate or channels; convert it.")
        first = max(0, round((start - position) * rate))
        last = len(samples) if end == np.inf else max(0, round((end - position) * rate))
        pieces.append(samples[first:last])
        if last < len(samples):
            break
    return np.concatenate(pieces) if pieces else np.zeros((0, 1), "float32"), rate


def _decode(path: Path, start: float, duration: float | None) -> tuple[np.ndarray, int]:
    if _needs_av(path):
        return _decode_with_av(path, start, duration)
    pieces = []
    with _open(path) as files:
        rate, channels = files[0].samplerate, files[0].channels
        for file in files:
            wanted = file.frames - min(round(start * file.samplerate), file.frames)
            if duration is not None:
                wanted = min(wanted, round(duration * file.samplerate))
            piece = _read_part(path, file, start, wanted)
            missing = (wanted - len(piece)) / file.samplerate
            if missing > _TOLERATED_SECONDS:
                length = file.frames / file.samplerate
                _warn_once(f"{path}: its header says {length:.1f} s, but it ends before.")
            start = max(0.0, start - file.frames / file.samplerate)
            if duration is not None:
                duration -= len(piece) / file.samplerate
            if (file.samplerate, file.channels) != (rate, channels):
                piece = soxr.resample(_to_mono(piece, path), file.samplerate, rate)[:, None]
                piece = np.repeat(piece, channels, axis=1)
            pieces.append(piece)
            if duration is not None and round(duration * file.samplerate) <= 0:
                break
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces), rate


def _read_part(path: Path, file: soundfile.SoundFile, start: float, count: int) -> np.ndarray:
    if count == 0:
        return np.zeros((0, file.channels), "float32")
    try:
        first = round(start * file.samplerate)
        # The first frames of an MP3 after a seek lack bits from the frames before them.
        lead = min(first, file.samplerate) if file.format == "MP3" else 0
        file.seek(first - lead)
        return file.read(lead + count, dtype="float32", always_2d=True)[lead:]
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{path} is damaged ({_short(error)}); pass an intact file.") from error


def _short(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".")


def to_mono_16khz(samples: np.ndarray, sample_rate: float, name: str = "audio") -> np.ndarray:
    """Average the channels, as `read_audio` does, and resample to 16 kHz.

    Args:
        samples: float (samples,) or (samples, channels).
        sample_rate: Sample rate in Hz.
        name: Name of the recording in error messages.

    Returns:
        Waveform, float32 (samples,) at 16 kHz, in [-1, 1]. Samples outside are clipped; if they are
        beyond 2, all are scaled.

    Raises:
        ValueError: The shape or the sample rate is invalid, or a sample is not finite.
    """
    samples = np.asarray(samples, dtype="float32")
    is_rate = is_number(sample_rate) and _MIN_SAMPLE_RATE <= sample_rate < np.inf
    if samples.ndim not in (1, 2) or not is_rate:
        raise ValueError(
            f"{name} has shape {samples.shape} at {shown(sample_rate)} Hz; expected (samples,) or "
            f"(samples, channels) at {_MIN_SAMPLE_RATE} Hz or more."
        )
    # Before resampling, which would spread a NaN to its neighbors.
    check_finite(samples, name)
    mono = samples if samples.ndim == 1 else _to_mono(samples, name)
    if sample_rate != SAMPLE_RATE:
        mono = soxr.resample(mono, sample_rate, SAMPLE_RATE)
    peak = float(np.abs(mono).max(initial=0.0))
    if peak > _MAX_PEAK:
        _warn_once(f"{name}: its samples reach {peak:.3g}; they are scaled to 1.")
        return mono / np.float32(peak)
    return np.clip(mono, -1.0, 1.0)


def _to_mono(samples: np.ndarray, name: str | Path) -> np.ndarray:
    """Average (samples, channels), or take the loudest channel if the others cancel it."""
    mono = samples.mean(axis=1)
    if samples.shape[1] > 1 and len(samples):
        # Variances, because an offset of the channels does not cancel.
        powers = np.var(samples, axis=0)
        if np.var(mono) < _CANCELED * powers.mean():
            loudest = int(np.argmax(powers))
            _warn_once(
                f"{name}: its channels have opposite phases and cancel; channel {loudest + 1} is "
                "used alone."
            )
            return samples[:, loudest]
    return mono
