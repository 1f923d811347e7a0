"""Read and write audio files: WAV, FLAC, OGG, and MP3 (read only).

A waveform is float32 (samples,) in [-1, 1] at 16 kHz. Recordings of any sample rate and any number
of channels are converted to that. Output files appear atomically and never contain NaN.
"""

import os
import uuid
from pathlib import Path

import numpy as np
import soundfile
import soxr

from keras_speechssm.checks import check_finite, validate_waveform
from keras_speechssm.shapes import SAMPLE_RATE

OUTPUT_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
}
"""Container and sample format of the output by file extension."""

MIN_PROMPT_SECONDS = 0.5
"""Minimum length of a prompt. Shorter recordings contain too little of the voice."""

# libsndfile's Vorbis encoder overflows the stack on long writes, so they are split.
_WRITE_BLOCK = 10 * SAMPLE_RATE

# libsndfile reports this length if the header has none, as in a FLAC file written to a pipe.
_UNKNOWN_LENGTH = 2**63 - 1

_MAX_CHANNELS = 8


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

    Args:
        path: A WAV, FLAC, OGG, or MP3 file.
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
    path = Path(path)
    if start < 0 or (duration is not None and duration <= 0):
        raise ValueError(
            f"start {start} s, duration {duration} s: expected start >= 0, duration > 0."
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
        float32 (samples,) at 16 kHz; the mean of the channels.

    Raises:
        ValueError: The file is not audio, or the array is not a recording, is not finite, is
            silent, or is shorter than half a second.
    """
    checks = {"min_seconds": MIN_PROMPT_SECONDS, "allow_silence": False}
    if isinstance(audio, str | os.PathLike):
        return read_audio(audio, duration=duration, **checks)
    if isinstance(audio, tuple):
        raise ValueError(
            "audio is a tuple, such as (rate, array); pass the array, and `sample_rate=rate`."
        )
    samples = np.asarray(audio)
    if samples.ndim == 2 and 1 <= samples.shape[1] <= _MAX_CHANNELS < samples.shape[0]:
        samples = validate_waveform(samples.T).mean(axis=0)
    if samples.ndim != 1:
        raise ValueError(
            f"audio has shape {samples.shape}; expected one recording (samples,), mono, or "
            "(samples, channels)."
        )
    if sample_rate != SAMPLE_RATE:
        samples = to_mono_16khz(validate_waveform(samples), sample_rate)
    waveform = validate_waveform(samples, **checks)
    return waveform if duration is None else waveform[: round(duration * SAMPLE_RATE)]


def read_duration(path: str | Path) -> float:
    """Read the length of an audio file in seconds from its header.

    Args:
        path: A WAV, FLAC, OGG, or MP3 file.

    Raises:
        ValueError: The file is missing, damaged, or not audio.
    """
    with _open(Path(path)) as file:
        return file.frames / file.samplerate


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
        self.sample_rate = sample_rate
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
        waveform = np.asarray(waveform, dtype="float32")
        if waveform.ndim != 1:
            raise ValueError(f"A block has shape {waveform.shape}; expected (samples,).")
        check_finite(waveform, "A block to write")
        clipped = np.clip(waveform, -1.0, 1.0)
        try:
            for start in range(0, len(clipped), _WRITE_BLOCK):
                self._file.write(clipped[start : start + _WRITE_BLOCK])
        except (soundfile.LibsndfileError, OSError) as error:
            raise ValueError(f"Cannot write {self.path} ({_short(error)}).") from error
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


def check_output_path(path: str | Path) -> tuple[str, str]:
    """Check that an output file can be written, before any work is done for it.

    Args:
        path: The output file.

    Returns:
        libsndfile's names of the container and the sample format.

    Raises:
        ValueError: The extension is unknown, or the folder is missing or not writable.
    """
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


def _open(path: Path) -> soundfile.SoundFile:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"The audio file {path} {what}; pass the path of an existing file.")
    if path.stat().st_size == 0:
        raise ValueError(f"The audio file {path} is empty (0 bytes); pass a recording.")
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as audio ({_short(error)}); expected WAV, FLAC, OGG or MP3."
        ) from error
    if file.frames == _UNKNOWN_LENGTH:  # libsndfile cannot read such a file to its end.
        file.close()
        raise ValueError(f"{path} has no length in its header; re-encode it: flac -d, then flac.")
    return file


def _decode(path: Path, start: float, duration: float | None) -> tuple[np.ndarray, int]:
    with _open(path) as file:
        rate = file.samplerate
        first = round(start * rate)
        count = -1 if duration is None else round(duration * rate)
        try:
            file.seek(min(first, file.frames))
            return file.read(count, dtype="float32", always_2d=True), rate
        except (soundfile.LibsndfileError, OSError) as error:
            raise ValueError(
                f"{path} is damaged ({_short(error)}); pass an intact file."
            ) from error


def _short(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".")


def to_mono_16khz(samples: np.ndarray, sample_rate: float, name: str = "audio") -> np.ndarray:
    """Average the channels and resample to 16 kHz.

    Args:
        samples: float (samples,) or (samples, channels).
        sample_rate: Sample rate in Hz.
        name: Name of the recording in error messages.

    Returns:
        Waveform, float32 (samples,) at 16 kHz, clipped to [-1, 1].

    Raises:
        ValueError: The shape or the sample rate is invalid, or a sample is not finite.
    """
    samples = np.asarray(samples, dtype="float32")
    if samples.ndim not in (1, 2) or not sample_rate > 0:
        raise ValueError(
            f"{name} has shape {samples.shape} at {sample_rate} Hz; expected (samples,) or "
            "(samples, channels) at a positive rate."
        )
    # Before resampling, which would spread a NaN to its neighbors.
    check_finite(samples, name)
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    if sample_rate != SAMPLE_RATE:
        mono = soxr.resample(mono, sample_rate, SAMPLE_RATE)
    return np.clip(mono, -1.0, 1.0)
