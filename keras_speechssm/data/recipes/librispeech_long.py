"""LibriSpeech-Long: reading the released benchmark, and building it (paper, section 4).

The archive holds `librispeech-long/<split>/<speaker>/<chapter>/<chapter>_<NNNN>.flac` and a
`.txt` of one line next to each.
"""

import ast
import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_speechssm.audio.io import read_audio, read_duration, write_audio
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.data.segmentation import Span
from keras_speechssm.files import atomic_write, remove_partial_files, save_run_config
from keras_speechssm.shapes import SAMPLE_RATE

logger = logging.getLogger(__name__)

SPLITS = ("dev-clean", "dev-other", "test-clean", "test-other")


@dataclass(frozen=True)
class LongRecording:
    """One example of the benchmark.

    Attributes:
        name: `<chapter>_<NNNN>`.
        audio: Path of the audio.
        split: Split, such as `test-clean`.
        speaker: LibriSpeech's number of the reader.
        chapter: LibriSpeech's number of the chapter.
        text: Transcript, as the benchmark spells it.
        seconds: Length in seconds.
    """

    name: str
    audio: Path
    split: str
    speaker: str
    chapter: str
    text: str
    seconds: float


def read_librispeech_long(
    folder: str | Path, splits: Sequence[str] | None = None
) -> list[LongRecording]:
    """Read every example of the benchmark, in the order of their paths.

    Args:
        folder: `librispeech-long` of the archive, or its parent folder.
        splits: Splits to read. Defaults to `None`: all splits in the folder.

    Raises:
        ValueError: If the folder is something else, a split is missing, an example has no
            text or no audio, or its text is not one line.
    """
    root = Path(folder)
    root = root / "librispeech-long" if (root / "librispeech-long").is_dir() else root
    found = [name for name in SPLITS if (root / name).is_dir()]
    wanted = found if splits is None else list(splits)
    missing = [name for name in wanted if name not in found]
    if missing or not found:
        raise ValueError(
            f"{root} has no {', '.join(missing) or 'split of ' + ', '.join(SPLITS)}: expected "
            "librispeech-long/<split>/<speaker>/<chapter>/<chapter>_<NNNN>.flac."
        )
    recordings = []
    for name in wanted:
        audio = find_audio(root / name)
        heard = {path.with_suffix("") for path in audio}
        texts = sorted((root / name).rglob("*.txt"))
        if silent := [path for path in texts if path.with_suffix("") not in heard]:
            raise ValueError(f"{silent[0]} has no audio next to it; unpack the archive again.")
        recordings += [_read_example(path, root) for path in audio]
    return recordings


def _read_example(path: Path, root: Path) -> LongRecording:
    parts = path.relative_to(root).parts
    if len(parts) != 4 or not path.stem.startswith(f"{parts[2]}_"):
        raise ValueError(
            f"{path} is not where LibriSpeech-Long has its examples: "
            "<split>/<speaker>/<chapter>/<chapter>_<NNNN>.flac."
        )
    text_path = path.with_suffix(".txt")
    if not text_path.is_file():
        raise ValueError(f"{path} has no text {text_path.name} next to it.")
    lines = text_path.read_text(encoding="utf-8").strip().splitlines()
    if len(lines) != 1:
        raise ValueError(f"{text_path} has {len(lines)} lines; expected one.")
    seconds = read_duration(path)
    split, speaker, chapter, _ = parts
    return LongRecording(path.stem, path, split, speaker, chapter, lines[0].strip(), seconds)


def librispeech_long_statistics(
    recordings: Sequence[LongRecording], longer_than: float | None = None
) -> dict[str, dict[str, float]]:
    """Return the sizes of the splits in the form of the paper's table 1.

    Args:
        recordings: Examples from `read_librispeech_long`.
        longer_than: Counts only examples longer than this, in seconds (210 in the paper).

    Returns:
        `{split: {"hours", "examples", "mean_seconds", "chapters", "speakers"}}`.
    """
    table = {}
    for split in dict.fromkeys(recording.split for recording in recordings):
        chosen = [
            recording
            for recording in recordings
            if recording.split == split and (longer_than is None or recording.seconds > longer_than)
        ]
        total = sum(recording.seconds for recording in chosen)
        table[split] = {
            "hours": round(total / 3600, 3),
            "examples": len(chosen),
            "mean_seconds": round(total / len(chosen), 2) if chosen else 0.0,
            "chapters": len({(r.speaker, r.chapter) for r in chosen}),
            "speakers": len({r.speaker for r in chosen}),
        }
    return table


@dataclass(frozen=True)
class Chapter:
    """A chapter of `original-mp3` that LibriSpeech uses.

    Attributes:
        speaker: LibriSpeech's number of the reader.
        chapter: LibriSpeech's number of the chapter.
        split: Split of the speaker.
        folder: Folder of `<chapter>.mp3` and the segment files.
        sentences_only: Whether LibriSpeech cut it at sentences, by its utterance map.
    """

    speaker: str
    chapter: str
    split: str
    folder: Path
    sentences_only: bool

    @property
    def audio(self) -> Path:
        """Path of the audio."""
        return self.folder / f"{self.chapter}.mp3"


