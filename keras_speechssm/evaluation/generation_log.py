"""What a folder of continuations knows of its making: `generation.jsonl`, a line an item."""

import json
from pathlib import Path

_NAME = "generation.jsonl"


def log_item(folder: Path, item: str, recording: str, seconds: float, wall_seconds: float) -> None:
    """Notes that an item is done.

    Args:
        folder: of the continuations.
        item: its name.
        recording: checksum of the recording that is continued.
        seconds: of audio.
        wall_seconds: that it took.
    """
    line = {
        "item": item,
        "recording": recording,
        "seconds": seconds,
        "wall_seconds": round(wall_seconds, 2),
    }
    with open(folder / _NAME, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_log(folder: str | Path) -> list[dict]:
    """The lines that are whole and of this form; a kill may have cut one."""
    path, lines = Path(folder) / _NAME, []
    if not path.is_file():
        return lines
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            times = {name: float(line[name]) for name in ("seconds", "wall_seconds")}
            lines.append({**line, **times, "item": str(line["item"])})
        except (ValueError, TypeError, KeyError):
            continue
    return lines


def read_real_time_factor(folder: str | Path) -> float | None:
    """Seconds of generation for each second of audio; `None` where nothing was noted."""
    lines = read_log(folder)
    spoken = sum(line["seconds"] for line in lines)
    return round(sum(line["wall_seconds"] for line in lines) / spoken, 3) if spoken else None
