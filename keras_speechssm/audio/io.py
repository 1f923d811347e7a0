"""Audio files to waveforms and back: WAV, FLAC and OGG both ways, MP3 in.

A waveform is float32 (samples,) in [-1, 1] at 16 kHz. What comes in, at any rate and of
any number of channels, leaves as that or is refused in one clear line. What goes out
appears whole under its name or not at all, and never holds NaN.
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
"""What is written, by the ending of the file's name."""

MIN_PROMPT_SECONDS = 0.5
"""Shorter recordings hold too little voice to continue or to speak in."""

# libsndfile's Vorbis encoder overflows the stack on long writes, so they are cut up.
WRITE_BLOCK = 10 * SAMPLE_RATE

# What libsndfile takes the length for where a header does not give it, as in a FLAC that was
# written to a pipe.
UNKNOWN_LENGTH = 2**63 - 1


def read_audio(
    path: str | Path,
    start: float = 0.0,
    duration: float | None = None,
    *,
    min_seconds: float = 0.0,
    allow_silence: bool = True,
) -> np.ndarray:
    """Reads an audio file, or a part of it, as 16 kHz mono.

    Only the part asked for is decoded. Channels are averaged, other rates resampled.

    Args:
        path: A WAV, FLAC, OGG or MP3 file.
        start: Where to begin, in seconds.
        duration: How many seconds to read; less where the file ends before. None: all.
        min_seconds: Less audio than this is refused.
        allow_silence: Whether audio without any sound is accepted.

    Returns:
        Waveform, float32 (samples,) in [-1, 1].

    Raises:
        ValueError: If the file is missing, not audio or damaged, or the part not valid.
    """
    path = Path(path)
    if start < 0 or (duration is not None and duration <= 0):
        raise ValueError(
            f"start {start} s, duration {duration} s: expected start >= 0, duration > 0."
        )
    samples, rate = _decode(path, start, duration)
    if len(samples) == 0:
        raise ValueError(f"{path} holds no audio after {start:g} s; expected a longer recording.")
    waveform = to_mono_16khz(samples, rate, name=str(path))
    return validate_waveform(
        waveform, min_seconds=min_seconds, allow_silence=allow_silence, name=str(path)
    )


def read_speech(audio, duration: float | None = None) -> np.ndarray:
    """The samples of a recording, checked to be something that can be worked on.

    Args:
        audio: path of an audio file, or waveform (samples,) at 16 kHz.
        duration: float. Seconds from its beginning to use. Defaults to `None`: all.

    Returns:
        float32 (samples,) at 16 kHz.

    Raises:
        ValueError: no sound file, or a waveform that is not mono, not finite, silent
            or shorter than half a second.
    """
    checks = {"min_seconds": MIN_PROMPT_SECONDS, "allow_silence": False}
    if isinstance(audio, (str, os.PathLike)):
        return read_audio(audio, duration=duration, **checks)
    waveform = validate_waveform(audio, **checks)
    if waveform.ndim != 1:
        raise ValueError(f"Give one waveform (samples,), mono; got shape {waveform.shape}.")
    return waveform if duration is None else waveform[: round(duration * SAMPLE_RATE)]


def read_duration(path: str | Path) -> float:
    """Seconds of an audio file, as its header says.

    Raises:
        ValueError: If the file is missing, not audio or damaged.
    """
    with _open(Path(path)) as file:
        return file.frames / file.samplerate