def agglomerate(segments: Sequence[Span], target_seconds: float) -> list[tuple[int, int]]:
    """Group segments in order up to a target length, with at least one segment per group.

    As in LibriLight's script, a group is closed where one more segment would exceed the
    target. A segment that is longer than the target is a group, and a short rest is kept.
    Lengths count from the first start to the last end, pauses included, because an example is
    contiguous.

    Returns:
        (first, last + 1) of each group.
    """
    groups: list[tuple[int, int]] = []
    first = 0
    for number in range(1, len(segments) + 1):
        is_last = number == len(segments)
        if is_last or segments[number][1] - segments[first][0] > target_seconds:
            groups.append((first, number))
            first = number
    return groups


def find_chapters(
    original_folder: str | Path, splits: Sequence[str]
) -> tuple[list[Chapter], list[str]]:
    """Find the chapters of splits by `SPEAKERS.TXT` and the speakers' utterance maps.

    Returns:
        The chapters, and a reason for each speaker whose map cannot be read.

    Raises:
        ValueError: If the folder is not `original-mp3`, or a split has no speakers.
    """
    root = Path(original_folder)
    root = root / "LibriSpeech" if (root / "LibriSpeech" / "mp3").is_dir() else root
    if not (root / "mp3").is_dir() or not (root / "SPEAKERS.TXT").is_file():
        raise ValueError(
            f"{original_folder} is not LibriSpeech's original-mp3: expected SPEAKERS.TXT and "
            "mp3/<speaker>/<chapter>/<chapter>.mp3."
        )
    speakers = {}
    lines = (root / "SPEAKERS.TXT").read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        cells = [cell.strip() for cell in line.split("|")]
        if not line.startswith(";") and len(cells) >= 3 and cells[0].isdigit():
            speakers[cells[0]] = cells[2]
    unknown = [name for name in splits if name not in speakers.values()]
    if unknown:
        raise ValueError(f"{root / 'SPEAKERS.TXT'} has no speaker of {', '.join(unknown)}.")
    chapters: list[Chapter] = []
    problems: list[str] = []
    for speaker, split in sorted(speakers.items(), key=lambda item: int(item[0])):
        folder = root / "mp3" / speaker
        if split not in splits or not folder.is_dir():
            continue
        try:
            used, sentences_only = _read_utterance_map(folder / "utterance_map.txt")
        except ValueError as error:
            problems.append(f"{speaker}: {error}")
            continue
        chapters += [
            Chapter(speaker, chapter, split, folder / chapter, sentences_only)
            for chapter in sorted(used, key=int)
        ]
    if not chapters and not problems:
        raise ValueError(f"{root / 'mp3'} has no speaker of {', '.join(splits)}.")
    return chapters, problems


def _read_utterance_map(path: Path) -> tuple[set[str], bool]:
    """Return the chapters that LibriSpeech cut, and whether it cut at sentences only."""
    if not path.is_file():
        raise ValueError(f"{path} is missing.")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        # Two lines of header; the first ends in "sentences only: False" or the like.
        sentences_only = bool(ast.literal_eval(lines[0].rsplit(":", 1)[1].strip().capitalize()))
        used = {line.split()[1].split("-")[1] for line in lines[2:] if line.strip()}
        return {str(int(chapter)) for chapter in used}, sentences_only
    except (IndexError, ValueError, SyntaxError):
        raise ValueError(
            f"{path} is damaged: expected two lines of header, the first with a flag, then "
            "`<utterance> <segment>`."
        ) from None


def read_chapter_segments(chapter: Chapter) -> tuple[list[Span], list[str]]:
    """Read the span in seconds and the text of each segment of a chapter.

    Raises:
        ValueError: If a file is missing or damaged, a segment is not a span of the chapter or
            overlaps another by more than half a second, or one has no text.
    """
    kind = ".sents" if chapter.sentences_only else ""
    stem = f"{chapter.speaker}-{chapter.chapter}{kind}"
    times, texts = chapter.folder / f"{stem}.seg.txt", chapter.folder / f"{stem}.trans.txt"
    for path in (chapter.audio, times, texts):
        if not path.is_file():
            raise ValueError(f"{path} is missing.")
    spans = {}
    try:
        for line in filter(str.strip, times.read_text(encoding="utf-8").splitlines()):
            name, start, end = line.split()
            spans[name] = (float(start), float(end))
        said = dict(
            line.split(maxsplit=1)
            for line in texts.read_text(encoding="utf-8").splitlines()
            if line.strip()
        )
    except ValueError:
        raise ValueError(f"{times} or {texts.name} is damaged.") from None
    names = sorted(spans, key=spans.get)
    ordered = [spans[name] for name in names]
    if not ordered or any(not 0 <= start < end < math.inf for start, end in ordered):
        raise ValueError(f"{times} has no segments, or one that ends before it starts.")
    if any(second[0] < first[1] - 0.5 for first, second in itertools.pairwise(ordered)):
        raise ValueError(f"{times} has segments that overlap.")
    silent = [name for name in names if not said.get(name, "").strip()]
    if silent:
        raise ValueError(f"{texts} has no text of {silent[0]}.")
    return ordered, [said[name].strip() for name in names]


