"""LibriSpeech-Long: reading the released benchmark (paper, section 4, table 1).

The archive holds `librispeech-long/<split>/<speaker>/<chapter>/<chapter>_<NNNN>.flac` and a
`.txt` of one line beside each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_speechssm.audio import read_duration
from keras_speechssm.data.corpora import find_audio

SPLITS = ("dev-clean", "dev-other", "test-clean", "test-other")


@dataclass(frozen=True)
class LongRecording:
    """One example of the benchmark.

    Attributes:
        name: `<chapter>_<NNNN>`.
        audio: its file.
        split: such as `test-clean`.
        speaker: LibriSpeech's number of the reader.
        chapter: LibriSpeech's number of the chapter.
        text: what is said, as the benchmark spells it.
        seconds: its length.
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
    """Every example of the benchmark, in the order of their paths.

    Args:
        folder: `librispeech-long` of the archive, or the folder that holds it.
        splits: only these. Defaults to `None`: those that there are.

    Raises:
        ValueError: the folder is another, a split is missing, an example has no text or no
            audio, or its text is not one line.
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
    return [_read_example(path, root) for name in wanted for path in _examples(root / name)]


def _examples(split: Path) -> list[Path]:
    audio = find_audio(split)
    heard = {path.with_suffix("") for path in audio}
    silent = sorted(p for p in split.rglob("*.txt") if p.with_suffix("") not in heard)
    if silent:
        raise ValueError(f"{silent[0]} has no audio beside it; unpack the archive again.")
    return audio


def _read_example(path: Path, root: Path) -> LongRecording:
    parts = path.relative_to(root).parts
    if len(parts) != 4 or not path.stem.startswith(f"{parts[2]}_"):
        raise ValueError(
            f"{path} is not where LibriSpeech-Long has its examples: "
            "<split>/<speaker>/<chapter>/<chapter>_<NNNN>.flac."
        )
    text_path = path.with_suffix(".txt")
    if not text_path.is_file():
        raise ValueError(f"{path} has no text {text_path.name} beside it.")
    lines = text_path.read_text(encoding="utf-8").strip().splitlines()
    if len(lines) != 1:
        raise ValueError(f"{text_path} has {len(lines)} lines; expected one.")
    seconds = read_duration(path)
    split, speaker, chapter, _ = parts
    return LongRecording(path.stem, path, split, speaker, chapter, lines[0].strip(), seconds)


def librispeech_long_statistics(
    recordings: Sequence[LongRecording], longer_than: float | None = None
) -> dict[str, dict[str, float]]:
    """The benchmark's sizes, split by split, in the form of the paper's table 1.

    Args:
        recordings: from `read_librispeech_long`.
        longer_than: counts only examples above so many seconds (the paper's 210).

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
