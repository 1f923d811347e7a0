"""Folders of audio as a corpus: their files, and what is known about their content.

A corpus is any folder tree of audio files. Next to `X.wav` (or another of `AUDIO_SUFFIXES`), an
optional `X.json` describes what is spoken where:

    {"voice": str, "segments": [{"start": seconds, "end": seconds,
                                 "text": str, "phonemes": ["hh", "ax", ...]}]}
"""

import json
import logging
import math
import mimetypes
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_speechssm.audio.io import AV_SUFFIXES, can_use_av, read_duration
from keras_speechssm.files import is_bucket, open_path, write_json

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = tuple(
    ".wav .wave .w64 .rf64 .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .caf .au .snd .voc".split()
)
"""Suffixes of the audio files that are read, in lower case; with PyAV, `AV_SUFFIXES` as well."""

PHONEMES = tuple(
    "aa ae ah ao aw ax axr ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th "
    "uh uw v w y z zh".split()
)
"""The phonemes of American English by flite's names, without its pause. In a CTC loss the blank
is 0 and phoneme i of this tuple has the id i + 1."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording with known words.

    Attributes:
        start: Start in seconds from the start of the recording.
        end: End in seconds from the start of the recording.
        text: The words.
        phonemes: Names from `PHONEMES`, in order; empty if unknown.
        phoneme_spans: Start and end of each phoneme in seconds from the start of the
            recording; empty if unknown.
    """

    start: float
    end: float
    text: str
    phonemes: tuple[str, ...] = ()
    phoneme_spans: tuple[tuple[float, float], ...] = ()


def find_audio(folders: str | Path | Iterable[str | Path]) -> list[Path]:
    """Find every audio file in folders and their subfolders.

    Args:
        folders: One or several folders or audio files, local or in a bucket (`gs://`, `s3://`).

    Returns:
        The paths in sorted order, each once. Links to folders are followed. Hidden files (names
        that start with a dot, such as unfinished output) are left out. Sounds and videos in other
        formats, or in those of PyAV if it is not installed, links to nothing, and folders that
        cannot be read are counted in a warning.

    Raises:
        ValueError: If a folder does not exist, or nothing is found.
    """
    folders = [folders] if isinstance(folders, str | Path) else list(folders)
    found, skipped = set(), set()
    readable = (*AUDIO_SUFFIXES, *(AV_SUFFIXES if can_use_av() else ()))
    for folder in map(open_path, folders):
        if not folder.exists():
            raise ValueError(f"The audio folder {folder} does not exist; give an existing folder.")
        for path in [folder] if folder.is_file() else _walk(folder):
            suffix = path.suffix.lower()
            if path.name.startswith("."):
                continue
            if suffix in readable and (is_bucket(path) or path.is_file()):
                found.add(path)
            elif suffix in (*AUDIO_SUFFIXES, *AV_SUFFIXES) or _is_media(path):
                skipped.add(path)
    if skipped:
        kinds = sorted(Counter(path.suffix.lower() for path in skipped).items())
        needs_av = any(path.suffix.lower() in AV_SUFFIXES for path in skipped)
        logger.warning(
            "Skipped %d recordings that cannot be read (%s), the first: %s. %s them: ffmpeg -i "
            "INPUT OUTPUT.flac",
            len(skipped),
            ", ".join(f"{suffix}: {count}" for suffix, count in kinds),
            min(skipped),
            "Install PyAV (pip install av), or convert" if needs_av else "Convert",
        )
    if not found:
        names = ", ".join(map(str, folders)) or "an empty list of folders"
        raise ValueError(f"No audio in {names}: expected files ending {', '.join(readable)}.")
    return sorted(found)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, also behind links to folders, each of which once."""
    if is_bucket(folder):
        yield from (path / name for path, _, files in folder.walk() for name in files)
        return
    known = set()

    def warn(error: OSError) -> None:
        logger.warning("%s cannot be read (%s); it is left out.", error.filename, error.strerror)

    for path, folders, files in os.walk(folder, onerror=warn, followlinks=True):
        if (real := os.path.realpath(path)) in known:
            folders.clear()
            continue
        known.add(real)
        yield from (Path(path) / name for name in files)


def _is_media(path: Path) -> bool:
    """Return whether a file's name is that of a sound or a video."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    return kind.startswith(("audio/", "video/"))


