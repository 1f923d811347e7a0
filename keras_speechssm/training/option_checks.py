"""Options of a training run, refused before anything is read, built or written."""

import json
import math
from pathlib import Path

from keras_speechssm.whole_files import write_json


def keep_options(output_dir: str | Path, **options) -> None:
    """Writes a run's options into its folder; a run that goes on must have the same.

    Args:
        output_dir: folder of the run; made if missing.
        **options: what a run cannot change half way, JSON values.

    Raises:
        ValueError: the folder was begun with other options.
    """
    path = Path(output_dir) / "options.json"
    options = json.loads(json.dumps(options))
    if not path.is_file():
        if Path(output_dir).is_file():
            raise ValueError(f"Cannot write a run to {output_dir}: a file lies there.")
        write_json(path, options)
        return
    try:
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(f"{path} is damaged; give another output_dir.") from None
    other = [f"{name} {known.get(name)!r}" for name in options if known.get(name) != options[name]]
    if other:
        raise ValueError(
            f"The run in {output_dir} was begun with {', '.join(other)}: go on with the same, or "
            "give another output_dir."
        )


def check_at_least(least: float, **options: float | None) -> None:
    """Raises `ValueError` for the first option that is below `least` or no finite number.

    Options that are `None` are not given, and pass.
    """
    for name, value in options.items():
        if value is not None and not (math.isfinite(value) and value >= least):
            raise ValueError(f"{name} is {value}; expected {least:g} or more.")


def check_between(low: float, high: float, **options: float | None) -> None:
    """Raises `ValueError` for the first option that does not lie from `low` to `high`."""
    for name, value in options.items():
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name} is {value}; expected {low:g} to {high:g}.")