def prepare_librispeech_long(
    original_folder: str | Path,
    output_folder: str | Path,
    *,
    splits: Sequence[str] = SPLITS,
    target_seconds: float = 240.0,
    max_skipped: float = 0.02,
) -> dict:
    """Build LibriSpeech-Long from LibriSpeech's original-mp3.

    Writes the layout of the released archive. Chapters that cannot be read, and speakers
    without a readable utterance map, are listed, counted and skipped. If interrupted, run it
    again to resume.

    Args:
        original_folder: `LibriSpeech` of OpenSLR-12's `original-mp3.tar.gz`.
        output_folder: Folder to write.
        splits: Splits to build. Defaults to the four of the benchmark.
        target_seconds: Longest example, unless one segment is longer. Defaults to `240.0`.
        max_skipped: Largest fraction of chapters (and speakers) that may be skipped.

    Returns:
        `{"splits": table 1, "longer_than_210_s": the same of longer examples, "skipped":
        reasons}`.

    Raises:
        ValueError: If the folder does not exist, an option is out of range, the output was
            started with another target, or too many chapters were skipped.
    """
    splits = list(dict.fromkeys(splits))
    if unknown := set(splits) - set(SPLITS):
        raise ValueError(f"splits has {sorted(unknown)[0]!r}; expected {', '.join(SPLITS)}.")
    if not 0 <= max_skipped <= 1:
        raise ValueError(f"max_skipped is {max_skipped}; expected a fraction, 0 to 1.")
    if not 0 < target_seconds < math.inf:
        raise ValueError(f"target_seconds is {target_seconds}; expected more than 0.")
    if Path(output_folder).is_file():
        raise ValueError(f"Cannot write to {output_folder}: it is a file; give a folder.")
    chapters, skipped = find_chapters(original_folder, splits)
    save_run_config(output_folder, target_seconds=target_seconds)
    expected = len(chapters) + len(skipped)
    for reason in skipped:
        logger.warning("Skipped %s", reason)
    _check_skipped(skipped, expected, max_skipped)
    for number, chapter in enumerate(chapters, start=1):
        try:
            count = _write_chapter(chapter, Path(output_folder), target_seconds)
            logger.info(
                "%d of %d chapters: %s-%s, %d examples",
                number,
                len(chapters),
                chapter.speaker,
                chapter.chapter,
                count,
            )
        except ValueError as error:
            skipped.append(f"{chapter.speaker}-{chapter.chapter}: {error}")
            logger.warning("Skipped %s", skipped[-1])
        _check_skipped(skipped, expected, max_skipped)
    recordings = read_librispeech_long(output_folder, splits)
    return {
        "splits": librispeech_long_statistics(recordings),
        "longer_than_210_s": librispeech_long_statistics(recordings, 210.0),
        "skipped": skipped,
    }


def _check_skipped(skipped: Sequence[str], expected: int, max_skipped: float) -> None:
    if len(skipped) > max_skipped * expected:
        raise ValueError(
            f"{len(skipped)} of {expected} chapters cannot be read, more than max_skipped "
            f"{max_skipped:g}: {skipped[0]}"
        )


def _write_chapter(chapter: Chapter, output_folder: Path, target_seconds: float) -> int:
    """Write a chapter's examples unless they exist, and return their number."""
    spans, texts = read_chapter_segments(chapter)
    groups = agglomerate(spans, target_seconds)
    folder = output_folder / chapter.split / chapter.speaker / chapter.chapter
    paths = [folder / f"{chapter.chapter}_{number:04d}.flac" for number in range(len(groups))]
    # The text is written last, so an example with a text is complete.
    if all(path.with_suffix(".txt").is_file() for path in paths):
        return len(paths)
    waveform = read_audio(chapter.audio)
    seconds = len(waveform) / SAMPLE_RATE
    if spans[-1][1] > seconds + 1.0 or spans[-1][0] >= seconds:
        raise ValueError(
            f"{chapter.audio} lasts {seconds:.1f} s, its segments {spans[-1][1]:.1f} s."
        )
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial_files(folder)
    for path, (first, stop) in zip(paths, groups, strict=True):
        start, end = spans[first][0], spans[stop - 1][1]
        write_audio(path, waveform[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)])
        with atomic_write(path.with_suffix(".txt")) as temporary:
            temporary.write_text(" ".join(texts[first:stop]) + "\n", "utf-8")
    return len(paths)