def read_durations(paths: Sequence[Path], known: str | Path | None = None) -> list[float]:
    """Return the lengths of recordings in seconds, which takes long for many MP3 files.

    Args:
        paths: The recordings.
        known: JSON file of the lengths that earlier calls read. Recordings whose size and date
            are those of then are not opened again. Defaults to `None`: all are opened.

    Raises:
        ValueError: If a recording cannot be read.
    """
    try:
        kept = dict(json.loads(open_path(known).read_text(encoding="utf-8"))) if known else {}
    except (OSError, ValueError, TypeError):
        kept = {}
    found = {}
    for path in paths:
        about = path.stat()
        version = [about.st_size, about.st_mtime_ns]
        name, entry = str(path.resolve()), kept.get(str(path.resolve()))
        if not (isinstance(entry, list) and entry[:2] == version and len(entry) == 3):
            entry = [*version, read_duration(path)]
        found[name] = entry
    if known and any(kept.get(name) != entry for name, entry in found.items()):
        write_json(known, {**kept, **found})
    return [found[str(path.resolve())][2] for path in paths]


def example_prompt() -> Path:
    """Return the path of a recording of speech that is part of the package.

    Example:

    ```python
    from keras_speechssm.data.corpora import example_prompt

    print(example_prompt().name)  # prompt.flac
    ```
    """
    package = Path(__file__).resolve().parents[1]
    # In a wheel the file is inside the package, in a checkout in `examples/`.
    paths = (package / "prompt.flac", package.parent / "examples" / "prompt.flac")
    return next(path for path in paths if path.is_file())


def example_recordings(attached: str | Path = "/kaggle/input") -> list[Path]:
    """Return recordings for a first try, preferably those of the user.

    Args:
        attached: Folder that is searched for recordings. Defaults to `"/kaggle/input"`, where
            Kaggle puts attached datasets.

    Returns:
        The recordings in `attached`, if there are any; else the recordings of one speaker of
        LibriSpeech's `dev-clean` (7 min, CC BY 4.0), which is downloaded once (338 MB); else,
        without a network, the recording of `example_prompt`.
    """
    try:
        return find_audio(attached)
    except ValueError:
        pass
    import keras

    try:
        folder = keras.utils.get_file(
            origin="https://www.openslr.org/resources/12/dev-clean.tar.gz",
            file_hash="76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
            extract=True,
        )
    except Exception as error:  # `get_file` raises nothing more specific
        logger.warning("LibriSpeech is not available (%s); using the bundled prompt.", error)
        return [example_prompt()]
    return find_audio(sorted(Path(folder).rglob("1272"))[0])


def name_recordings(inputs: Sequence[str | Path]) -> dict[str, Path]:
    """Name recordings by their paths without suffix, in order.

    Args:
        inputs: Folders of recordings, or recordings, local or in buckets. Names are relative to
            a single folder; with several folders, each name begins with the folder's name.
            Single recordings are named by their file names or, if these are equal, by their
            paths below the common parent folder.

    Raises:
        ValueError: If two recordings would have the same name, or `find_audio` raises it.
    """
    names = {}
    files = [path.absolute() for path in map(open_path, inputs) if not path.is_dir()]
    shared = None
    if len({path.stem for path in files}) < len(files):
        shared = Path(os.path.commonpath([path.parent for path in files]))
    for path in map(open_path, inputs):
        for recording in find_audio([path]):
            if path.is_dir() or shared is None:
                inner = recording.relative_to(path if path.is_dir() else path.parent)
            else:
                inner = path.absolute().relative_to(shared)
            if len(inputs) > 1 and path.is_dir():
                inner = Path(path.resolve().name) / inner
            name = inner.with_suffix("").as_posix()
            if name in names:
                raise ValueError(f"{names[name]} and {recording} would both be named {name!r}.")
            names[name] = recording
    return dict(sorted(names.items()))


