"""Options of a training run, refused before anything is read, built or written."""

import math


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