def write_audio(path: str | Path, waveform: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
    """Writes a waveform; the file appears whole or not at all.

    Args:
        path: As for `AudioWriter`.
        waveform: (samples,) in [-1, 1]; what lies outside is clipped.
        sample_rate: In Hz.

    Raises:
        ValueError: As `AudioWriter`.
    """
    with AudioWriter(path, sample_rate) as writer:
        writer.write(waveform)


class AudioWriter:
    """Writes audio block by block in bounded memory, for streams.

    The blocks go to a hidden file beside the output, which takes its name when the `with`
    block ends. Until then a file that lay there before stays untouched.

    Example:

    ```python
    with AudioWriter("continuation.wav") as writer:
        for block in speech.stream(prompt):
            writer.write(block)
    ```

    Args:
        path: Ends in .wav, .flac (both 16-bit) or .ogg (Vorbis). Its folder must exist.
        sample_rate: In Hz.
        keep_interrupted: Whether an interrupt (Ctrl-C, or a generator that is closed)
            leaves what was written so far as a valid, shorter file. Any other error
            leaves nothing.

    Raises:
        ValueError: At once, if the format is unknown or the place cannot be written.
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
        """How much audio has been written, in seconds."""
        return self.num_samples / self.sample_rate

    def write(self, waveform: np.ndarray) -> None:
        """Adds a block.

        Args:
            waveform: (samples,) in [-1, 1]; what lies outside is clipped.

        Raises:
            ValueError: If it has another shape, a sample is not finite, or the disk is full.
        """
        waveform = np.asarray(waveform, dtype="float32")
        if waveform.ndim != 1:
            raise ValueError(f"A block has shape {waveform.shape}; expected (samples,).")
        check_finite(waveform, "A block to write")
        clipped = np.clip(waveform, -1.0, 1.0)
        try:
            for start in range(0, len(clipped), WRITE_BLOCK):
                self._file.write(clipped[start : start + WRITE_BLOCK])
        except (soundfile.LibsndfileError, OSError) as error:
            raise ValueError(f"Cannot write {self.path} ({_short(error)}).") from error
        self.num_samples += len(clipped)

    def close(self) -> None:
        """Finishes the file and gives it its name.

        Raises:
            ValueError: If the disk is full; nothing is left then.
        """
        try:
            self._file.close()
            if self._temporary.exists():
                self._check_whole()
                os.replace(self._temporary, self.path)
        except (soundfile.LibsndfileError, OSError) as error:
            raise ValueError(f"Cannot write {self.path} ({_short(error)}).") from error
        finally:
            self._temporary.unlink(missing_ok=True)

    def _check_whole(self) -> None:
        """Raises the error that libsndfile keeps to itself when its last block finds no room."""
        with open(self._temporary, "rb+") as file:
            os.fsync(file.fileno())
        if self.num_samples:
            with soundfile.SoundFile(self._temporary) as file:
                if file.frames != self.num_samples:
                    raise OSError("the file is cut short: is the disk full?")

    def discard(self) -> None:
        """Leaves nothing behind, and a file that lay there before untouched."""
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
    """Refuses an output that could not be written, before any work is done for it.

    Returns libsndfile's names of the format and the sample type.

    Raises:
        ValueError: If the ending is not known, or the folder is missing or not writable.
    """
    path = Path(path)
    if path.suffix.lower() not in OUTPUT_FORMATS:
        raise ValueError(
            f"Cannot write {path}: the ending {path.suffix!r} is not a known format; "
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
        raise ValueError(f"The audio file {path} {what}; give the path of an existing file.")
    if path.stat().st_size == 0:
        raise ValueError(f"The audio file {path} is empty (0 bytes); give a recording.")
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as audio ({_short(error)}); expected WAV, FLAC, OGG or MP3."
        ) from error
    if file.frames == UNKNOWN_LENGTH:  # Of it libsndfile cannot read the end.
        file.close()
        raise ValueError(f"{path} does not say how long it is; write it anew: flac -d, flac.")
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
            raise ValueError(f"{path} is damaged ({_short(error)}); give a whole file.") from error


def _short(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".")


def to_mono_16khz(samples: np.ndarray, sample_rate: float, name: str = "audio") -> np.ndarray:
    """Averages channels and resamples.

    Args:
        samples: (time,) or (time, channels), floats.
        sample_rate: In Hz, any positive rate.
        name: What to call it in an error.

    Returns:
        Waveform, float32 (samples,) at 16 kHz; resampling may overshoot, so it is clipped.

    Raises:
        ValueError: If the shape or the rate is another, or a sample is not finite.
    """
    samples = np.asarray(samples, dtype="float32")
    if samples.ndim not in (1, 2) or not sample_rate > 0:
        raise ValueError(
            f"{name} has shape {samples.shape} at {sample_rate} Hz; expected (time,) or "
            "(time, channels) at a positive rate."
        )
    # Before resampling: one NaN would spread over its neighbors, or be lost in a mean.
    check_finite(samples, name)
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    if sample_rate != SAMPLE_RATE:
        mono = soxr.resample(mono, sample_rate, SAMPLE_RATE)
    return np.clip(mono, -1.0, 1.0)