def read_segments(audio_path: str | Path) -> list[Segment] | None:
    """Read the segments of a recording from the `.json` next to it.

    Args:
        audio_path: Path of the audio file (not of the `.json`).

    Returns:
        The segments in the order of the file; None if there is no `.json`, or one of LibriLight,
        which has no words.

    Raises:
        ValueError: If the `.json` is damaged or has a phoneme that is not in `PHONEMES`.
    """
    sidecar = Path(audio_path).with_suffix(".json")
    if not sidecar.is_file():
        return None
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
        if "voice_activity" in content and "segments" not in content:
            return None
        entries = content["segments"]
        segments = [
            Segment(
                float(entry["start"]),
                float(entry["end"]),
                str(entry.get("text", "")),
                tuple(str(name) for name in entry.get("phonemes", ())),
                tuple((float(a), float(b)) for a, b in entry.get("phoneme_spans", ())),
            )
            for entry in entries
        ]
        if not all(math.isfinite(s.start) and math.isfinite(s.end) for s in segments):
            raise ValueError("not all times are finite numbers")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"The segments in {sidecar} are unreadable ({error!r}); expected "
            '{"segments": [{"start": s, "end": s, "text": ..., "phonemes": [...]}]}.'
        ) from error
    unknown = {name for segment in segments for name in segment.phonemes} - set(PHONEMES)
    if unknown:
        raise ValueError(
            f"{sidecar} holds unknown phonemes {sorted(unknown)}; expected names from "
            "keras_speechssm.data.corpora.PHONEMES."
        )
    return segments


def read_turns(audio_path: str | Path) -> list[tuple[float, float]] | None:
    """Read the turns of speech of a recording from the `.json` next to it.

    Args:
        audio_path: Path of the audio file. Its `.json` has `segments` or, as in LibriLight, a
            list of start and end in seconds under `voice_activity`.

    Returns:
        Spans in seconds, in order; `None` if there is no `.json`.

    Raises:
        ValueError: If the `.json` is damaged.
    """
    sidecar = Path(audio_path).with_suffix(".json")
    segments = read_segments(audio_path)
    if segments is not None:
        return sorted((segment.start, segment.end) for segment in segments)
    if not sidecar.is_file():
        return None
    activity = json.loads(sidecar.read_text(encoding="utf-8"))["voice_activity"]
    try:
        turns = sorted((float(start), float(stop)) for start, stop in activity)
        if not all(math.isfinite(second) for turn in turns for second in turn):
            raise ValueError("not all are finite numbers")
        return turns
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"voice_activity in {sidecar} is unreadable ({error}); expected a list of start and "
            "end in seconds."
        ) from None


def number_and_voice(path: Path) -> tuple[str, str]:
    """Split the name of a synthesized recording, `<number>_<voice>.<suffix>`.

    Raises:
        ValueError: If the name has another form.
    """
    number, separator, voice = path.stem.partition("_")
    if not separator:
        raise ValueError(f"{path} should be named <number>_<voice>{path.suffix}.")
    return number, voice


def recordings_of_speakers(
    speaker_folders: Sequence[str | Path], audio_folders: Sequence[str | Path]
) -> list[tuple[str, Path]]:
    """List recordings with their speakers.

    Args:
        speaker_folders: One folder of recordings per speaker.
        audio_folders: Alternatively, folders of synthesized speech, whose files are named after
            their voices.

    Returns:
        (speaker, path) of each recording, in the order of the folders and of the names.

    Raises:
        ValueError: If both or neither are given, a folder is given twice, or a file is not
            named after a voice.
    """
    if bool(speaker_folders) == bool(audio_folders):
        raise ValueError("Pass either speaker_folders, or audio_folders of synthesized speech.")
    if len({Path(folder).resolve() for folder in speaker_folders}) < len(speaker_folders):
        raise ValueError("speaker_folders has the same folder twice.")
    if speaker_folders:
        return [(str(folder), path) for folder in speaker_folders for path in find_audio([folder])]
    return [(number_and_voice(path)[1], path) for path in find_audio(audio_folders)]
