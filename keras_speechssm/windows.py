"""How long inputs are cut into overlapping windows, and how the pieces are merged again.

Arithmetic only: no model, no audio file. Lengths are in tokens; `size` of a token in
samples, frames or tokens turns the same plan into slices of any of them.

The paper (sections 3 and 7.3, appendix B.1) tokenizes windows of 30 s that overlap by
4 s and cuts them together in the middle of the overlap. The last window, where it is
short, is filled with the example's own beginning and never with silence: silence in a
window tells the tokens before it that the end is near, and a language model trained on
such tokens learns to stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from keras_speechssm.shapes import TOKEN_RATE

TOKENIZER_WINDOW = 30 * TOKEN_RATE
"""Tokens in a window of the tokenizer (750, 30 s)."""

PROMPT_TOKENS = 3 * TOKEN_RATE
"""Tokens of voice prompt at the beginning of every synthesis window (75, 3 s)."""

SYNTHESIS_WINDOW = TOKENIZER_WINDOW - PROMPT_TOKENS
"""Tokens of content in a synthesis window (675, 27 s): with the prompt, 30 s."""

OVERLAP = 4 * TOKEN_RATE
"""Tokens that neighboring windows share (100, 4 s)."""


def plan_windows(
    num_tokens: int, window: int, overlap: int, first_window: int | None = None
) -> list[tuple[int, int, int]]:
    """Cuts a sequence into overlapping windows, each keeping its own part.

    With hop H = window - overlap, window k begins at k * H. Neighbors are cut in the
    middle of what they share, so that every kept token that is not near an end of the
    sequence has at least `overlap // 2` tokens of context on each side.

    Args:
        num_tokens: Length of the sequence; 0 gives no windows.
        window: Length of a window.
        overlap: How much neighbors share; at most half a window.
        first_window: Length of the first window, from twice the overlap to `window`: a short
            one is soon there. Defaults to `window`.

    Returns:
        (start, keep_start, keep_end) for each window, as positions in the sequence. The
        window covers [start, start + window), of which the last one may reach past the
        end; the kept parts [keep_start, keep_end) follow each other from 0 to
        `num_tokens` without gap.

    Raises:
        ValueError: If a length is out of range.
    """
    _check(window, overlap, first_window)
    if num_tokens < 0:
        raise ValueError(f"num_tokens is {num_tokens}; expected 0 or more.")
    if num_tokens == 0:
        return []
    hop = window - overlap
    # As if the sequence had begun that much earlier, with tokens that are not there.
    missing = window - (first_window or window)
    reach = num_tokens + missing
    count = 1 if reach <= window else -(-(reach - overlap) // hop)
    starts = [max(0, k * hop - missing) for k in range(count)]
    cuts = [0, *(start + overlap // 2 for start in starts[1:]), num_tokens]
    return [(starts[k], cuts[k], cuts[k + 1]) for k in range(count)]


@dataclass
class StreamingWindows:
    """`plan_windows` for a sequence whose end is not known yet.

    Fed block by block it gives every window as soon as it is decided, that is when all
    its tokens have come and one more, and the last ones at `finish`. Together they equal
    `plan_windows` of the whole, whatever the blocks were.

    Example:

    ```python
    windows = StreamingWindows(window=675, overlap=100)
    for block in blocks:
        for start, keep_start, keep_end in windows.feed(len(block)):
            ...
    for start, keep_start, keep_end in windows.finish():
        ...
    ```

    Args:
        window: Length of a window, in tokens.
        overlap: How much neighbors share; at most half a window.
        first_window: Length of the first window, from twice the overlap to `window`.
            Defaults to `window`.

    Raises:
        ValueError: If a length is out of range.
    """

    window: int
    overlap: int
    first_window: int | None = None
    num_tokens: int = field(default=0, init=False)
    _given: int = field(default=0, init=False)
    _finished: bool = field(default=False, init=False)

    def __post_init__(self):
        _check(self.window, self.overlap, self.first_window)

    @property
    def next_start(self) -> int:
        """Where the next window begins: no token before it is needed any more."""
        missing = self.window - (self.first_window or self.window)
        return max(0, self._given * (self.window - self.overlap) - missing)

    @property
    def next_window(self) -> int:
        """Length of the next window, where the sequence does not end in it."""
        return self.window if self._given else self.first_window or self.window

    def feed(self, num_tokens: int) -> list[tuple[int, int, int]]:
        """Tells that so many more tokens have come; returns the windows now decided.

        Raises:
            ValueError: If the number is negative, or `finish` has been called.
        """
        if self._finished:
            raise ValueError("The stream is finished; make a new StreamingWindows for another.")
        if num_tokens < 0:
            raise ValueError(f"num_tokens is {num_tokens}; expected 0 or more.")
        self.num_tokens += num_tokens
        decided = []
        # One token beyond a window shows that it is not the last.
        while self.next_start + self.next_window < self.num_tokens:
            start, middle = self.next_start, self.overlap // 2
            keep_start = start + middle if self._given else 0
            self._given += 1
            decided.append((start, keep_start, self.next_start + middle))
        return decided

    def finish(self) -> list[tuple[int, int, int]]:
        """Tells that the sequence has ended; returns the last window, if there is one.

        Raises:
            ValueError: If it has been called before.
        """
        if self._finished:
            raise ValueError("The stream is finished; make a new StreamingWindows for another.")
        self._finished = True
        plan = plan_windows(self.num_tokens, self.window, self.overlap, self.first_window)
        return plan[self._given :]


def slice_window(values: np.ndarray, start: int, window: int, size: int = 1) -> np.ndarray:
    """The content of one window, filled from the beginning where the sequence ends in it.

    Args:
        values: The whole sequence, time on the first axis: (time * size, ...).
        start: First token of the window.
        window: Its length in tokens.
        size: How many of `values` one token stands for: 640 for samples at 16 kHz.

    Returns:
        Array (window * size, ...). What lies past the end is the sequence's own
        beginning, again and again if it is shorter than the gap; never silence.

    Raises:
        ValueError: If the sequence is empty or ends before the window begins.
    """
    values = np.asarray(values)
    if start < 0 or start * size >= len(values):
        raise ValueError(
            f"A window at token {start} lies outside a sequence of {len(values)} values "
            f"({size} a token); expected a start inside it."
        )
    piece = values[start * size : (start + window) * size]
    missing = window * size - len(piece)
    if missing == 0:
        return piece
    filling = np.take(values, np.arange(missing) % len(values), axis=0)
    return np.concatenate([piece, filling])


def split_windows(
    values: np.ndarray, plan: Sequence[tuple[int, int, int]], window: int, size: int = 1
) -> np.ndarray:
    """Every window of a plan in one array, ready to be run as a batch.

    Args:
        values: The whole sequence: (time * size, ...).
        plan: From `plan_windows`.
        window: Length of a window in tokens.
        size: How many of `values` one token stands for.

    Returns:
        Array (len(plan), window * size, ...), each as `slice_window` gives it.

    Raises:
        ValueError: If the plan has no windows, or one that lies outside the sequence.
    """
    if not plan:
        raise ValueError("The plan has no windows; expected a sequence of at least one token.")
    return np.stack([slice_window(values, start, window, size) for start, _, _ in plan])


def crop_window(values: np.ndarray, entry: tuple[int, int, int], size: int = 1) -> np.ndarray:
    """What one window contributes to the whole.

    Args:
        values: The window's own result: (window * size, ...).
        entry: Its (start, keep_start, keep_end).
        size: How many of `values` one token stands for.

    Returns:
        Array ((keep_end - keep_start) * size, ...).

    Raises:
        ValueError: If the result is too short to hold the kept part.
    """
    start, keep_start, keep_end = entry
    if len(values) < (keep_end - start) * size:
        raise ValueError(
            f"The window at token {start} has {len(values)} values, but its kept part ends at "
            f"{(keep_end - start) * size}; pass the whole result of the window."
        )
    return values[(keep_start - start) * size : (keep_end - start) * size]


def merge_windows(
    results: Sequence[np.ndarray], plan: Sequence[tuple[int, int, int]], size: int = 1
) -> np.ndarray:
    """Joins the windows' results by a plain cut, as the paper does.

    Args:
        results: One (window * size, ...) for each window of the plan.
        plan: From `plan_windows`.
        size: How many values one token stands for.

    Returns:
        Array (num_tokens * size, ...).

    Raises:
        ValueError: If there are not as many results as windows, or none.
    """
    if len(results) != len(plan) or not plan:
        raise ValueError(
            f"{len(results)} results for a plan of {len(plan)} windows; expected one for each, "
            "and at least one."
        )
    return np.concatenate(
        [crop_window(np.asarray(r), entry, size) for r, entry in zip(results, plan, strict=True)]
    )


def _check(window: int, overlap: int, first_window: int | None = None) -> None:
    if window < 1 or overlap < 0 or 2 * overlap > window:
        raise ValueError(
            f"window {window} with overlap {overlap}: expected a window of at least 1 and an "
            "overlap from 0 to half the window."
        )
    if first_window is not None and not max(1, 2 * overlap) <= first_window <= window:
        raise ValueError(
            f"first_window {first_window}: expected from {max(1, 2 * overlap)}, twice the "
            f"overlap, to {window}, the window."
        )
