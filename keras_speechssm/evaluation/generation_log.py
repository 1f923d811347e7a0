"""What a folder of continuations knows of its making: `generation.jsonl`, a line an item."""

import json
from pathlib import Path

from keras_speechssm.whole_files import OPTIONS

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
    with open(folder / _NAME, "ab+") as file:
        file.seek(max(0, file.tell() - 1))
        cut = file.read(1) not in (b"", b"\n")  # by a kill
        file.write(("\n" * cut + json.dumps(line) + "\n").encode())


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


def check_options(folder: str | Path, prompt_seconds: float, seconds: float) -> None:
    """Refuses to judge continuations as others than they are: `ValueError`.

    Args:
        folder: of continuations; one that `evaluate generate` did not write passes.
        prompt_seconds: length of the prompts.
        seconds: up to where they are judged, from the start of the prompt.
    """
    options = _read_options(folder)
    prompt, until = options.get("prompt_seconds"), options.get("until_seconds")
    if prompt not in (None, prompt_seconds):
        raise ValueError(f"{folder} goes on from prompts of {prompt:g} s: give prompt_seconds.")
    if until is not None and seconds > until + 1:
        raise ValueError(f"{folder} goes on to {until:g} s: give until_seconds of at most that.")


def read_least_reference(folder: str | Path) -> float:
    """Seconds that had to follow the prompt in a recording; 0 where nothing was noted."""
    return float(_read_options(folder).get("least_reference") or 0.0)


def _read_options(folder: str | Path) -> dict:
    """Of `evaluate generate`; none for others' folders."""
    path = Path(folder) / OPTIONS
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(f"{path} is damaged.") from None


def read_real_time_factor(folder: str | Path) -> float | None:
    """Seconds of generation for each second of audio; `None` where nothing was noted."""
    lines = read_log(folder)
    spoken = sum(line["seconds"] for line in lines)
    return round(sum(line["wall_seconds"] for line in lines) / spoken, 3) if spoken else None
