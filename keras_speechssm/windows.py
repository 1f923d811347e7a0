"""Cut long inputs into overlapping windows, and merge the results.

Arithmetic only: no models and no audio files. Lengths are in tokens; the argument `size` (values
per token) applies the same plan to samples, frames, or tokens.

The paper (sections 3 and 7.3, appendix B.1) tokenizes windows of 30 s that overlap by 4 s, and
cuts the results in the middle of each overlap. A last window that is too short is filled with the
beginning of the recording, never with silence. Silence would leak the end of the recording into
earlier tokens, and a language model trained on such tokens learns to stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from keras_speechssm.checks import to_int
from keras_speechssm.shapes import TOKEN_RATE

TOKENIZER_WINDOW = 30 * TOKEN_RATE
"""Length of a tokenizer window in tokens (750 = 30 s)."""

PROMPT_TOKENS = 3 * TOKEN_RATE
"""Length of the voice prompt before each synthesis window in tokens (75 = 3 s)."""

SYNTHESIS_WINDOW = TOKENIZER_WINDOW - PROMPT_TOKENS
"""Length of a synthesis window in tokens (675 = 27 s; 30 s with the voice prompt)."""

FIRST_WINDOW = 4 * TOKEN_RATE
"""Length of the first of growing synthesis windows in tokens (100 = 4 s); short, for latency."""

OVERLAP = 4 * TOKEN_RATE
"""Number of tokens that neighboring windows share (100 = 4 s)."""


class Window(NamedTuple):
    """A window of a plan. Positions are tokens of the whole sequence.

    Attributes:
        start: Position of the first token of the window.
        keep_start: Start of the part that this window contributes to the result.
        keep_end: End of that part (exclusive).
    """

    start: int
    keep_start: int
    keep_end: int


def growing_windows(window: int, first_window: int = FIRST_WINDOW) -> tuple[int, ...]:
    """Compute the lengths of the first windows of a stream, each twice as long as the one before.

    Args:
        window: Length of all later windows.
        first_window: Length of the first window.

    Returns:
        The lengths below `window`, for `plan_windows` and `StreamingWindows`.

    Example:

    ```python
    from keras_speechssm.windows import growing_windows

    growing_windows(675, 100)  # (100, 200, 400)
    ```
    """
    if first_window < 1:
        raise ValueError(f"first_window is {first_window}; expected at least 1.")
    lengths = []
    while first_window < window:
        lengths.append(first_window)
        first_window *= 2
    return tuple(lengths)


def plan_windows(
    num_tokens: int, window: int, overlap: int, first_windows: Sequence[int] = ()
) -> list[Window]:
    """Plan overlapping windows over a sequence, each keeping its own part.

    With hop H = window - overlap, window k starts at k * H. Neighbors are cut in the middle of
    their overlap, so each kept token that is not near an end of the sequence has at least
    `overlap // 2` tokens of context on each side, or a quarter of a short first window.

    Args:
        num_tokens: Length of the sequence. 0 gives no windows.
        window: Length of a window.
        overlap: Number of tokens that neighbors share; at most half a window.
        first_windows: Lengths of the first windows, in increasing order and at most `window`.
            Short first windows reduce latency. One that is shorter than `2 * overlap` shares
            half of its length with the next. Defaults to none.

    Returns:
        A list of `Window` tuples `(start, keep_start, keep_end)`. Window k covers `window` tokens
        from `start`, or `first_windows[k]`; the last one may extend past the end. The kept parts
        `[keep_start, keep_end)` follow each other from 0 to `num_tokens` without gaps.

    Raises:
        ValueError: A length is out of range.

    Example:

    ```python
    from keras_speechssm.windows import plan_windows

    plan_windows(16, window=10, overlap=4)  # [(0, 0, 8), (6, 8, 16)]
    ```
    """
    if to_int("num_tokens", num_tokens) < 0:
        raise ValueError(f"num_tokens is {num_tokens}; expected 0 or more.")
    windows = StreamingWindows(window, overlap, first_windows)
    return windows.feed(num_tokens) + windows.finish()


@dataclass
class StreamingWindows:
    """Plan windows over a sequence whose length is not known in advance.

    `feed` returns each window as soon as it is complete, which is when one token beyond its end
    has arrived. `finish` returns the last window. Together they equal `plan_windows` of the
    whole sequence, for any sizes of the blocks.

    Args:
        window: Length of a window in tokens.
        overlap: Number of tokens that neighboring windows share; at most half a window.
        first_windows: Lengths of the first windows, see `plan_windows`. Defaults to none.
        num_tokens: Number of tokens that have arrived, to resume a plan. Defaults to `0`.
        num_returned: Number of windows that need not be returned again. Defaults to `0`.

    Raises:
        ValueError: A length is out of range.

    Example:

    ```python
    from keras_speechssm.windows import StreamingWindows

    windows = StreamingWindows(window=10, overlap=4)
    windows.feed(9)  # []
    windows.feed(7)  # [(0, 0, 8)]
    windows.finish()  # [(6, 8, 16)]
    ```
    """

    window: int
    overlap: int
    first_windows: Sequence[int] = ()
    num_tokens: int = 0
    num_returned: int = 0
    _finished: bool = field(default=False, init=False)

    def __post_init__(self):
        window, overlap = to_int("window", self.window), to_int("overlap", self.overlap)
        lengths = np.atleast_1d(np.asarray(self.first_windows, dtype=object))
        first_windows = tuple(to_int("first_windows", length) for length in lengths)
        if window < 1 or overlap < 0 or 2 * overlap > window:
            raise ValueError(
                f"window {window} with overlap {overlap}: expected a window of at least 1 and an "
                "overlap from 0 to half the window."
            )
        if list(first_windows) != sorted(first_windows) or not all(
            1 <= length <= window for length in first_windows
        ):
            raise ValueError(
                f"first_windows {first_windows}: expected lengths from 1 to {window} (the window) "
                "in increasing order."
            )

    @property
    def next_start(self) -> int:
        """Start of the next window. Earlier tokens are no longer needed."""
        growing = min(self.num_returned, len(self.first_windows))
        hops = [self.length_of(k) - self._overlap_after(k) for k in range(growing)]
        return sum(hops) + (self.num_returned - growing) * (self.window - self.overlap)

    @property
    def next_window(self) -> int:
        """Length of the next window if the sequence does not end in it."""
        return self.length_of(self.num_returned)

    @property
    def num_missing(self) -> int:
        """Number of tokens until `feed` returns the next window."""
        return max(0, self.next_start + self.next_window + 1 - self.num_tokens)

    def length_of(self, index: int) -> int:
        """Return the length of a window of the plan."""
        return self.first_windows[index] if index < len(self.first_windows) else self.window

    def _overlap_after(self, index: int) -> int:
        return min(self.overlap, self.length_of(index) // 2)

    def feed(self, num_tokens: int) -> list[Window]:
        """Announce more tokens and return the windows that are now complete.

        Args:
            num_tokens: Number of tokens that have arrived since the last call.

        Raises:
            ValueError: `num_tokens` is negative, or `finish` has been called.
        """
        self._check_not_finished()
        if num_tokens < 0:
            raise ValueError(f"num_tokens is {num_tokens}; expected 0 or more.")
        self.num_tokens += num_tokens
        complete = []
        # One token beyond a window shows that it is not the last.
        while self.next_start + self.next_window < self.num_tokens:
            complete.append(self._next_window(last=False))
        return complete

    def finish(self) -> list[Window]:
        """Announce the end of the sequence and return the last window, if there is one.

        Raises:
            ValueError: `finish` has been called before.
        """
        self._check_not_finished()
        self._finished = True
        return [self._next_window(last=True)] if self.num_tokens else []

    def _next_window(self, last: bool) -> Window:
        start, index = self.next_start, self.num_returned
        keep_start = start + self._overlap_after(index - 1) // 2 if index else 0
        self.num_returned += 1
        keep_end = self.next_start + self._overlap_after(index) // 2
        return Window(start, keep_start, self.num_tokens if last else keep_end)

    def _check_not_finished(self) -> None:
        if self._finished:
            raise ValueError("The stream is finished; create a new StreamingWindows.")


def slice_window(values: np.ndarray, start: int, window: int, size: int = 1) -> np.ndarray:
    """Slice one window, filled from the beginning of the sequence where it extends past the end.

    Args:
        values: The whole sequence, with time on the first axis: (time * size, ...).
        start: First token of the window.
        window: Length of the window in tokens.
        size: Number of values per token, such as 640 for samples at 16 kHz.

    Returns:
        Array (window * size, ...). Positions past the end hold the beginning of the sequence,
        repeated if necessary; never silence.

    Raises:
        ValueError: The window starts outside the sequence.
    """
    values = np.asarray(values)
    if start < 0 or start * size >= len(values):
        raise ValueError(
            f"The window at token {start} is outside a sequence of {len(values)} values "
            f"({size} per token); expected a start inside it."
        )
    piece = values[start * size : (start + window) * size]
    missing = window * size - len(piece)
    if missing == 0:
        return piece
    filling = np.take(values, np.arange(missing) % len(values), axis=0)
    return np.concatenate([piece, filling])


def split_windows(
    values: np.ndarray, plan: Sequence[Window], window: int, size: int = 1
) -> np.ndarray:
    """Stack all windows of a plan into one batch.

    Args:
        values: The whole sequence: (time * size, ...).
        plan: Result of `plan_windows`.
        window: Length of a window in tokens.
        size: Number of values per token.

    Returns:
        Array (len(plan), window * size, ...); each row is that of `slice_window`.

    Raises:
        ValueError: The plan is empty, or a window starts outside the sequence.
    """
    if not plan:
        raise ValueError("The plan has no windows; expected a sequence of at least one token.")
    return np.stack([slice_window(values, start, window, size) for start, _, _ in plan])


def crop_window(values: np.ndarray, window: Window, size: int = 1) -> np.ndarray:
    """Crop the result of a window to the part that it contributes to the whole.

    Args:
        values: Result of the window: (window * size, ...).
        window: The `Window` of the plan.
        size: Number of values per token.

    Returns:
        Array ((keep_end - keep_start) * size, ...).

    Raises:
        ValueError: `values` is too short to contain the kept part.
    """
    start, keep_start, keep_end = window
    if len(values) < (keep_end - start) * size:
        raise ValueError(
            f"The window at token {start} has {len(values)} values, but its kept part ends at "
            f"{(keep_end - start) * size}; pass the whole result of the window."
        )
    return values[(keep_start - start) * size : (keep_end - start) * size]


def merge_windows(
    results: Sequence[np.ndarray], plan: Sequence[Window], size: int = 1
) -> np.ndarray:
    """Concatenate the kept parts of the windows' results.

    Args:
        results: One (window * size, ...) for each window of the plan.
        plan: Result of `plan_windows`.
        size: Number of values per token.

    Returns:
        Array (num_tokens * size, ...).

    Raises:
        ValueError: The number of results differs from the number of windows, or is 0.
    """
    if len(results) != len(plan) or not plan:
        raise ValueError(
            f"{len(results)} results for a plan of {len(plan)} windows; expected one for each, "
            "and at least one."
        )
    return np.concatenate(
        [crop_window(np.asarray(r), window, size) for r, window in zip(results, plan, strict=True)]
    )
